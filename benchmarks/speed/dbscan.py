"""Exact DBSCAN beside scikit-learn's and beside the matrix product that no exact method is spared.

The rows are unit vectors like those of a sentence encoder: groups of a dozen around centres of their own, wider and
narrower, in directions of unequal weight and all around a common one. Labels must be scikit-learn's. The product is
that of the same tiles, on all cores, with nothing read.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN
from threadpoolctl import threadpool_limits

from row import Options, Row, exponent, interleaved, main
from vlitqc_metrics._algorithms.dbscan import dbscan, label_rows
from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups
from vlitqc_metrics._algorithms.tiles import BLOCK, PairTest, TiledRows

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float32]

EPS, MIN_SAMPLES = 0.25, 3
DENSE = 0.9
"""Beyond this cosine distance lie hardly any two of the rows: nearly every pair is one of neighbours."""
MOST_MB = 300.0
MODES = ("euclidean brute", "cosine brute", "euclidean ball_tree", "euclidean kd_tree")


def rows(options: Options) -> Iterator[Row]:
    sizes = (1000, 2000, 3000) if options.quick else (10_000, 20_000, 50_000)
    n, d = sizes[-1], 32 if options.quick else 384
    cores = len(os.sched_getaffinity(0))
    mode, trial = best_mode(unit_rows(sizes[0] // 5, d), unit_rows(sizes[0], d))
    dbscan(unit_rows(BLOCK + 1, d), EPS, MIN_SAMPLES)  # compiles

    times, products = [], []
    for size in sizes:
        x = unit_rows(size, d)
        labels: dict[str, NDArray[np.int64]] = {}
        ours, product = interleaved(
            3 if size < n or options.quick else 2, partial(ours_of, x, labels), partial(multiply, x, cores)
        )
        times.append(ours)
        products.append(product)
        start = time.perf_counter()
        theirs = sklearn_labels(x, mode)
        took = time.perf_counter() - start
        assert np.array_equal(labels["ours"], theirs), f"labels of {size} rows are not scikit-learn's"
        note = f"equal labels, {labels['ours'].max() + 1:,} clusters, {(labels['ours'] < 0).mean():.0%} noise"
        yield Row(
            "dbscan",
            f"{size:,} × {d}",
            ours,
            "s",
            f"scikit-learn, {mode}, {cores} jobs",
            took,
            3.0 if size == n else None,
            f"{note}; {trial}" if size == n else note,
        )
        if size == n:
            yield Row(
                "dbscan",
                f"{n:,} × {d}",
                ours,
                "s",
                "the matrix product alone",
                product,
                1 / 1.5,
            )
    yield Row(
        "dbscan",
        f"growth from {sizes[0]:,} to {n:,} rows",
        exponent(sizes, times),
        "exponent",
        "the matrix product alone",
        exponent(sizes, products),
        0.9,
    )

    x, three = unit_rows(sizes[1], d), three_groups(sizes[1], d)
    dense, apart, near, product = interleaved(
        2 if options.quick else 5,
        lambda: dbscan(x, DENSE, MIN_SAMPLES),
        lambda: dbscan(three, EPS, MIN_SAMPLES),
        lambda: near_duplicate_groups(x, 0.9),
        lambda: multiply(x, cores),
    )
    what = f"{sizes[1]:,} × {d}"
    for rows_of, eps, took, note in (
        (x, DENSE, dense, "all in one cluster, whose tiles are left out as soon as that is known"),
        (three, EPS, apart, "three clusters by turns, so that every tile has rows of all"),
    ):
        share = f"{neighbour_share(rows_of, eps):.0%} of pairs neighbours"
        yield Row("dbscan", f"{what}, {share}", took, "s", "the matrix product alone", product, 1 / 1.5, note)
    yield Row("near duplicates", what, near, "s", "the matrix product alone", product, 1 / 1.5)

    for eps, name in ((EPS, "clusters"), (DENSE, "dense")):
        extra, peak = in_child(n, d, eps)
        yield Row(
            "dbscan",
            f"{n:,} × {d}, {name}: memory beyond the rows",
            extra,
            "MB",
            "most allowed",
            MOST_MB,
            1.0,
            peak_mb=peak,
        )
    yield float16_row(options)


def three_groups(n: int, d: int) -> NDArray[np.float32]:
    """Unit rows that lie, by turns, in three groups with a cosine of some 0.9 within and 0 between them."""
    x = np.random.default_rng(3).standard_normal((n, d), np.float32) / np.float32(np.sqrt(d))
    x[np.arange(n), np.arange(n) % 3] += 3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def float16_row(options: Options) -> Row:
    """The float16 path: on a GPU a million rows, their product the limit; without one, that it runs."""
    import torch

    from vlitqc_metrics._algorithms.half_tiles import HalfTiles

    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    n, d, checked = (1_000_000, 768, 50_000) if on_gpu and not options.quick else (2000, 64, 2000)
    x = unit_rows(n, d)
    small = HalfTiles(TiledRows(x[:checked], "cosine"), device)
    labels = label_rows(small, checked, PairTest.COSINE_DISTANCE, EPS, MIN_SAMPLES)
    assert np.array_equal(labels, dbscan(x[:checked], EPS, MIN_SAMPLES, device="cpu")), (
        "labels are not the CPU's"
    )
    tiles = HalfTiles(TiledRows(x, "cosine"), device)
    ours, product = interleaved(
        2,
        lambda: label_rows(tiles, n, PairTest.COSINE_DISTANCE, EPS, MIN_SAMPLES),
        lambda: multiply_half(tiles.half),
    )
    note = f"labels of {checked:,} rows equal the CPU's; " + (
        torch.cuda.get_device_name()
        if on_gpu
        else "no GPU here: the code path is tested on the CPU, not its speed"
    )
    return Row(
        "dbscan",
        f"{n:,} × {d}, float16 on {device}",
        ours,
        "s",
        "the float16 product alone",
        product,
        None,
        note,
    )


def unit_rows(n: int, d: int, seed: int = 0) -> Array:
    """Groups of a dozen unit rows each, and every row its own distance from the centre."""
    rng = np.random.default_rng(seed)
    weight = np.arange(1, d + 1, dtype=np.float32) ** -0.3
    common = directions(rng, 1, np.ones(d, dtype=np.float32))

    centres = directions(rng, max(1, n // 12), weight)
    x = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, 8192):
        part = x[start : start + 8192]
        part[:] = directions(rng, len(part), weight)
        part *= rng.uniform(0.2, 1.2, size=(len(part), 1)).astype(np.float32)
        part += centres[rng.integers(len(centres), size=len(part))]
        part += np.float32(0.3) * common
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return x


def directions(rng: np.random.Generator, n: int, weight: Array) -> Array:
    drawn = rng.standard_normal((n, len(weight)), dtype=np.float32) * weight
    unit: Array = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def ours_of(x: Array, labels: dict[str, NDArray[np.int64]]) -> None:
    labels["ours"] = dbscan(x, EPS, MIN_SAMPLES, device="cpu")


def sklearn_labels(x: Array, mode: str) -> NDArray[np.int64]:
    """scikit-learn's labels; on unit rows a cosine distance is half the square of the Euclidean one."""
    metric, algorithm = mode.split()
    eps = EPS if metric == "cosine" else math.sqrt(2 * EPS)
    fitted = DBSCAN(eps=eps, min_samples=MIN_SAMPLES, metric=metric, algorithm=algorithm, n_jobs=-1).fit(x)
    labels: NDArray[np.int64] = fitted.labels_
    return labels


