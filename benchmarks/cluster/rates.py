"""What a record costs in each stage, on one core: the numbers from which ``cost_model.py`` computes.

    python benchmarks/cluster/rates.py --data ../shared/data    renews benchmarks/cluster/rates.json; two minutes

The models' times are those of ``run.json``, of two runs of the profile lite that differ in their number of records
alone, on one thread: what the longer one takes longer is no start-up. They are processor time, so other work does
little to them. Reading and sending are measured on the made-up records of ``records.py``, whose file is long
enough, and summaries on the scores of the longer run, many times over; what the data-set metrics cost is what
benchmarks/RESULTS.md and docs/performance.md say.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import records
from place import LLAVA, Place, Ran, markers
from watched import Watched

RATES = Path(__file__).resolve().with_name("rates.json")
RESULTS = RATES.parents[1] / "RESULTS.md"
PERFORMANCE = RATES.parents[2] / "docs" / "performance.md"
IN_PROCESSOR_TIME = """
import time
from vlitqc.engine import clock
clock.perf_counter = time.process_time
from vlitqc.cli import main
main()
"""
"""Runs the command with a clock that stands still while the process waits, also for a processor that others have."""
FEW, MANY = 32, 160
"""Whole shards: of the first a run is warm."""
READ = 20_000
SUMMARISED = 200_000
NOISE = 0.2
"""The share by which two starts of the same model may differ."""


def measure(place: Place, data: Path) -> dict[str, Any]:
    """Seconds and bytes a record, and where they were measured."""
    # The first reads from the disk what the others find in memory.
    _, few, many = (
        place.score(data, name, "--limit", str(n), program=("-c", IN_PROCESSOR_TIME))
        for name, n in (("first", FEW), ("few", FEW), ("many", MANY))
    )
    found = difference(few.info["times"], many.info["times"], many.records - few.records)
    passed = dataset_metrics(RESULTS.read_text(encoding="utf-8"), PERFORMANCE.read_text(encoding="utf-8"))
    passed["passes"] |= {"summaries": summaries(many, place.home / "summaries")}
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("model name")[2].splitlines()[0]
    return {
        "measured": f"{datetime.now(UTC):%Y-%m-%d} on one core of {cpu.strip(' :' + chr(9))}",
        "records": f"{MANY} of LLaVA-Pretrain: a picture of {picture_kb(many):.0f} kB and a caption",
        **found,
        **driver(records.write(place.home / "read", READ)),
        "feature_bytes": round(feature_bytes(many)),
        **passed,
    }


def difference(few: Mapping[str, Any], many: Mapping[str, Any], more: int) -> dict[str, Any]:
    """Seconds a record of each model, of decoding and of the rest of the scoring.

    From the ``times`` of two runs, of which the second has so many records ``more``. Where it took less, by so little
    that start-up may have differed by it (``NOISE``), the stage costs nothing; raises ValueError where it took less
    still.
    """

    def longer(section: str, *names: str) -> float:
        chosen = names or tuple(many[section])
        spent = [sum(float(times[section].get(name, 0.0)) for name in chosen) for times in (few, many)]
        if spent[1] < (1 - NOISE) * spent[0]:
            raise ValueError(f"{section} {', '.join(names)}: more records took less time")
        return round(max(0.0, spent[1] - spent[0]) / more, 6)

    return {
        "models": {name: longer("models", name) for name in many["models"]},
        "decode": longer("decode", "busy"),
        "metrics": longer("metrics"),
        "compare": longer("stages", "compare with what is finished"),
    }


def driver(data: Path) -> dict[str, float]:
    """Seconds a record of reading and recognising it, and of handing it to Ray's store."""
    import ray

    from vlitqc.engine.shards import cut
    from vlitqc.formats import open_input

    started = time.process_time()
    shards = list(cut(open_input(data).records()))
    read = (time.process_time() - started) / READ
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory(prefix="ray-rates-") as folder:
        ray.init(
            "local", num_cpus=1, include_dashboard=False, object_store_memory=300_000_000, _temp_dir=folder
        )
        try:
            ray.put(shards[0])
            started = time.perf_counter()
            for shard in shards:
                ray.put(shard)
            send = (time.perf_counter() - started) / READ
        finally:
            ray.shutdown()
    return {"read": round(read, 8), "send": round(send, 8)}


