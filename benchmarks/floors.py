"""Which floors the profiles recommend, derived from what ``validity.py`` kept of clean and corrupted records.

    python benchmarks/floors.py            prints every candidate: points of clean data, what each would catch
    python benchmarks/floors.py --write    renews metrics/vlitqc_metrics/cards/floors.toml, the floors of
                                           vlitqc/profiles/lite.toml, and the table in docs/validity.md

The rule. A floor is for defects, and dropping sound records by their score makes training data worse, not better. So

* only metrics of readability and correctness have one: a simple question or a plain picture is no defect;
* it costs clean data little: it is the lowest, over the public sets, of their 1% points of clean scores, rounded down
  to two digits, and so drops at most one clean record in a hundred of any of them. The demo data has no say: we made
  it, and its colour wheel is there because it scores as blurred. Three floors at the 5% points would
  together cost every seventh sound record;
* it is worth that: in the set whose point it is, it catches at least one in ten of the records of a corruption that the
  metric is there to notice, at its strongest. Else there is none, and the reason says what it would have caught.

The share caught is exact in the set whose point it is, but for the rounding; in the others the floor lies below the 1%
point, and catches at most the share that is told of it. For the models of paper and modern nothing is measured here:
their floors are those in use elsewhere, with the source, or none.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import validity_tables
from rich.console import Console
from rich.table import Table

from vlitqc import profiles, registry
from vlitqc.types import MetricSpec, Principle

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ROOT / "metrics" / "vlitqc_metrics" / "cards" / "floors.toml"
PROFILES = ROOT / "vlitqc" / "profiles"
PAGE = ROOT / "docs" / "validity.md"
HEADER = """\
# Written by benchmarks/floors.py --write from benchmarks/validity/*.json; the rule is stated there.
# sets: the 1% point of clean scores by set. caught: by corruption of the metric's own, the share of corrupted records
# below the 1% point of the set that the floor comes from, at the strongest strength. measured: the same of every set
# and strength, and for the 5% point, which was not taken.
"""

MEASURED = "lite"
MADE = "demo"
"""The set that we made ourselves."""
POINT = "p01"
LEAST = 0.1
"""A floor catches at least this share of one of the metric's own corruptions at its strongest."""
DEFECTS = (Principle.READABILITY, Principle.CORRECTNESS)
"""Principles of which a low score is a defect of the record."""

IN_USE = {
    (
        "paper",
        "matching_degree",
    ): "a cosine of 0.15 with CLIP ViT-B/32, the low end of the floors in use for web captions "
    "(0.15 to 0.28); not measured here",
    (
        "paper",
        "image_readability",
    ): "below the mean of the distorted pictures in the paper's Table 4 (0.22, MANIQA); not measured here",
}
"""Floors that were not derived: (profile, metric) → where they come from."""

Floors = dict[str, dict[str, Any]]


def candidates(profile: profiles.Profile) -> dict[str, MetricSpec]:
    """The metrics of a profile that score records: those of samples, and others with a column of their name."""
    specs = {name: registry.load_metric(name).spec for name in profile.metrics}
    return {name: spec for name, spec in specs.items() if spec.level == "sample" or name in spec.columns}


def why_never(spec: MetricSpec) -> str | None:
    """Why a metric has no floor whatever is measured, or None."""
    if spec.level == "dataset":
        return "it ranks a record among the pictures of its data set, so some record is always low"
    if spec.higher_is_better is None:
        return "neither end of its scale is a defect"
    if spec.principle not in DEFECTS:
        return "a low value is no defect: sound records are simple, too"
    return None


def rounded_down(value: float) -> float:
    """To two significant digits, never above the value."""
    if not value:
        return 0.0
    digits = 1 - math.floor(math.log10(abs(value)))
    scaled = value * 10.0**digits
    # 0.29 is 28.999999999999996 hundredths.
    return round(math.floor(scaled + 1e-9) / 10.0**digits, max(digits, 0))


def caught(result: Mapping[str, Any], metric: str, point: str) -> dict[str, list[float]]:
    """By corruption of the metric's own under which its score falls: the share beyond the point at each strength."""
    return {
        cell["corruption"]: [step["caught"][point] for step in cell["by_strength"] if step["caught"]]
        for cell in result["cells"]
        if cell["metric"] == metric
        and cell["direction"] == "falls"
        and any(step["caught"] for step in cell["by_strength"])
    }