def best_mode(few: Array, more: Array) -> tuple[str, str]:
    """The fastest of scikit-learn's exact modes, and what each took.

    Only those that need at most three times the least on ``few`` rows are tried on ``more``, where they are compared.
    """
    took = mode_times(few, MODES, 1)
    last = mode_times(more, [mode for mode in MODES if took[mode] <= 3 * min(took.values())], 2)
    told = [
        f"at {len(x):,} rows " + ", ".join(f"{mode} {seconds:.2g} s" for mode, seconds in times.items())
        for x, times in ((few, took), (more, last))
    ]
    return min(last, key=lambda mode: last[mode]), "; ".join(told)


def mode_times(x: Array, modes: Sequence[str], repeats: int) -> dict[str, float]:
    """Seconds that scikit-learn takes in each mode, the best of ``repeats``."""
    return dict(
        zip(modes, interleaved(repeats, *(partial(sklearn_labels, x, mode) for mode in modes)), strict=True)
    )


def multiply(x: Array, threads: int) -> None:
    """The products of all tiles on and above the diagonal, with nothing read."""
    buffers = [np.empty((BLOCK, BLOCK), dtype=np.float32) for _ in range(threads)]

    def product(starts: tuple[int, int]) -> None:
        out = buffers.pop()
        a, b = (x[start : start + BLOCK] for start in starts)
        np.matmul(a, b.T, out=out.reshape(-1)[: len(a) * len(b)].reshape(len(a), len(b)))
        buffers.append(out)

    tiles = [(i, j) for i in range(0, len(x), BLOCK) for j in range(i, len(x), BLOCK)]
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(product, tiles))


def multiply_half(half: torch.Tensor) -> None:
    """The same in float16, in the tiles of ``half_tiles``."""
    import torch

    from vlitqc_metrics._algorithms.half_tiles import HALF_BLOCK

    for i in range(0, len(half), HALF_BLOCK):
        for j in range(i, len(half), HALF_BLOCK):
            half[i : i + HALF_BLOCK] @ half[j : j + HALF_BLOCK].T
    if half.is_cuda:
        torch.cuda.synchronize()


def neighbour_share(x: Array, eps: float) -> float:
    """The share of pairs within ``eps``, of a thousand rows."""
    part = x[:1000]
    return float((part @ part.T >= 1 - eps).mean())


def in_child(n: int, d: int, eps: float) -> tuple[float, float]:
    """Resident megabytes that ``dbscan`` adds at its highest, and those of the whole process then."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(added_memory, (n, d, eps))


def added_memory(n: int, d: int, eps: float) -> tuple[float, float]:
    x = unit_rows(n, d)
    dbscan(x[:BLOCK], eps, MIN_SAMPLES)  # what is compiled stays, whatever the size
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts again from here
    before = resident("VmRSS")
    dbscan(x, eps, MIN_SAMPLES, device="cpu")
    peak = resident("VmHWM")
    return peak - before, peak


def resident(field: str) -> float:
    """A line of the process's status, in 10⁶ bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    main(rows)