def summaries(run: Ran, folder: Path) -> float:
    """Processor seconds a record of the scorecard's summaries, each of which reads every shard again.

    The run's own table of scores, again and again, as shards in ``folder``.
    """
    from vlitqc.engine.dataset import sample_summary
    from vlitqc.engine.shards import shard_size

    told = pa.concat_tables(
        [pq.read_table(marker.with_name("scores.parquet")) for marker in markers(run.out)],
        promote_options="permissive",
    )
    names = [name.removesuffix("_reason") for name in told.column_names if name.endswith("_reason")]
    shards: list[Path] = []
    done = 0
    while done < SUMMARISED:
        n = shard_size(len(shards))
        shards.append(folder / f"{len(shards):06d}")
        shards[-1].mkdir(parents=True)
        pq.write_table(told.take(np.arange(n) % len(told)), shards[-1] / "scores.parquet")
        done += n
    started = time.process_time()
    for name in names:
        parts = tuple(
            column.removeprefix(f"{name}_")
            for column in told.column_names
            if column.startswith(f"{name}_") and pa.types.is_floating(told[column].type)
        )
        planned: Any = SimpleNamespace(spec=replace(Watched.spec, name=name, parts=parts), metric=None)
        sample_summary(planned, shards, seed=0)
    return round((time.process_time() - started) / done, 9)


def feature_bytes(run: Ran) -> float:
    """Bytes of vectors a record, as they lie in the shards."""
    return sum(path.stat().st_size for path in run.out.glob("shards/*/features/*.npy")) / run.records


def picture_kb(run: Ran) -> float:
    """Thousands of bytes of a picture, on average."""
    root = Path(run.info["plan"]["image_root"])
    sizes = [path.stat().st_size for path in root.rglob("*.jpg")]
    return sum(sizes) / len(sizes) / 1e3


def dataset_metrics(results: str, performance: str) -> dict[str, Any]:
    """What other benchmarks say of the data-set metrics, as ``cost_model.Rates`` has it."""
    return {
        "passes": passes(results),
        "row_bytes": row_bytes(performance),
        "pair_flops": pair_flops(results),
    }


def passes(results: str) -> dict[str, float]:
    """Seconds a record of each data-set metric, from the rows of RESULTS.md on their rate."""
    found = re.findall(
        r"^\| memory \| (\w+), [\d,]+ samples: data-set pass[^|]*\| ([\d,]+) samples/s", results, re.M
    )
    return {name: round(1 / float(rate.replace(",", "")), 9) for name, rate in found}


def row_bytes(performance: str) -> dict[str, int]:
    """Bytes a record of each data-set metric: what the largest size of the table takes more than that before."""
    found: dict[str, int] = {}
    for line in performance.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and all(cell.endswith(" MB") for cell in cells[1:4]):
            name = cells[0].partition(",")[0].strip("`")
            before, last = (float(cell.removesuffix(" MB").replace(",", "")) for cell in cells[2:4])
            found[name] = round((last - before) * 1e6 / (5_000_000 - 500_000))
    return found


def pair_flops(results: str) -> int:
    """FLOP a second and core of the exact clusters, from the largest size in RESULTS.md."""
    row = re.search(
        r"^\| dbscan \| ([\d,]+) × (\d+) \[\d+\] \| ([\d.]+) s \| scikit-learn[^|]*\| [^|]*\| [^|]*\| ≥",
        results,
        re.M,
    )
    cores = re.search(r"^\| cores \| (\d+) \|", results, re.M)
    if row is None or cores is None:
        raise ValueError("RESULTS.md has no row on exact clusters of the largest size")
    n, d, seconds = int(row[1].replace(",", "")), int(row[2]), float(row[3])
    return round(n * (n - 1) / 2 * 2 * d / seconds / int(cores[1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with real data")
    parser.add_argument("--write", type=Path, default=RATES, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = measure(Place(Path(home)), arguments.data / LLAVA)
    arguments.write.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
