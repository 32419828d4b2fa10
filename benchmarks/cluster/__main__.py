"""Is a Ray cluster as right as one process, and what does it cost? Real nodes, each a process, on this machine.

    python benchmarks/cluster                         under 20 minutes on two cores that do nothing else
    python benchmarks/cluster --data ../shared/data   with 160 records of LLaVA-Pretrain, where they are there
    python benchmarks/cluster --parts same,bands
    python benchmarks/cluster --quick                 small sizes: only shows that everything runs
    python benchmarks/cluster --write [FILE]          renews benchmarks/cluster/RESULTS.md, or writes FILE

Needs vlitqc[ray]. Exit 1 where results differ.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import equal
import overhead
import records
import shared_bands
from place import LLAVA, Place
from result import Section, table

RESULTS = Path(__file__).resolve().with_name("RESULTS.md")
PARTS = ("same", "overhead", "bands")
SYNTHETIC = ("--batch-size", "512")
"""More of the repeated questions meet in one batch, so that the whole profile lite takes minutes on one core."""

SMALL = ("--batch-size", "8")
"""Several batches a shard, so that there is a middle in which a node can be lost."""


def sections(arguments: argparse.Namespace, place: Place) -> Iterator[Section]:
    quick = arguments.quick
    mixed = records.write(place.home / "mixed", 600 if quick else 20_000)
    if "same" in arguments.parts:
        yield equal.section(place, sets(arguments.data, mixed))
    if "overhead" in arguments.parts:
        pictures = records.write(place.home / "pictures", 96 if quick else 320, every=1)
        counts = (96, 96, 160) if quick else (640, 320, 384)
        named = dict(zip(("mixed", "pictures", "made up"), counts, strict=True))
        files = {"mixed": mixed, "pictures": pictures}
        yield overhead.section(place, files, named, 1 if quick else 2)
    if "bands" in arguments.parts:
        yield shared_bands.section(20_000 if quick else 100_000, 64, 1 if quick else 2)


def sets(data: Path | None, mixed: Path) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    if data:
        yield "LLaVA-Pretrain, lite", data / LLAVA, SMALL
    yield "synthetic, lite", mixed, SYNTHETIC


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with real data")
    parser.add_argument("--parts", metavar="A,B,…", default=PARTS, type=lambda told: told.split(","))
    parser.add_argument("--quick", action="store_true", help="small sizes: only shows that it runs")
    parser.add_argument("--home", type=Path, metavar="DIR", help="where to make the data and the runs")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"no part is called {unknown[0]}; known: {', '.join(PARTS)}")
    if arguments.write == RESULTS and (arguments.quick or set(arguments.parts) != set(PARTS)):
        parser.error(f"{RESULTS.name} holds every part at its full size; name another FILE")
    if arguments.data and not (arguments.data / LLAVA).is_file():
        parser.error(f"{arguments.data} has no {LLAVA}")
    # Also a run that is told to end leaves no node behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started, load = time.monotonic(), os.getloadavg()[0]
    found = []
    with tempfile.TemporaryDirectory(dir=arguments.home) as home:
        for section in sections(arguments, Place(Path(home))):
            print(section.markdown(), flush=True)
            found.append(section)
    if arguments.write:
        minutes = (time.monotonic() - started) / 60
        arguments.write.write_text(whole(found, minutes, load), encoding="utf-8")
    return int(not all(section.met for section in found))


def whole(found: list[Section], minutes: float, load: float) -> str:
    """The file of results."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].splitlines()[0]
    where = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "CPU": cpu.lstrip("\t :"),
        "cores": str(len(os.sched_getaffinity(0))),
        "load when it began": f"{load:.1f}",
        "libraries": ", ".join(f"{name} {version(name)}" for name in ("vlitqc", "ray", "torch", "numpy")),
        "minutes": f"{minutes:.0f}",
    }
    head = (
        "# Results of the benchmarks on Ray\n\nWritten by `python benchmarks/cluster --data DIR --write`.\n"
    )
    return "\n".join([head, table(("", ""), list(where.items())), *(each.markdown() for each in found)])


if __name__ == "__main__":
    sys.exit(main())