def derived(spec: MetricSpec, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A metric's floor with its ``point``, or the ``reason`` why it has none; and what was measured."""
    name = spec.name
    known = {
        validity_tables.title(of): result
        for of, result in results.items()
        if name in result["metrics"] and result["metrics"][name]["quantiles"]
    }
    if not known:
        return {"reason": "no set has a score of it"}
    old = next(
        (of for of, result in known.items() if result["metrics"][name]["version"] != spec.version), None
    )
    if old is not None:
        raise ValueError(f"{name}: {old} was measured with another version; run validity.py --write again")
    points = {of: result["metrics"][name]["quantiles"] for of, result in known.items()}
    lowest = min(points, key=lambda of: points[of][POINT])
    shares = {one: steps[-1] for one, steps in caught(known[lowest], name, POINT).items()}
    told = {
        "version": spec.version,
        "sets": {of: points[of][POINT] for of in points},
        "measured": {
            of: {
                "records": result["records"],
                **{point: points[of][point] for point in ("p01", "p05")},
                **{f"caught_{point}": caught(result, name, point) for point in ("p01", "p05")},
            }
            for of, result in known.items()
        },
    }
    if not shares:
        return {"reason": "no corruption that it should notice was measured", **told}
    best = max(shares, key=lambda one: shares[one])
    if shares[best] < LEAST:
        reason = (
            f"at the 1% point of clean data it catches no more than {shares[best]:.0%} (of {best}, {lowest})"
        )
        return {"reason": reason, **told}
    return {
        "floor": rounded_down(points[lowest][POINT]),
        "point": f"the lowest 1% point of clean data, that of {lowest}",
        "caught": shares,
        **told,
    }


def of_measured(results: Mapping[str, Mapping[str, Any]]) -> Floors:
    """The floors of the measured profile. Raises ValueError without a result of it."""
    used = {of: result for of, result in results.items() if result["profile"] == MEASURED and of != MADE}
    if not used:
        raise ValueError(f"no result of the profile {MEASURED} is kept; run validity.py --write first")
    profile = profiles.load(MEASURED)
    found: Floors = {}
    for name, spec in candidates(profile).items():
        why = why_never(spec) or profile.metrics[name].unavailable
        found[name] = {"reason": why} if why else derived(spec, used)
    return found


def of_others(profile: profiles.Profile) -> Floors:
    """The floors of a profile whose models were not measured: those in use elsewhere."""
    found: Floors = {}
    for name, spec in candidates(profile).items():
        entry = profile.metrics[name]
        if entry.floor is not None:
            found[name] = {"floor": entry.floor, "point": IN_USE[profile.name, name]}
        else:
            unmeasured = f"nothing was measured with the models of {profile.name}"
            found[name] = {"reason": why_never(spec) or entry.unavailable or unmeasured}
    return found


def every(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Floors]:
    """What ``floors.toml`` holds, by profile."""
    others = {name: of_others(profiles.load(name)) for name in profiles.names() if name != MEASURED}
    return {MEASURED: of_measured(results), **others}


def in_profile(text: str, floors: Mapping[str, float | None]) -> str:
    """A profile's TOML with these floors, each in the first line of its metric's section, and no others.

    Raises ValueError where a metric has no section.
    """
    text = re.sub(r"^floor = .*\n", "", text, flags=re.MULTILINE)
    for name, floor in floors.items():
        head = f"[metrics.{name}]\n"
        if head not in text:
            raise ValueError(f"the profile has no section [metrics.{name}]")
        if floor is not None:
            text = text.replace(head, f"{head}floor = {floor!r}\n")
    return text


def document(floors: Mapping[str, Mapping[str, Any]]) -> str:
    """The floors of the measured profile as Markdown."""
    given = {name: told for name, told in floors.items() if "floor" in told}
    body = [
        [
            f"`{name}`",
            f"{told['floor']:g}",
            ", ".join(f"{of} {value:.3g}" for of, value in told["sets"].items()),
            ", ".join(f"`{one}` {share:.0%}" for one, share in told["caught"].items()),
        ]
        for name, told in given.items()
    ]
    none = [f"- `{name}`: {told['reason']}" for name, told in floors.items() if "floor" not in told]
    return "\n\n".join(
        [
            f"Profile {MEASURED}: the lowest 1% point of clean data over the public sets, rounded down.",
            validity_tables.table(
                [
                    "metric",
                    "floor",
                    "1% point of clean data",
                    "caught in the lowest set, strongest corruption",
                ],
                body,
            ),
            "No floor:",
            "\n".join(none),
        ]
    )


def shown(floors: Mapping[str, Mapping[str, Any]]) -> Table:
    """Every measured set: its points, and what they would catch at each strength."""
    made = Table(box=None, pad_edge=False)
    for column in ("metric", "floor", "set", "records", "point", "clean"):
        made.add_column(column)
    made.add_column("caught, weakest to strongest", overflow="fold")
    for name, told in floors.items():
        floor = f"{told['floor']:g}" if "floor" in told else "none"
        if "measured" not in told:
            made.add_row(name, floor, "", "", "", "", told["reason"])
        for of, found in told.get("measured", {}).items():
            for point in ("p01", "p05"):
                shares = "; ".join(
                    f"{one} " + " ".join(f"{share:.0%}" for share in steps)
                    for one, steps in found[f"caught_{point}"].items()
                )
                made.add_row(name, floor, of, str(found["records"]), point, f"{found[point]:.4g}", shares)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the candidates; write them."""
    import tomli_w

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    try:
        found = every(validity_tables.stored())
    except ValueError as error:
        parser.error(str(error))
    Console(width=None if sys.stdout.isatty() else 160).print(shown(found[MEASURED]))
    if options.write:
        FLOORS.write_text(HEADER + tomli_w.dumps(found), encoding="utf-8")
        profile = PROFILES / f"{MEASURED}.toml"
        floors = {name: told.get("floor") for name, told in found[MEASURED].items()}
        profile.write_text(in_profile(profile.read_text(encoding="utf-8"), floors), encoding="utf-8")
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(validity_tables.between(page, "floors", document(found[MEASURED])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
