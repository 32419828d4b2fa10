"""Exact clusters and near-duplicates of one matrix: one process with one thread and with two, and two Ray nodes.

The driver of the nodes holds no rows, only some numbers for each; its peak of memory is that of a process of
its own, beside that of one that computes all by itself. Labels must be equal to the last.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from result import Section, number

HEADINGS = (
    "what",
    "1 thread, s",
    "2 threads, s",
    "two nodes, s",
    "nodes against 1 thread",
    "against 2 threads",
    "driver, MB",
    "one process, MB",
    "equal",
)
EPS, MIN_SAMPLES, THRESHOLD = 0.2, 3, 0.95
WAYS = ("one", "two", "nodes")


def section(n: int, d: int, turns: int) -> Section:
    """``n`` rows of ``d`` numbers."""
    from nodes import Nodes

    with tempfile.TemporaryDirectory() as made:
        path = Path(made, "rows.npy")
        np.save(path, clustered(n, d))
        rows, told = [], []
        for what in ("dbscan", "near duplicates"):
            found: dict[str, list[dict[str, float | str]]] = {way: [] for way in WAYS}
            with Nodes(
                2, os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
            ) as nodes:
                for _ in range(turns):
                    for way in WAYS:
                        found[way].append(apart(path, what, way, nodes.address, nodes.environment))
            equal = len({one["labels"] for each in found.values() for one in each}) == 1
            seconds = {way: min(float(one["seconds"]) for one in each) for way, each in found.items()}
            peak = {way: min(float(one["peak"]) for one in each) for way, each in found.items()}
            if not equal:
                told.append(f"{what}: labels differ")
            rows.append(
                [
                    f"{what}, {n:,} × {d}",
                    *(number(seconds[way]) for way in WAYS),
                    f"{seconds['one'] / seconds['nodes']:.2f}",
                    f"{seconds['two'] / seconds['nodes']:.2f}",
                    number(peak["nodes"]),
                    number(peak["one"]),
                    "yes" if equal else "NO",
                ]
            )
    return Section("Data-set metrics on two nodes", __doc__ or "", HEADINGS, rows, told, not told)


def clustered(n: int, d: int) -> np.ndarray:
    """Unit rows in bunches of 30 on average, and noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(2, n // 30), d)).astype(np.float32)
    x = centres[rng.integers(len(centres), size=n)]
    x += rng.normal(size=(n, d)).astype(np.float32) * rng.uniform(0, 1, (n, 1)).astype(np.float32)
    unit: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def apart(
    path: Path, what: str, way: str, address: str, environment: dict[str, str]
) -> dict[str, float | str]:
    """``measure`` in a fresh process."""
    command = [sys.executable, __file__, str(path), what, way, address]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(path: Path, what: str, way: str, address: str) -> dict[str, float | str]:
    """Seconds, without connecting and compiling; the most resident memory; and what tells labels apart."""
    from threadpoolctl import threadpool_limits

    from vlitqc_metrics._algorithms.dbscan import dbscan
    from vlitqc_metrics._algorithms.file_rows import FileRows
    from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

    x = np.load(path, mmap_mode="r")
    rows: FileRows | np.ndarray = x
    spread = None
    if way == "nodes":
        import ray

        from vlitqc.executors.ray_spread import RaySpread

        ray.init(address, log_to_driver=False)
        spread, rows = RaySpread(), FileRows(x)

    def labels(x: FileRows | np.ndarray) -> np.ndarray:
        if what == "dbscan":
            return dbscan(x, EPS, MIN_SAMPLES, device="cpu", spread=spread)
        return near_duplicate_groups(x, THRESHOLD, device="cpu", spread=spread)

    with threadpool_limits(2 if way == "two" else 1):
        with tempfile.TemporaryDirectory() as few:
            # What is compiled, is compiled before; on the nodes as well.
            np.save(Path(few, "few.npy"), x[:4096])
            mapped = np.load(Path(few, "few.npy"), mmap_mode="r")
            labels(FileRows(mapped) if spread else mapped)
        started = time.perf_counter()
        found = labels(rows)
        seconds = time.perf_counter() - started
    peak = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line
    )
    digest = hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest()
    return {"seconds": seconds, "peak": peak * 1024 / 1e6, "labels": digest}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), *sys.argv[2:5])))
