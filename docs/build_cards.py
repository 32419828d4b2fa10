"""Writes docs/metrics/: a page for each metric of vlitqc, and a table of all of them.

    python docs/build_cards.py                                  writes the pages
    python docs/build_cards.py --check                          exit 1, with the difference, where a page is out of date
    python docs/build_cards.py --validity NAME=FILE.json …      first copies results of vlitqc validate, then writes

The pages are made of what is in the code (MetricSpec, profiles), of the prose in metrics/vlitqc_metrics/cards/, and
of the numbers that scripts put beside it. Of a result of ``vlitqc validate`` the AUC of each metric's own corruptions
is copied into validity.toml, and that of the strongest one that it should not see; NAME is what the pages call the
data set. A result of the same name and profile is replaced, others stay.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlitqc import cards, profiles, registry
from vlitqc.cards import Card, Cell
from vlitqc.profiles import Profile
from vlitqc.types import Principle

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "metrics"
VALIDITY = ROOT / "metrics" / "vlitqc_metrics" / "cards" / "validity.toml"
OURS = "vlitqc"
SHIPPED = ("lite", "paper", "modern")
FORMAT = 1
MADE = "<!-- Written by docs/build_cards.py from the code, the card and the measurements; edit those. -->"
BETTER = {True: " ↑", False: " ↓", None: ""}
_SIGN = re.compile(r"(?<![\w.-])-(?=[\d∞])")
LEVELS = {"sample": "a score for each sample", "dataset": "one value of the data set"}


# ---------------------------------------------------------------- pages


def pages() -> dict[str, str]:
    """The text of every page, by file name."""
    shipped = [profiles.load(name) for name in SHIPPED]
    names = [entry.name for entry in registry.entries(registry.METRICS).values() if entry.owner == OURS]
    found = {name: cards.load(name) for name in names}
    return {
        "index.md": index(list(found.values()), shipped[0]),
        **{f"{name}.md": page(card, shipped) for name, card in found.items()},
    }


def page(card: Card, shipped: Sequence[Profile]) -> str:
    """One metric's page; raises ValueError where it has no card."""
    if card.prose is None:
        raise ValueError(f"{card.spec.name} has no card: metrics/vlitqc_metrics/cards/{card.spec.name}.toml")
    prose = card.prose
    parts = [
        f"# `{card.spec.name}`",
        MADE,
        f"**{card.spec.title}.** {card.spec.summary}",
        facts(card, shipped[0]),
        "## What it measures",
        prose.measures,
        "## Definition",
        f"```text\n{prose.formula}\n```",
        prose.definition,
        "## Models",
        models(card, shipped),
        "## Cost",
        cost(card, shipped),
        "## Validity",
        *validity(card, shipped),
        "## Known failure modes",
        "\n".join(f"- **{sentence(f.short)}** {unwrapped(f.long)}" for f in prose.failures),
        "## Recommended use",
        prose.use,
        "## Floors",
        *floors(card, shipped),
        "## References",
        "\n".join(f"- [{reference.title}]({reference.url})" for reference in prose.references),
    ]
    return "\n\n".join(parts) + "\n"


def facts(card: Card, lite: Profile) -> str:
    """What MetricSpec says, as a table."""
    told = card.spec.as_table()
    number = list(Principle).index(card.spec.principle) + 1
    principle = (
        told["principle"]
        if card.spec.principle is Principle.BEYOND
        else f"{number}, {told['principle'].lower()}"
    )
    rows = [
        ("principle", principle),
        ("level", LEVELS[card.spec.level]),
        ("unit", told["unit"]),
        ("range", told["range"].replace("inf", "∞")),
        ("direction", told["direction"]),
        ("from turns and pictures to samples and the data set", told["reduction"]),
        ("further columns", re.sub(r"\w+_\w+", r"`\g<0>`", told["columns"])),
        ("version", told["version"]),
        ("source", told["source"]),
    ]
    entry = lite.metrics.get(card.spec.name)
    if entry is not None and entry.reference is not None:
        printed = entry.reference
        rows.insert(
            5, ("the paper's models gave", f"{printed['low']:g} to {printed['high']:g} ({printed['source']})")
        )
    return table(("", ""), rows)


def models(card: Card, shipped: Sequence[Profile]) -> str:
    """What computes the metric in each profile."""
    assert card.prose is not None
    rows = []
    for profile in shipped:
        entry = profile.metrics[card.spec.name]
        slots = [profile.models[slot] for slot in entry.models.values() if slot in profile.models]
        rows.append(
            (
                profile.name,
                profiles.served_by(profile, card.spec.name),
                "; ".join(dict.fromkeys(model.licence for model in slots)) or "–",
                ", ".join(f"{key} = {value}" for key, value in entry.options.items()) or "–",
                card.prose.scales.get(profile.name, "as above"),
            )
        )
    return table(("profile", "models", "licence", "options", "unit and range"), rows)


