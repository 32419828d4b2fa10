"""Ego-Splitting of the word graph of instructions, beside networkx, karateclub, and the bare listing of triangles.

networkx: the same algorithm, node by node: the components of the neighbourhood, one edge between two personas for
every edge, and the components of those. Its clusters must be ours. The bare loop merges the sorted later neighbours
of both ends of every edge along the same degeneracy order, and does nothing but count. karateclub's splitter ends with
Louvain where ours takes components, so that its clusters are others; it runs under ``--karateclub PYTHON``,
or in an environment that is made for it.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import networkx as nx
import numpy as np
from numba import njit
from numpy.typing import NDArray

from conversations import turns
from row import Options, Row, Skipped, exponent, interleaved, main
from venvs import environment
from vlitqc_metrics._algorithms.ego_splitting import (
    _adjacency,
    _in_order,
    _later,
    _simple_edges,
    co_occurrence_edges,
    ego_splitting,
)
from vlitqc_metrics._algorithms.words import content_word_ids

AREA = "ego_splitting"
LONGEST = 200
"""Characters: what asks about a picture is short. A pasted page would be one clique of all its words."""
LIMIT = 120

KARATECLUB = """
import sys, time
import networkx as nx, numpy as np
from karateclub import EgoNetSplitter
graph = nx.Graph(np.load(sys.argv[1]).tolist())
start = time.perf_counter()
EgoNetSplitter().fit(graph)
print(time.perf_counter() - start)
"""


def rows(options: Options) -> Iterator[Row]:
    sizes = (500, 1000, 2000) if options.quick else (5000, 10_000, 20_000)
    n = sizes[-1]
    texts = [asked for asked, _ in turns(2 * n, options.data) if len(asked) <= LONGEST][:n]
    steps: dict[str, list[float]] = {"words to ids": [], "graph": [], "clusters": []}
    split_of(texts)  # compiles
    for size in sizes:
        part = texts[:size]
        ids, vocabulary = content_word_ids(part)
        edges = co_occurrence_edges(ids)
        calls: list[Callable[[], object]] = [
            partial(content_word_ids, part),
            partial(co_occurrence_edges, ids),
            partial(ego_splitting, edges, len(vocabulary)),
        ]
        for step, seconds in zip(steps.values(), interleaved(5, *calls), strict=True):
            step.append(seconds)
    arrays = along_order(edges, len(vocabulary))
    triangles = count_triangles(*arrays)
    seconds, bare = interleaved(
        7, partial(ego_splitting, edges, len(vocabulary)), partial(count_triangles, *arrays)
    )
    what = f"{n:,} instructions: {len(vocabulary):,} words, {len(edges):,} edges, {triangles:,} triangles"
    yield Row(AREA, what, seconds, "s", "counting the triangles", bare, 0.25)

    start = time.perf_counter()
    theirs = by_networkx(edges)
    slow = time.perf_counter() - start
    ours = [tuple(cluster.tolist()) for cluster in ego_splitting(edges, len(vocabulary))]
    if ours != theirs:
        raise AssertionError(f"{len(ours)} clusters, networkx finds {len(theirs)}")
    yield Row(AREA, f"the same, {len(ours):,} clusters", seconds, "s", "networkx", slow, 150.0)

    for name, costs in steps.items():
        rate = n / costs[-1]
        note = f"exponent {exponent(sizes, costs):.2f} from {', '.join(f'{size:,}' for size in sizes)} instructions"
        yield Row(AREA, name, rate, "instructions/s", "wanted of graph metrics", 5000.0, 1.0, note)
    python = options.karateclub or environment("karateclub", options) / "python"
    yield karateclub(edges, seconds, python)


def split_of(texts: list[str]) -> object:
    ids, vocabulary = content_word_ids(texts)
    edges = co_occurrence_edges(ids)
    return ego_splitting(edges, len(vocabulary)), count_triangles(*along_order(edges, len(vocabulary)))


def along_order(edges: NDArray[np.int64], n_nodes: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    simple = _simple_edges(edges, n_nodes)
    start, neighbour, edge = _adjacency(simple, n_nodes)
    order, rank = _in_order(start, neighbour)
    begins, later, _ = _later(start, neighbour, edge, order, rank, len(simple))
    return begins, later.astype(np.int32)


@njit(cache=True)
def count_triangles(start: NDArray[np.int64], later: NDArray[np.int32]) -> int:
    found = 0
    for u in range(start.shape[0] - 1):
        for u_v in range(start[u], start[u + 1]):
            u_w, v_w = u_v + 1, start[later[u_v]]
            stop_u, stop_v = start[u + 1], start[later[u_v] + 1]
            while u_w < stop_u and v_w < stop_v:
                if later[u_w] < later[v_w]:
                    u_w += 1
                elif later[v_w] < later[u_w]:
                    v_w += 1
                else:
                    found += 1
                    u_w += 1
                    v_w += 1
    return found


def by_networkx(edges: NDArray[np.int64]) -> list[tuple[int, ...]]:
    """The clusters, in lexicographic order."""
    graph = nx.Graph(edges.tolist())
    persona: dict[tuple[int, int], tuple[int, int]] = {}
    for node in graph:
        for number, part in enumerate(nx.connected_components(graph.subgraph(graph[node]))):
            for other in part:
                persona[node, other] = (node, number)
    personas = nx.Graph((persona[u, v], persona[v, u]) for u, v in graph.edges)
    return sorted(tuple(sorted({node for node, _ in part})) for part in nx.connected_components(personas))


def karateclub(edges: NDArray[np.int64], ours: float, python: Path) -> Row:
    """A row without a ratio to reach."""
    with tempfile.TemporaryDirectory() as folder:
        # It wants nodes numbered from 0 without a gap.
        _, numbered = np.unique(edges, return_inverse=True)
        path = Path(folder) / "edges.npy"
        np.save(path, numbered.reshape(-1, 2))
        command: list[str | Path] = [python, "-c", KARATECLUB, path]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
            seconds, note = float(told.stdout.split()[-1]), "its last step is Louvain, ours components"
        except subprocess.TimeoutExpired:
            seconds, note = float(LIMIT), f"stopped after {LIMIT} s, it had not ended"
        except (OSError, subprocess.CalledProcessError) as error:
            why = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
            raise Skipped(f"karateclub: {why}") from error
    return Row(AREA, "the same", ours, "s", "karateclub's EgoNetSplitter", seconds, None, note)


if __name__ == "__main__":
    main(rows)
