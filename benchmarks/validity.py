"""Does each metric of a profile measure what it says?

    python benchmarks/validity.py --data DIR [--areas demo,flickr8k,…] [--records N]
    python benchmarks/validity.py --data DIR --write      keeps what was found, and renews the tables
    python benchmarks/validity.py --tables-only           renews the tables from what was kept

Two kinds of area. **Sets** (demo, flickr8k, coco, llava, …) are corrupted in controlled ways and scored again, as
``vlitqc validate`` does; each result is kept in ``benchmarks/validity/<set>.json``. **Known** (matching,
image_readability, visual_complexity, granularity) hold lite's scores against what people or file names say of public
data; they are kept in ``benchmarks/validity_known.json``. The tables are ``benchmarks/VALIDITY.md`` and a block of
``docs/validity.md``. Areas whose data is absent below DIR are left out and named. Nothing is fitted to them.

Exit code 1: a metric does not see a corruption of its own, another one moves without an explanation, a requirement of a
known area is missed, or nothing could be measured. A set takes minutes on two cores; ``--areas`` takes one alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import validity_images
import validity_matching
import validity_sets
import validity_tables
import validity_text
from rich.console import Console
from rich.status import Status
from rich.table import Table

from vlitqc.errors import UsageError

Rows = list[dict[str, Any]]

HERE = Path(__file__).resolve().parent
KNOWN = HERE / "validity_known.json"
TABLES = HERE / "VALIDITY.md"
PAGE = HERE.parent / "docs" / "validity.md"

AREAS: dict[str, tuple[str, Callable[[Path], Rows]]] = {
    "matching": ("image-text matching, true vs shuffled captions", validity_matching.matching_table),
    "image_readability": (
        "image readability, Spearman with distortion level",
        validity_images.image_readability_table,
    ),
    "visual_complexity": (
        "visual complexity, Spearman with human scores",
        validity_images.visual_complexity_table,
    ),
    "granularity": (
        "granularity complexity, elements found vs written by hand",
        lambda _: validity_text.granularity_table(),
    ),
}
"""Known areas: title, and ``(folder of public data) → rows``."""

MEASURED = ("spearman", "auc", "auc matching_degree", "equal")
"""The columns that a requirement is about: each row has one."""
RECORDS = 250


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a column ``holds`` where it has a requirement: at most, for a negative one; else at least."""
    required = row.get("required")
    if required is None:
        return {name: value for name, value in row.items() if name not in ("required", "holds")}
    value = next(row[name] for name in MEASURED if name in row)
    return {
        **row,
        "required": required,
        "holds": bool(value <= required if required < 0 else value >= required),
    }


def cell(value: Any) -> str:
    """A number with three decimals, a tick or a cross, or the text as it is."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def columns_of(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def shown(title: str, rows: Rows, seconds: float) -> Table:
    """One known area."""
    made = Table(title=f"{title} ({seconds:.0f} s)", title_justify="left", box=None, pad_edge=False)
    for name in columns_of(rows):
        text = all(isinstance(row.get(name), str | type(None)) for row in rows)
        made.add_column(name, justify="left" if text else "right")
    for row in rows:
        made.add_row(*(cell(row.get(name)) for name in columns_of(rows)))
    return made


def shown_set(name: str, found: Mapping[str, Any], seconds: float) -> Table:
    """A set: every metric under its own corruptions."""
    one = {name: found}
    heading = f"{validity_sets.TITLES.get(name, name)}, {found['records']} records ({seconds:.0f} s)"
    made = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    for column in ("metric", "its own corruption", "AUC at the strongest", "wanted", "holds"):
        made.add_column(column)
    for row in validity_tables.own(one):
        told = row.cells[name]
        wanted = f"{row.wanted:g}" if row.wanted is not None else ""
        text = validity_tables.cell_text(told, spearman=True, mark=False)
        made.add_row(row.metric, row.corruption, text, wanted, cell(told["holds"]))
    return made


def missed(known: Mapping[str, Rows]) -> list[str]:
    """The requirements of known areas that are missed, in words."""
    return [
        f"{AREAS[area][0]}: " + ", ".join(str(value) for value in row.values() if isinstance(value, str))
        for area, rows in known.items()
        for row in rows
        if row.get("holds") is False
    ]


class Told:
    """The experiment's progress, in a line of the terminal."""

    def __init__(self, status: Status, name: str) -> None:
        self._status, self._name, self._stage = status, name, ""

    def stage(self, name: str) -> None:
        self._stage = name
        self._status.update(f"{self._name}: {name}")

    def records(self, done: int, share: float | None) -> None:
        part = f", {share:.0%}" if share is not None else ""
        self._status.update(f"{self._name}: {self._stage}, {done:,} records scored{part}")


