#!/usr/bin/env python3
"""Compute the paper's statistics again from its own tables, beside what it printed.

    python examples/paper_tables/reproduce.py

Table 3, SM and AM: ICC(1,1) and ICC(1,k) of Table 2; the targets are its 10 columns of SEED-Bench scores, the raters
its 3 models. Table 20: Pearson's r and p over 4 data sets, of Table 3's indicators with the means of the 3 models in
Table 2, rounded to one decimal. What does not come out is marked and listed with what is known of the reason.

Exit codes: 0 exactly what README.md says is found (``EXPECTED``), 1 anything else.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import numpy as np

from vlitqc.analysis.correlation import benjamini_hochberg, correlation, intraclass, limits

HERE = Path(__file__).resolve().parent
SCORES = ("Overall", "SU", "II", "IL", "IA", "IC", "SR", "IIR", "VR", "TR")
MODELS = ("LLaVA", "BLIP-2", "OpenFlamingo")
DATA = ("LLaVA", "MIMIC-IT", "Ours", "Ours(QC)")
INDICATORS = {"MD": "MD", "TD": "T", "ID": "I", "RD": "R", "OC": "O/G", "IC": "I_cx", "Bal": "Balance"}
"""Rows of Table 20 → columns of Table 3."""

STARS = ((0.01, "***"), (0.05, "**"), (0.1, "*"))
EXPECTED = {
    "rows that do not come out": ["Ours", "-w/o diversity"],
    "columns that do not come out": ["VR", "TR"],
    "cells that come out": 56,
    "means that would": {"VR": [("MIMIC-IT", 12.0)], "TR": [("MIMIC-IT", 16.5)]},
    "cells that come out with them": 70,
    "number of p < 0.05, smallest q, what survives": {
        "as printed, three decimals": (13, 0.070, []),
        "all digits, from those means": (13, 0.036, ["MD with TR"]),
        "all digits, from Table 2": (12, 0.014, ["MD with TR"]),
    },
}
"""What README.md says is found."""

Row = dict[str, str]


def table(name: str) -> list[Row]:
    with (HERE / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- Table 3


def agreement(scores: list[Row], printed: list[Row]) -> list[str]:
    """Print Table 3's SM and AM; return which rows do not come out."""
    print("Table 3: ICC of 3 models over the 10 columns of Table 2 (95% interval)\n")
    print(f"{'data set':<16} {'SM':>7} {'ICC(1,1)':>9} {'':<17} {'AM':>7} {'ICC(1,k)':>9}")
    lost: list[str] = []
    off: list[str] = []
    why: list[str] = []
    for told in printed:
        ratings = [[float(row[column]) for row in scores if row["data"] == told["data"]] for column in SCORES]
        found = intraclass(ratings)
        assert found.single is not None
        assert found.average is not None
        assert found.single_interval is not None
        sm, am = float(told["SM"]), float(told["AM"])
        apart = max(abs(round(found.single, 4) - sm), abs(round(found.average, 4) - am))
        mark = "" if apart < 5e-5 else "≈" if apart < 1.5e-4 else "≠"
        off += [told["data"]] if mark == "≈" else []
        low, high = found.single_interval
        interval = f"({low:.2f} to {high:.2f})"
        ours = f"{sm:>7.4f} {found.single:>9.4f} {interval:<17} {am:>7.4f} {found.average:>9.4f}"
        print(f"{told['data']:<16} {ours} {mark}".rstrip())
        if mark == "≠":
            lost.append(told["data"])
            apart = abs(3 * sm / (1 + 2 * sm) - am)
            own = "belong to one another, so" if apart < 1e-4 else "contradict one another;"
            why.append(
                f"  {told['data']}: SM and AM as printed {own} their ratings are not those of Table 2."
            )
    rows = len(printed) - len(lost)
    print(
        f"\n{rows} of {len(printed)} rows come out to 1e-4 (≈ off by one in the last digit: {', '.join(off)})."
    )
    print("≠ cannot be reproduced (of 3 raters, AM is 3·SM/(1 + 2·SM)):", *why, sep="\n")
    return lost


