"""A run's scorecard as Markdown, a section for the card of a data set (``README.md`` on a hub, or a repository).

GitHub's dialect, tables included. Its headings begin at the second level and it has no front matter, so that it can
be pasted below what is there. File names stand for paths: a card is public.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jinja2
from markupsafe import Markup

from vlitqc_reports import wording
from vlitqc_reports.source import ReportableRun

MOST_NAMES = 3
MOST_TASKS = 12
MOST_KINDS = 8
LONGEST = 200
LONGEST_COMMAND = 4_000

_SYNTAX = re.compile(r"([\\`*_\[\]<>&|~#$])")
_AUTOLINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp|www)([:.])")
_BETTER = {True: "higher", False: "lower", None: "–"}


def write_markdown(run: ReportableRun, out: Path) -> Path:
    """Write the scorecard as Markdown to ``out`` and return it. Raises OSError where that cannot be done."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{os.getpid()}.new")
    try:
        draft.write_text(render(run.scorecard), encoding="utf-8")
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return out


def render(card: Mapping[str, Any]) -> str:
    """A scorecard as Markdown: verdict, counts, principles, issues, composition, and how to repeat it.

    Whatever comes from the data is a span of code or escaped, so that it is neither markup nor HTML.
    """
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("vlitqc_reports"),
        autoescape=False,  # noqa: S701 - "finalize" escapes, for another language than HTML
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "code": code,
        "code_cell": code_cell,
        "count": wording.count,
        "label": wording.label,
        "percent": wording.percent,
        "sentence": wording.sentence,
        "size": wording.size,
    }
    metrics = [(p["title"], m) for p in card["principles"] for m in p["metrics"]]
    text = env.get_template("scorecard.md.j2").render(
        card=card,
        counts=card["counts"],
        verdict=card["verdict"],
        names=_names(card["input"]["paths"]),
        lines=[_line(title, metric) for title, metric in metrics],
        reasons=[(m["title"], m["reason"] or "no reason given") for _, m in metrics if m["value"] is None],
        facts=list(_facts({m["name"]: m.get("details") or {} for _, m in metrics})),
        command=fenced(card["command"], "sh"),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def escaped(text: str) -> str:
    """Text for a line of Markdown that shows as it is: no markup, no HTML, no link, no end of a table's cell."""
    line = _AUTOLINK.sub(r"\1\\\2", _SYNTAX.sub(r"\\\1", _one_line(text)))
    # Mail addresses and @names become links once the escapes are gone; only code is left alone.
    return re.sub("@+", r"`\g<0>`", line)


def code(text: str) -> Markup:
    """Text as a span of code, in which nothing is markup; for a table there is ``code_cell``."""
    line = _one_line(str(text)) or "–"
    ticks = "`" * (_longest_run("`", line) + 1)
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return Markup(f"{ticks}{pad}{line}{pad}{ticks}")  # noqa: S704 markup of Markdown, not of HTML


def code_cell(text: str) -> Markup:
    """Text as a span of code in a table, where a bar that no backslash, or a pair of them, precedes ends a cell."""
    return Markup(re.sub(r"(\\*)\|", lambda m: f"{m[1] * 2}\\|", code(text)))  # noqa: S704 as in "code"


def fenced(text: str, language: str) -> Markup:
    """Text as a block of code."""
    shown = wording.plain(wording.clip(text, LONGEST_COMMAND))
    fence = "`" * max(3, _longest_run("`", shown) + 1)
    return Markup(f"{fence}{language}\n{shown}\n{fence}")  # noqa: S704 markup of Markdown, not of HTML


def _finalize(value: Any) -> Any:
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _one_line(text: str) -> str:
    return " ".join(wording.plain(wording.clip(text, LONGEST)).split())


def _longest_run(char: str, text: str) -> int:
    return max(map(len, re.findall(f"{re.escape(char)}+", text)), default=0)


def _listed(codes: Iterable[str]) -> Markup:
    return Markup(", ".join(codes))  # noqa: S704 each is escaped


def _names(paths: Sequence[str]) -> Markup:
    more = [f"{len(paths) - MOST_NAMES:,} more"] if len(paths) > MOST_NAMES else []
    return _listed([*(code(PurePath(path).name or path) for path in paths[:MOST_NAMES]), *more])


def _line(principle: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the table of principles."""
    unit, value, interval = str(metric["unit"]), metric["value"], metric["interval"]
    share = unit in wording.SHARES
    shown = "–"
    if value is not None:
        decimals = wording.span_decimals(*interval) if interval and not float(value).is_integer() else None
        shown = wording.percent(value) if share else wording.number(value, decimals)
    span = None
    if interval:
        low, high = ((100 * low if share else low) for low in interval)
        span = wording.span(low, high) + ("%" if share else "")
    return {
        "principle": principle,
        "title": metric["title"],
        "value": shown,
        "unit": "" if share else wording.unit_words(unit),
        "interval": span,
        "scored": Markup(f"{metric['n_scored']:,} of {metric['n_total']:,}"),  # noqa: S704 numbers
        "better": _BETTER[metric["higher_is_better"]],
    }


def _facts(details: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What the data set is made of, in words."""
    for name, key, title, most in (
        ("task_diversity", "tasks", "Tasks", MOST_TASKS),
        ("composition", "turns", "Turns in a sample", MOST_KINDS),
        ("composition", "images_per_sample", "Pictures in a sample", MOST_KINDS),
        ("composition", "media_kinds", "Kinds of media", MOST_KINDS),
        ("composition", "languages", "Languages", MOST_KINDS),
    ):
        counted = _counted(details.get(name, {}).get(key), most)
        if counted:
            yield title, counted
    made_of = details.get("composition", {})
    for key, title in (
        ("instruction_words", "Words in an instruction"),
        ("response_words", "Words in a response"),
    ):
        spread = wording.quantiles(made_of.get(key))
        if {"p5", "p50", "p95"} <= {*spread}:
            ends = wording.span(spread["p5"], spread["p95"])
            yield title, f"median {wording.number(spread['p50'])}, 5th to 95th percentile {ends}"
    resolution = made_of.get("resolution")
    small = resolution.get("share_below_336") if isinstance(resolution, Mapping) else None
    if small is not None and wording.is_number(small):
        yield "Pictures below 336 px", wording.percent(small)


def _counted(counts: Any, most: int) -> Markup | None:
    """``{label: n}`` in words, most frequent first, each with its share."""
    if not isinstance(counts, Mapping):
        return None
    found = [(str(label), n) for label, n in counts.items() if wording.is_number(n) and n > 0]
    found.sort(key=lambda item: (-item[1], item[0]))
    whole = sum(n for _, n in found)
    rest = [f"{len(found) - most:,} others"] if len(found) > most else []
    told = _listed([*(f"{code_cell(label)} {wording.share(n, whole)}" for label, n in found[:most]), *rest])
    return told or None
