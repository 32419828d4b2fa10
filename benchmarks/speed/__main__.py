"""How fast is vlitqc, beside the bare models and beside other tools? Every area in a process of its own, one table.

    python benchmarks/speed                          some 25 minutes on two cores that do nothing else
    python benchmarks/speed --full                   memory at 5 million samples too: 16 GB of disk, an hour more
    python benchmarks/speed --areas dbscan,text
    python benchmarks/speed --quick                  small sizes: only shows that everything runs
    python benchmarks/speed --data DIR               real pictures and captions, those of DIR/joined/*_photos.jsonl
    python benchmarks/speed --write [FILE]           renews benchmarks/RESULTS.md, or writes FILE

Exit 1 where an area failed or a ratio is not as wanted. An area that lacks a tool or a device says so
and is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from row import HEADINGS, Row, Skipped, add_options, cells, from_json, options_of, show
from venvs import environment

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "RESULTS.md"
AREAS = {
    "end_to_end": "whole runs beside the bare forward of their models",
    "pictures": "picture models, from JPEG files to vectors",
    "data_juicer": "the same CLIP over the same pictures by Data-Juicer",
    "text": "texts: parse, sentence encoder, counts",
    "ego_splitting": "Ego-Splitting beside networkx and karateclub",
    "dbscan": "exact DBSCAN beside scikit-learn",
    "memory": "peak memory of what looks at a whole data set",
    "startup": "start of the command, and a run whose features are known",
    "filter": "twelve rules over a run's scores",
    "report": "the page",
}
"""In the order of the table."""
LIMIT, LIMITS, FULL_LIMITS = 900, {"data_juicer": 1800}, {"memory": 4 * 3600}
"""Seconds after which an area counts as failed: any, those that take longer, and with ``--full``."""
OTHER_TOOLS = {"data_juicer": "data-juicer", "ego_splitting": "karateclub"}
"""The environment that an area needs, made before its time begins."""
LIBRARIES = (
    "vlitqc",
    "torch",
    "numpy",
    "numba",
    "scipy",
    "scikit-learn",
    "polars",
    "pyarrow",
    "networkx",
    "spacy",
    "sentence-transformers",
    "transformers",
    "open_clip_torch",
    "pillow",
)
OTHERS = (
    (
        "filter.py",
        "twelve rules over the scores of 5 million records: seconds and memory, beside pandas",
        "docs/filtering.md",
    ),
    (
        "report_page.py",
        "size of the page, and the time to write it, open it and move a threshold",
        "docs/reports.md",
    ),
    (
        "selection.py",
        "time and memory of a selection by scores and vectors, and how they grow",
        "docs/filtering.md",
    ),
    ("inspect_memory.py", "time and memory of `vlitqc inspect` over 2 GB of records", "docs/formats.md"),
    (
        "validity.py --data DIR",
        "whether the metrics of lite measure what they say, on public data",
        "docs/validity.md",
    ),
    (
        "recipes.py --data DIR",
        "precision and recall of the recipes against planted defects",
        "docs/filtering.md",
    ),
    (
        "cluster --data DIR",
        "equal results on Ray nodes, also when one is lost; overhead and scaling",
        "docs/cost_model.md",
    ),
)
"""Command, what it measures, where its last figures are."""


@dataclass
class Outcome:
    """What one area gave."""

    rows: list[Row] = field(default_factory=list)
    skipped: str | None = None
    failed: str | None = None
    seconds: float = 0.0
    others: float = 0.0
    """Cores that were busy with something else meanwhile, on average."""


def run(area: str, options: Sequence[str], limit: float = LIMIT) -> Outcome:
    """Run one area by itself; nothing that happens there ends the others, or outlives ``limit`` seconds."""
    start, busy, own = time.perf_counter(), busy_seconds(), children_seconds()
    call: list[str | Path] = [sys.executable, HERE / f"{area}.py", "--json", *options]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as told,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(call, stdout=told, stderr=errors, start_new_session=True) as area_process,
    ):
        why = None
        try:
            area_process.wait(limit)
        except BaseException as error:
            # With all that it has started, which is of its session.
            os.killpg(area_process.pid, signal.SIGKILL)
            area_process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            why = f"not done after {limit:g} seconds"
        seconds = time.perf_counter() - start
        others = busy_seconds() - busy - (children_seconds() - own)
        told.seek(0)
        errors.seek(0)
        entries = [json.loads(entry) for entry in told if entry.startswith("{") and entry.endswith("}\n")]
        last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
    rows = [from_json(entry) for entry in entries if "area" in entry]
    end = next((entry for entry in entries if "area" not in entry), None)
    if why is None and (end is None or area_process.returncode not in (0, 1)):
        why = f"exit {area_process.returncode}: {last}"
    end = end or {"skipped": None, "failed": None}
    return Outcome(rows, end["skipped"], end["failed"] or why, seconds, max(others / seconds, 0.0))


def busy_seconds() -> float:
    """Processor time of everything on this machine since it started."""
    user, nice, system = (int(ticks) for ticks in _lines("/proc/stat")[0].split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Processor time of what this process has started, and waited for."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def machine() -> dict[str, str]:
    """The machine in words, and how busy it was."""
    cpu = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    total = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    # The driver's own list: torch would take longer to ask than everything else here.
    cards = [
        path.read_text(encoding="utf-8") for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
    ]
    gpus = [
        line.split(":", 1)[1].strip()
        for text in cards
        for line in text.splitlines()
        if line.startswith("Model:")
    ]
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "CPU": cpu[0] if cpu else "unknown",
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{total * 1024 / 1e9:.0f} GB",
        "GPU": ", ".join(gpus) or "none: rows for one are missing",
        "load when it began": f"{os.getloadavg()[0]:.1f}",
        "Python": sys.version.split()[0],
        "libraries": ", ".join(f"{name} {found}" for name in LIBRARIES if (found := _version(name))),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def markdown(where: Mapping[str, str], outcomes: Mapping[str, Outcome], full: bool = False) -> str:
    """The file of results; ``full`` says whether the largest sizes are in it."""
    notes: list[str] = []
    body = []
    for outcome in outcomes.values():
        for row in outcome.rows:
            *shown, note = cells(row)
            if note:
                notes.append(note)
                shown[1] += f" [{len(notes)}]"
            body.append(shown)
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    command = f"python benchmarks/speed{' --full' if full else ''} --write"
    spent = [(area, f"{at.seconds / 60:.1f}", f"{at.others:.1f}") for area, at in outcomes.items()]
    parts = [
        "# Results of the benchmarks\n",
        f"Written by `{command}`; what an area does is at the head of its script. A ratio says "
        "how many times better ours is: ours/theirs of rates, theirs/ours of times and sizes, both of one run.\n",
        _table(("", ""), list(where.items())),
        f"All areas together took {seconds / 60:.0f} minutes.\n",
        _table(HEADINGS[:-1], body),
        *(f"{i}. {note}" for i, note in enumerate(notes, 1)),
    ]
    for title, missing in (("Skipped", _why(outcomes, "skipped")), ("Failed", _why(outcomes, "failed"))):
        if missing:
            parts += [f"\n## {title}\n", *(f"- {area}: {why}" for area, why in missing.items())]
    parts += ["\n## Areas\n", _table(("area", "minutes", "cores that did other work"), spent).rstrip()]
    others = [(f"`python benchmarks/{call}`", what, f"[{at}](../{at})") for call, what, at in OTHERS]
    parts += ["\n## Other benchmarks\n", _table(("command", "measures", "last figures"), others).rstrip()]
    return "\n".join(parts) + "\n"


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in row] for row in body)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _why(outcomes: Mapping[str, Outcome], kind: str) -> dict[str, str]:
    return {area: why for area, outcome in outcomes.items() if (why := getattr(outcome, kind))}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--areas", metavar="A,B,…", help=f"only these: {', '.join(AREAS)}")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE")
    add_options(parser)
    arguments = parser.parse_args()
    areas = arguments.areas.split(",") if arguments.areas else list(AREAS)
    if unknown := sorted(set(areas) - set(AREAS)):
        parser.error(f"no area is called {unknown[0]}; known: {', '.join(AREAS)}")
    if arguments.write == RESULTS and (arguments.quick or arguments.areas):
        parser.error(
            f"{RESULTS.name} holds every area at its full size; name another FILE, or leave out --quick and --areas"
        )
    if arguments.quick and arguments.full:
        parser.error("--quick and --full exclude each other")
    limits = LIMITS | (FULL_LIMITS if arguments.full else {})
    options = [f"--{name}" for name in ("quick", "full") if getattr(arguments, name)]
    for name in ("data", "venvs", "karateclub"):
        if getattr(arguments, name):
            options += [f"--{name}", str(getattr(arguments, name).absolute())]
    where = machine()
    outcomes: dict[str, Outcome] = {}
    progress = Console(stderr=True)
    for area in areas:
        progress.print(f"{area}: {AREAS[area]} …", highlight=False)
        if area in OTHER_TOOLS and not (area == "ego_splitting" and arguments.karateclub):
            with suppress(Skipped):  # the area says so itself
                environment(OTHER_TOOLS[area], options_of(arguments))
        outcomes[area] = outcome = run(area, options, limits.get(area, LIMIT))
        for verb, why in (("skipped", outcome.skipped), ("failed", outcome.failed)):
            if why:
                progress.print(f"  {verb}: {why}", highlight=False, markup=False)
        progress.print(f"  {len(outcome.rows)} rows in {outcome.seconds:.0f} s", highlight=False)
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    if arguments.json:
        told: dict[str, Any] = {"machine": where, "rows": [row.as_json() for row in rows]}
        told |= {kind: _why(outcomes, kind) for kind in ("skipped", "failed")}
        print(json.dumps(told, ensure_ascii=False, indent=1))
    else:
        show(rows)
    if arguments.write:
        arguments.write.write_text(markdown(where, outcomes, arguments.full), encoding="utf-8")
    return int(bool(_why(outcomes, "failed")) or any(row.met is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