# ---------------------------------------------------------------- Table 20


@dataclass(frozen=True)
class Cell:
    """A correlation as Table 20 prints it."""

    r: float
    p: float
    stars: str

    def __str__(self) -> str:
        return f"{self.r:.3f} {f'{self.p:.3f}{self.stars}':<8}"


def cell(x: list[float], y: list[float]) -> tuple[Cell, float]:
    """r and p over the data sets, rounded as in print, and p in all its digits."""
    found = correlation(x, y).pearson
    assert found.value is not None
    assert found.p is not None
    stars = next((stars for limit, stars in STARS if found.p < limit), "")
    return Cell(round(found.value, 3), round(found.p, 3), stars), found.p


def mean(scores: list[Row], data: str, column: str) -> float:
    """Of the three models, rounded to one decimal."""
    values = [Decimal(row[column]) for row in scores if row["data"] == data]
    assert len(values) == len(MODELS)
    return float((sum(values, Decimal()) / len(values)).quantize(Decimal("0.1"), ROUND_HALF_UP))


Cells = dict[tuple[str, str], Cell]
Ps = dict[tuple[str, str], float]


def computed(x: dict[str, list[float]], y: dict[str, list[float]]) -> tuple[Cells, Ps]:
    """Every cell of Table 20, and the p of each."""
    found = {(indicator, column): cell(x[indicator], y[column]) for indicator in x for column in y}
    return {key: one for key, (one, _) in found.items()}, {key: p for key, (_, p) in found.items()}


def repairs(
    x: dict[str, list[float]], y: dict[str, list[float]], printed: Cells, column: str
) -> Iterator[tuple[str, float]]:
    """Each mean of one data set, 0.0 to 100.0 in steps of 0.1, that in place of its own gives the whole column."""
    means = np.arange(1001) / 10
    rows = np.array([x[indicator] for indicator in INDICATORS])
    rows -= rows.mean(axis=1, keepdims=True)
    wanted = np.array([printed[indicator, column].r for indicator in INDICATORS])
    for i, data in enumerate(DATA):
        tried = np.tile(y[column], (len(means), 1))
        tried[:, i] = means
        tried -= tried.mean(axis=1, keepdims=True)
        r = tried @ rows.T / np.sqrt((tried**2).sum(axis=1)[:, None] * (rows**2).sum(axis=1))
        for value in means[(np.abs(r - wanted) < 6e-4).all(axis=1)].tolist():
            changed = [value if k == i else one for k, one in enumerate(y[column])]
            if all(cell(x[each], changed)[0] == printed[each, column] for each in INDICATORS):
                yield data, value


def survivors(title: str, ps: Ps, same: set[tuple[str, str]]) -> tuple[int, float, list[str]]:
    """Print what Benjamini and Hochberg's correction leaves; return how many p < 0.05, the smallest q, what is left."""
    qs = benjamini_hochberg(list(ps.values()))
    held = {key: q for key, q in zip(ps, qs, strict=True) if q <= 0.05}
    told = [
        f"{row} with {column}, q = {q:.3f}{'' if (row, column) in same else ', which cannot be reproduced'}"
        for (row, column), q in held.items()
    ]
    left = (
        f"{len(held)} survive{'s' * (len(held) == 1)}: {'; '.join(told)}"
        if held
        else f"none survives; the smallest q is {min(qs):.3f}"
    )
    by_itself = sum(p < 0.05 for p in ps.values())
    print(f"  {title}: {by_itself} of {len(ps)} p < 0.05, {left}")
    return by_itself, round(min(qs), 3), [f"{row} with {column}" for row, column in held]