def cost(card: Card, shipped: Sequence[Profile]) -> str:
    """What 1,000 samples cost, profile by profile."""
    where = cards.measured_on(card.spec.name)
    others = [name for name in card.costs if name not in {profile.name for profile in shipped}]
    rows = [(profile.name, str(card.cost(profile))) for profile in shipped]
    rows[1:1] = [(name, str(card.costs[name])) for name in others]
    told = table(("profile", "the metric alone"), rows)
    told = told.replace("docs/cost_model.md", "[cost model](../cost_model.md)")
    if not where:
        return told
    sets = "; ".join(f"{name}: {what}" for name, what in where["sets"].items())
    grows = (
        "\nIts pass over the whole data set is hardly felt in so few records: see [what a large data set takes]"
        "(../cost_model.md#data-set-metrics)."
        if card.spec.level == "dataset"
        else ""
    )
    return (
        f"{told}\n\nMeasured on {where['machine']} with vlitqc {where['vlitqc']}, decoding and all models that the "
        "metric asks\nincluded, start-up and reading the records not. A run asks a model once for all the metrics that "
        "share it.\n"
        f"{sets}.{grows}"
    )


def validity(card: Card, shipped: Sequence[Profile]) -> list[str]:
    """How well the metric tells corrupted from clean, with the reasons where that was not measured."""
    known = {profile.name: profile for profile in shipped}
    measured = {found.profile for found in card.validations for cell in found.own if cell.auc is not None}
    by_halves = card.spec.level == "dataset" and card.spec.name not in card.spec.columns
    rows, notes = [], []
    for found in card.validations:
        # Of a profile in which nothing was measured the reason is told once, below.
        if found.profile in measured or found.profile not in known:
            rows += [
                (found.data, found.profile, *shown(cell, found.records, by_halves)) for cell in found.own
            ]
        if found.off is not None:
            off = found.off
            told = f"`{off.corruption}` moves it most, AUC {interval(off.auc, off.interval)}, whichever the direction"
            notes.append(
                f"- {found.data}, {found.profile}: of the faults that it should not see, "
                f"{'none moves it' if found.unmoved else told}."
            )
        if found.version != card.spec.version:
            notes.append(
                f"- {found.data}, {found.profile}: measured with version {found.version} of the metric, which is now "
                f"{card.spec.version}."
            )
    parts = []
    if rows:
        headings = (
            "data",
            "profile",
            "own fault",
            "AUC",
            "Spearman with strength",
            "of",
            "lost its score",
            "wanted",
        )
        parts.append(table(headings, rows))
        parts.append(
            "AUC: share of (clean, corrupted) pairs in which the corrupted one is worse, at the strongest fault; 95% "
            "bootstrap intervals.\nHow the faults are made: [how well the metrics work](../validity.md)."
        )
    for name, profile in known.items():
        why = f"computed as in {card.same[name]}" if name in card.same else card.why_no_auc(profile)
        if why is not None:
            notes.append(f"- {name}: {why}.")
    return [*parts, "\n".join(notes)] if notes else parts


def shown(cell: Cell, records: int, by_halves: bool) -> tuple[str, ...]:
    """The row of one corruption, of which halves of the records or single ones were compared."""
    told = f"none: {cell.reason or 'no pair'}" if cell.auc is None else interval(cell.auc, cell.interval)
    verdict = {True: ": yes", False: ": **no**", None: ""}[cell.holds]
    return (
        f"`{cell.corruption}`",
        told,
        interval(cell.spearman, cell.spearman_interval),
        f"{cell.n} halves" if by_halves else f"{cell.n} of {records} records",
        f"{cell.became_null:.0%}",
        "–" if cell.wanted is None else f"≥ {cell.wanted:g}{verdict}",
    )


def floors(card: Card, shipped: Sequence[Profile]) -> list[str]:
    """The recommended floors with where they come from, or why there is none."""
    rows, notes = [], []
    for profile in shipped:
        found = card.floor(profile)
        sets = ", ".join(f"{name} {value:.3g}" for name, value in found.sets.items())
        why = f"{found.why} ({sets})" if sets else found.why
        rows.append((profile.name, "–" if found.floor is None else f"{found.floor:g}", why))
        if found.caught:
            caught = ", ".join(f"`{name}` {share:.0%}" for name, share in found.caught.items())
            notes.append(f"Share of corrupted records below the floor of {profile.name}: {caught}.")
    return [table(("profile", "floor", "where it comes from"), rows), *notes]