def experiment(name: str, data: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The result of ``vlitqc validate`` on a set."""
    from vlitqc.validity.experiment import validate

    with tempfile.TemporaryDirectory(prefix="vlitqc-validity-") as folder, console.status(name) as status:
        source = validity_sets.SETS[name](data, Path(folder))
        found = validate(
            source.file,
            options.profile,
            image_root=source.image_root,
            metrics=source.metrics,
            corruptions=source.corruptions,
            records=source.records or options.records,
            parts=options.parts,
            seed=options.seed,
            lm=source.lm,
            progress=Told(status, name),
        )
    return found.as_json()


def tables(results: Mapping[str, Any], known: Mapping[str, Rows], page: Path, file: Path) -> None:
    """Write the full tables, and renew the block of the page."""
    parts = [
        "# Does each metric measure what it says?",
        "Written by `python benchmarks/validity.py --data DIR --write`; how to read it: "
        "[docs/validity.md](../docs/validity.md).",
        "## Controlled corruption",
        validity_tables.document(results, full=True),
        "## Known scores and levels",
    ]
    for area, rows in known.items():
        names = columns_of(rows)
        body = [[cell(row.get(name)) for name in names] for row in rows]
        parts += [f"### {AREAS[area][0].capitalize()}", validity_tables.table(names, body)]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    block = validity_tables.document(results, full=False)
    page.write_text(validity_tables.between(text, "validity", block), encoding="utf-8")


def read_known() -> dict[str, Rows]:
    """What was kept of known areas."""
    if not KNOWN.exists():
        return {}
    kept = json.loads(KNOWN.read_text(encoding="utf-8"))
    return {area: kept[area] for area in AREAS if area in kept}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if something that is wanted does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder with the public data sets")
    parser.add_argument("--areas", default="", metavar="NAMES", help="some of them, with commas between")
    parser.add_argument("--profile", default="lite", help="of the sets (lite)")
    parser.add_argument("--records", type=int, default=RECORDS, help=f"clean records of a set ({RECORDS})")
    parser.add_argument("--parts", type=int, default=20, help="random halves for data-set metrics (20)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="keep the results and renew the tables")
    parser.add_argument("--tables-only", action="store_true", help="renew the tables from what was kept")
    parser.add_argument("--instructions", type=Path, help="also count the elements of each line of this file")
    options = parser.parse_args(arguments)
    every = [*validity_sets.SETS, *AREAS]
    chosen = [name for name in options.areas.split(",") if name] or every
    unknown = [name for name in chosen if name not in every]
    if unknown:
        parser.error(f"--areas: there is no {unknown[0]}; there are {', '.join(every)}")
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.tables_only:
        results, known = validity_tables.stored(), read_known()
        if not results:
            parser.error(f"--tables-only: no result is kept in {validity_tables.STORED}; run --write first")
        tables(results, known, PAGE, TABLES)
    else:
        if options.data is None or not options.data.is_dir():
            parser.error(f"--data {options.data} is not a folder")
        if options.instructions is not None and not options.instructions.is_file():
            parser.error(f"--instructions {options.instructions} is not a file")
        try:
            results, known = measure(chosen, options, console)
        except UsageError as error:
            parser.error(str(error))
        if options.write:
            kept = {**read_known(), **known}
            KNOWN.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            if validity_tables.stored():
                tables(validity_tables.stored(), kept, PAGE, TABLES)
    if not (results or known):
        console.print("nothing was measured")
        return 1
    wrong = [*validity_tables.failures(results), *missed(known)]
    for line in wrong:
        console.print(f"missed: {line}", markup=False, highlight=False)
    console.print("every limit holds" if not wrong else f"{len(wrong)} limits are missed")
    return 1 if wrong else 0


def measure(
    chosen: Sequence[str], options: argparse.Namespace, console: Console
) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Results by set and rows by known area; each is kept as soon as it is there."""
    results: dict[str, Any] = {}
    known: dict[str, Rows] = {}
    for area in chosen:
        started = time.monotonic()
        try:
            if area in AREAS:
                known[area] = [judged(row) for row in AREAS[area][1](options.data)]
            else:
                results[area] = experiment(area, options.data, options, console)
        except FileNotFoundError as error:
            console.print(f"{area}: left out, {error.filename} is absent\n")
            continue
        seconds = time.monotonic() - started
        if area in AREAS:
            console.print(shown(AREAS[area][0], known[area], seconds), "")
        else:
            console.print(shown_set(area, results[area], seconds), "")
            if options.write:
                console.print(f"kept: {validity_tables.store(area, results[area])}\n")
    if options.instructions is not None:
        file = options.instructions
        rows = validity_text.instruction_table(file)
        console.print(shown(f"granularity complexity of {file.name}", rows, 0.0), "")
    return results, known


if __name__ == "__main__":
    sys.exit(main())