def correlations(scores: list[Row], indicators: list[Row], printed_rows: list[Row]) -> dict[str, Any]:
    """Print Table 20; return what of it comes out, would come out, and survives the correction, as EXPECTED."""
    of_data = {row["data"]: row for row in indicators}
    x = {name: [float(of_data[data][column]) for data in DATA] for name, column in INDICATORS.items()}
    y = {column: [mean(scores, data, column) for data in DATA] for column in SCORES}
    printed = {
        (row["indicator"], column): Cell(
            float(row[f"{column}_r"]), float(row[f"{column}_p"]), row[f"{column}_stars"]
        )
        for row in printed_rows
        for column in SCORES
    }
    found, ps = computed(x, y)
    assert found.keys() == printed.keys()
    same = {key for key in found if found[key] == printed[key]}

    print(f"Table 20: Pearson's r and p over {len(DATA)} data sets: {', '.join(DATA)}\n")
    print(f"{'':<14}{''.join(f'{name:<17}' for name in INDICATORS)}".rstrip())
    for column in SCORES:
        keys = [(name, column) for name in INDICATORS]
        paper = "".join(f"{printed[key]!s:<17}" for key in keys)
        here = "".join(f"{found[key]!s:<15}{'' if key in same else '≠':<2}" for key in keys)
        print(f"{column:<8}paper {paper.rstrip()}\n{'':<8}here  {here.rstrip()}")

    print(f"\n{len(same)} of {len(found)} cells come out: r and p to three decimals, and the stars.")
    lost = [key for key in found if key not in same]
    print(f"≠ cannot be reproduced, {len(lost)} cells:")
    for row, column in lost:
        print(f"  {row:<4} {column:<3} paper {printed[row, column]}  here {found[row, column]}".rstrip())

    print("\nWhy: which mean of a data set, 0.0 to 100.0, would give all 7 cells of its column?")
    repaired = dict(y)
    by_column: dict[str, list[tuple[str, float]]] = {}
    for column in sorted({column for _, column in lost}, key=SCORES.index):
        means = by_column[column] = list(repairs(x, y, printed, column))
        own = dict(zip(DATA, y[column], strict=True))
        told = "; ".join(f"{data} {value:.1f} instead of {own[data]:.1f}" for data, value in means)
        print(
            f"  {column}: {told or 'none of a single data set'}{', and no other' if len(means) == 1 else ''}"
        )
        for data, value in means[:1]:
            repaired[column] = [value if each == data else one for each, one in own.items()]
    again, ps_again = computed(x, repaired)
    mended = {key for key in again if again[key] == printed[key]}
    print(f"  With these means {len(mended)} of {len(found)} cells come out.")

    print(f"\nBenjamini–Hochberg over the {len(found)} p-values, at 5%:")
    families = {
        "as printed, three decimals": ({key: printed[key].p for key in found}, same),
        "all digits, from those means": (ps_again, mended),
        "all digits, from Table 2": (ps, same),
    }
    survive = {title: survivors(title, *family) for title, family in families.items()}

    can = limits(len(DATA), len(found))
    assert can.smallest_r is not None
    assert can.smallest_r_alone is not None
    assert can.smallest_spearman_p is not None
    print(f"\nWhat {can.n} data sets can show:")
    print(
        f"  p < 0.05 takes |r| > {can.smallest_r:.3f}; the best of {can.pairs} alone needs {can.smallest_r_alone:.4f}."
    )
    for rho, chance in can.power.items():
        print(f"  Where the true correlation is {rho:g}, {chance:.0%} of such studies find p < 0.05.")
    print(
        f"  Equal orders have p = {can.smallest_spearman_p:.3f} by Spearman: no order of {can.n} is significant."
    )
    return {
        "columns that do not come out": list(by_column),
        "cells that come out": len(same),
        "means that would": by_column,
        "cells that come out with them": len(mended),
        "number of p < 0.05, smallest q, what survives": survive,
    }


def main() -> int:
    scores, indicators, printed = table("table2"), table("table3"), table("table20")
    found: dict[str, Any] = {"rows that do not come out": agreement(scores, indicators)}
    print()
    found |= correlations(scores, indicators, printed)
    other = [what for what in EXPECTED if found[what] != EXPECTED[what]]
    for what in other:
        print(f"reproduce: {what}: expected {EXPECTED[what]}, found {found[what]}", file=sys.stderr)
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