def index(every: Sequence[Card], lite: Profile) -> str:
    """The table of all metrics."""
    rows = []
    for card in every:
        spec = card.spec
        own = [cell.auc for found in card.validity(lite) for cell in found.own if cell.auc is not None]
        ends = dict.fromkeys(f"{auc:.2f}" for auc in (min(own), max(own))) if own else ["not measured"]
        seconds = list(card.cost(lite).seconds.values())
        floor = card.floor(lite).floor
        rows.append(
            (
                spec.principle.label,
                f"[`{spec.name}`]({spec.name}.md)",
                spec.level.replace("dataset", "data set"),
                f"{spec.unit}{BETTER[spec.higher_is_better]}".strip(),
                " to ".join(ends),
                f"{seconds[0]:g}" if seconds else "–",
                "–" if floor is None else f"{floor:g}",
            )
        )
    headings = (
        "principle",
        "metric",
        "level",
        "unit",
        "AUC on own faults",
        "s for 1,000 samples",
        "floor",
    )
    return "\n\n".join(
        [
            "# All metrics in a table",
            MADE,
            "AUC, cost and floor are those of *lite*: the lowest and highest AUC over the faults that the metric is "
            "for and the\ndata sets that it was tried on, and seconds of one core for the metric alone. ↑: higher "
            "is better, ↓: lower is.\nEach name leads to its card.",
            table(headings, rows),
        ]
    ) + "\n"  # fmt: skip


# ---------------------------------------------------------------- text


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its negative numbers with a minus sign."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = [[_SIGN.sub("−", unwrapped(cell)).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def unwrapped(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def interval(value: float | None, ends: Sequence[float] | None) -> str:
    """A number with its interval."""
    if value is None:
        return "–"
    return f"{value:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


# ---------------------------------------------------------------- results of vlitqc validate


def copied(name: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """What validity.toml keeps of a result; raises ValueError where it is of another format."""
    if result.get("format") != FORMAT:
        raise ValueError(
            f"expected a result of vlitqc validate, format {FORMAT}, found format {result.get('format')}"
        )
    metrics = {}
    for metric, told in result["metrics"].items():
        mine = [cell for cell in result["cells"] if cell["metric"] == metric]
        own = [kept(cell) for cell in mine if cell["role"] == "target"]
        off = [cell for cell in mine if cell["role"] == "off" and cell["auc"] is not None]
        body: dict[str, Any] = {"version": told["version"], "own": own}
        if off:
            body["off"] = kept(max(off, key=lambda cell: float(cell["auc"])))
        if own or off:
            metrics[metric] = body
    taken = {key: result[key] for key in ("vlitqc", "profile", "records", "parts", "seed")}
    return {"data": name, **taken, "metrics": metrics}


def kept(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a cell that a card shows; TOML has no null, so what is none is left out."""
    names = (
        "corruption",
        "direction",
        "n",
        "became_null",
        "auc",
        "interval",
        "spearman",
        "spearman_interval",
        "holds",
    )
    found = {key: cell[key] for key in (*names, "reason") if cell.get(key) is not None}
    wanted = (cell.get("wanted") or {}).get("at_least")
    return {**found, **({"wanted": wanted} if wanted is not None else {})}


def record(results: Mapping[str, Mapping[str, Any]], file: Path = VALIDITY) -> None:
    """Put results, by the name of their data set, into the file of validity numbers."""
    import tomli_w

    old = tomllib.loads(file.read_text(encoding="utf-8"))["measured"] if file.is_file() else []
    new = [copied(name, result) for name, result in results.items()]
    replaced = {(run["data"], run["profile"]) for run in new}
    measured = [run for run in old if (run["data"], run["profile"]) not in replaced] + new
    header = "# Written by docs/build_cards.py --validity from results of vlitqc validate.\n"
    file.write_text(header + tomli_w.dumps({"measured": measured}), encoding="utf-8")


# ---------------------------------------------------------------- command line


def differences(made: Mapping[str, str], folder: Path = PAGES) -> list[str]:
    """What is out of date, as lines of a diff."""
    found: list[str] = []
    here = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    for name in sorted({*here, *made}):
        old, new = here.get(name, ""), made.get(name, "")
        if old != new:
            lines = (old.splitlines(), new.splitlines())
            found += difflib.unified_diff(*lines, f"docs/metrics/{name}", "as it should be", lineterm="", n=0)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 where a page is out of date"
    )
    parser.add_argument(
        "--validity", nargs="+", default=[], metavar="NAME=FILE", help="results of vlitqc validate"
    )
    options = parser.parse_args(arguments)
    results = {}
    for text in options.validity:
        name, separator, file = text.partition("=")
        if not name or not separator:
            parser.error(f"--validity {text}: expected NAME=FILE.json, such as Flickr8k=validity.json")
        try:
            results[name] = json.loads(Path(file).read_text(encoding="utf-8"))
            copied(name, results[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            parser.error(f"--validity {text}: {error!r}")
    if results:
        record(results)
    made = pages()
    stale = differences(made)
    if options.check:
        for line in stale:
            print(line)
        if stale:
            print("docs/metrics is out of date; run: python docs/build_cards.py", file=sys.stderr)
        return 1 if stale else 0
    PAGES.mkdir(exist_ok=True)
    for path in PAGES.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        (PAGES / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
