"""Time and memory to write the page of a run; ``benchmarks/report_page.py`` also opens it in a browser."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from row import Options, Row, exponent, main

SCRIPT = Path(__file__).resolve().parents[1] / "report_page.py"
SIZES, QUICK = (5_000, 20_000, 80_000), (100, 200, 400)


def rows(options: Options) -> Iterator[Row]:
    """How the seconds to write the page grow, from three sizes."""
    sizes = QUICK if options.quick else SIZES
    write_run = runpy.run_path(str(SCRIPT))["write_run"]
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for n in sizes:
            home = Path(scratch).resolve() / str(n)
            run = home / "data.vlitqc"
            write_run(home, run, n)
            call: list[str | Path] = [sys.executable, SCRIPT, "--write", run, home / "report.html"]
            found[n] = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
            found[n]["page_mb"] = (home / "report.html").stat().st_size / 1e6
    told = "; ".join(
        f"{n:,}: {at['seconds']:.1f} s, {at['peak_mb']:,.0f} MB, a page of {at['page_mb']:.1f} MB"
        for n, at in found.items()
    )
    grows = exponent(sizes, [at["seconds"] for at in found.values()])
    peak = found[sizes[-1]]["peak_mb"]
    what = f"growth of the time to write a page, up to {sizes[-1]:,} records"
    yield Row("report", what, grows, "exponent", "linear", 1.0, None if options.quick else 1.0, told, peak)


if __name__ == "__main__":
    main(rows)
