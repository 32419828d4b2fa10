"""Overlapping clusters of a graph by Ego-Splitting, and the word graph of instructions that it is run on.

Source: Epasto, Lattanzi & Paes Leme, *Ego-Splitting Framework: from Non-Overlapping to Overlapping Clusters*,
KDD 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy import int64
from numpy.typing import NDArray

from vlitqc_metrics._algorithms.union_find import flatten, union

GlobalStep = Literal["components", "louvain"]

_CHUNK = 1 << 22  # word pairs sorted at a time: 32 MiB
_LARGEST_TOKEN = (1 << 31) - 1


@dataclass(frozen=True)
class PersonaGraph:
    """The graph in which every node is replaced by its personas.

    ``node``: int64[p], the node that each persona belongs to. ``edges``: int64[m, 2], the personas that
    each edge of the simple graph joins. A node without edges has no persona.
    """

    node: NDArray[int64]
    edges: NDArray[int64]

    def personas_per_node(self, n_nodes: int) -> NDArray[int64]:
        """Return int64[n_nodes]: how many personas, that is local clusters, each node has."""
        return np.bincount(self.node, minlength=n_nodes).astype(np.int64, copy=False)


def persona_graph(edges: NDArray[int64], n_nodes: int) -> PersonaGraph:
    """Split every node into one persona per connected component of its neighbourhood.

    The personas of v are the components of G[N(v)], the graph of v's neighbours without v; the edge (u, v)
    becomes one edge between the persona of u whose component holds v and the persona of v whose component
    holds u. Two edges at v lead to the same component exactly if a chain of triangles at v joins them, so
    one pass over all triangles, listed along a degeneracy order, finds every persona: O(m·degeneracy) time,
    O(m + n) memory.

    Args:
        edges: int[m, 2], undirected; direction, repetitions and self-loops are ignored.
        n_nodes: number of nodes; ids run from 0 to ``n_nodes`` − 1.

    Raises:
        ValueError: ``edges`` is not an integer array of shape (m, 2), or an id is out of range.
    """
    simple = _simple_edges(edges, n_nodes)
    if not len(simple):
        return PersonaGraph(np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64))
    order = _degeneracy_order(*_adjacency(simple, n_nodes))
    rank = np.empty(n_nodes, dtype=np.int64)
    rank[order] = np.arange(n_nodes)
    start, neighbour = _adjacency(rank[simple], n_nodes)
    reverse = _reverse_ends(start, neighbour)
    # An end (v, w) is the side of edge {v, w} at v, named by its place in the adjacency of v. Ends at v
    # that share a persona are joined.
    parent = np.arange(len(neighbour), dtype=np.int64)
    _join_triangles(start, neighbour, reverse, parent)
    flatten(parent)
    roots, persona = np.unique(parent, return_inverse=True)
    owner = np.repeat(np.arange(n_nodes), np.diff(start))
    forward = np.flatnonzero(neighbour > owner)
    joined = np.stack([persona[forward], persona[reverse[forward]]], axis=1)
    return PersonaGraph(order[owner[roots]], joined.astype(np.int64, copy=False))


def ego_splitting(
    edges: NDArray[int64], n_nodes: int, *, global_step: GlobalStep = "components", seed: int = 0
) -> list[NDArray[int64]]:
    """Find the overlapping clusters of a graph.

    The persona graph is clustered without overlap and each cluster is mapped back to the nodes of its
    personas. With ``components`` a cluster is a connected component of the persona graph: the clusters are
    then the 3-clique communities of the graph and one pair per edge that lies in no triangle (Palla et al.,
    *Nature* 435, 2005), K_n gives 1 cluster, a path, star or longer cycle gives one per edge, and
    renumbering the nodes changes nothing. With ``louvain`` it is a Louvain community (Blondel et al. 2008),
    which depends on ``seed`` and on the numbering.

    Args:
        edges: int[m, 2], undirected; direction, repetitions and self-loops are ignored.
        n_nodes: number of nodes; ids run from 0 to ``n_nodes`` − 1. A node without edges is in no cluster.
        global_step: ``components`` (exact, O(m·degeneracy)) or ``louvain`` (networkx, slower).
        seed: of ``louvain``.

    Returns:
        The clusters, each a sorted int64 array of at least two distinct nodes, in lexicographic order. Two
        clusters may have the same nodes if they have different edges.

    Raises:
        ValueError: ``edges`` or ``global_step`` is not as described.
    """
    if global_step not in ("components", "louvain"):
        raise ValueError(f"global_step must be 'components' or 'louvain', got {global_step!r}")
    graph = persona_graph(edges, n_nodes)
    if not len(graph.edges):
        return []
    if global_step == "components":
        community = np.arange(len(graph.node), dtype=np.int64)
        _join_edges(community, graph.edges)
        flatten(community)
    else:
        community = _louvain(graph, seed)
    members = np.unique(np.stack([community, graph.node], axis=1), axis=0)
    cuts = np.flatnonzero(np.diff(members[:, 0])) + 1
    return sorted(np.split(members[:, 1], cuts), key=lambda cluster: cluster.tolist())


def co_occurrence_edges(token_ids: Sequence[NDArray[np.integer[Any]]]) -> NDArray[int64]:
    """Return the edges of the word graph: the distinct unordered pairs of words that share an instruction.

    Args:
        token_ids: for each instruction an int array of word ids, 0 to 2³¹ − 1, repetitions allowed.

    Returns:
        int64[m, 2] with the smaller id first, sorted, each pair once. Memory is O(m) plus a fixed 64 MiB.

    Raises:
        ValueError: an array is not one-dimensional and of integers, or an id is out of range.
    """
    distinct: list[NDArray[int64]] = []
    for place, tokens in enumerate(token_ids):
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(
                f"token_ids[{place}] must be one-dimensional and of integers, got {ids.dtype}{ids.shape}"
            )
        if ids.size > 1:  # fewer than two words make no pair
            if ids.min() < 0 or ids.max() > _LARGEST_TOKEN:
                raise ValueError(f"token_ids[{place}] holds an id outside 0..{_LARGEST_TOKEN}")
            distinct.append(np.unique(ids).astype(np.int64, copy=False))
    if not distinct:
        return np.empty((0, 2), dtype=np.int64)
    words = np.concatenate(distinct)
    stop = np.cumsum([len(ids) for ids in distinct])
    seen = np.empty(0, dtype=np.int64)
    buffer = np.empty(min(_CHUNK, sum(len(ids) * (len(ids) - 1) // 2 for ids in distinct)), dtype=np.int64)
    position = np.zeros(3, dtype=np.int64)
    position[2] = 1
    while (count := _fill_pairs(words, stop, position, buffer)) > 0:
        seen = np.union1d(seen, buffer[:count])
    return np.stack([seen >> 32, seen & ((1 << 32) - 1)], axis=1)


def _simple_edges(edges: NDArray[int64], n_nodes: int) -> NDArray[int64]:
    """Return the distinct edges u < v, sorted."""
    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"edges must be an integer array of shape (m, 2), got {edges.dtype}{edges.shape}")
    if not 0 <= n_nodes <= _LARGEST_TOKEN:
        raise ValueError(f"n_nodes must lie in 0..{_LARGEST_TOKEN}, got {n_nodes}")
    if edges.size and (edges.min() < 0 or edges.max() >= n_nodes):
        raise ValueError(f"node ids must lie in 0..{n_nodes - 1}, got {int(edges.min())}..{int(edges.max())}")
    low = edges.min(axis=1).astype(np.int64)
    high = edges.max(axis=1).astype(np.int64)
    keys = np.unique((low << 32 | high)[low < high])
    return np.stack([keys >> 32, keys & ((1 << 32) - 1)], axis=1)


def _adjacency(simple: NDArray[int64], n_nodes: int) -> tuple[NDArray[int64], NDArray[int64]]:
    """Return (start, neighbour): the neighbours of v, ascending, are ``neighbour[start[v]:start[v + 1]]``."""
    ends = np.concatenate([simple[:, 0] << 32 | simple[:, 1], simple[:, 1] << 32 | simple[:, 0]])
    ends.sort()
    start = np.zeros(n_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(ends >> 32, minlength=n_nodes), out=start[1:])
    return start, ends & ((1 << 32) - 1)


def _louvain(graph: PersonaGraph, seed: int) -> NDArray[int64]:
    """Return the Louvain community of every persona."""
    import networkx as nx

    personas = nx.Graph()
    personas.add_nodes_from(range(len(graph.node)))
    personas.add_edges_from(graph.edges.tolist())
    community = np.empty(len(graph.node), dtype=np.int64)
    for number, members in enumerate(nx.community.louvain_communities(personas, seed=seed)):
        community[list(members)] = number
    return community


@njit(cache=True)
def _degeneracy_order(start: NDArray[int64], neighbour: NDArray[int64]) -> NDArray[int64]:
    """Order the nodes by taking one of smallest remaining degree at a time (Matula & Beck 1983), in O(n + m).

    Every node has at most degeneracy-many neighbours after it, which bounds the work of listing triangles.
    """
    n = start.shape[0] - 1
    degree = np.empty(n, dtype=np.int64)
    largest = 0
    for v in range(n):
        degree[v] = start[v + 1] - start[v]
        largest = max(largest, degree[v])
    # ``order`` is kept sorted by remaining degree; ``bucket[k]`` is where degree k begins in it.
    bucket = np.zeros(largest + 2, dtype=np.int64)
    for v in range(n):
        bucket[degree[v] + 1] += 1
    for k in range(largest + 1):
        bucket[k + 1] += bucket[k]
    order = np.empty(n, dtype=np.int64)
    place = np.empty(n, dtype=np.int64)
    filled = bucket.copy()
    for v in range(n):
        place[v] = filled[degree[v]]
        order[place[v]] = v
        filled[degree[v]] += 1
    for k in range(n):
        v = order[k]
        for at in range(start[v], start[v + 1]):
            w = neighbour[at]
            if degree[w] > degree[v]:
                # Swap w with the first node of its bucket, then move the bucket's border past it.
                front = bucket[degree[w]]
                other = order[front]
                order[front], order[place[w]] = w, other
                place[other], place[w] = place[w], front
                bucket[degree[w]] += 1
                degree[w] -= 1
    return order


@njit(cache=True)
def _reverse_ends(start: NDArray[int64], neighbour: NDArray[int64]) -> NDArray[int64]:
    """Return, for the place of end (v, w), the place of end (w, v)."""
    reverse = np.empty(neighbour.shape[0], dtype=np.int64)
    filled = start[:-1].copy()
    for v in range(start.shape[0] - 1):
        for at in range(start[v], start[v + 1]):
            # Nodes are visited in ascending order, so v is the next neighbour of w that was not yet met.
            w = neighbour[at]
            reverse[at] = filled[w]
            filled[w] += 1
    return reverse


@njit(cache=True)
def _join_triangles(
    start: NDArray[int64], neighbour: NDArray[int64], reverse: NDArray[int64], parent: NDArray[int64]
) -> None:
    """For every triangle u < v < w join, at each corner, the ends of the two sides that meet there."""
    n = start.shape[0] - 1
    later = np.empty(n, dtype=np.int64)  # where the neighbours after v begin in the adjacency of v
    for v in range(n):
        later[v] = start[v] + np.searchsorted(neighbour[start[v] : start[v + 1]], v)
    for u in range(n):
        for u_v in range(later[u], start[u + 1]):
            v = neighbour[u_v]
            u_w = u_v + 1
            v_w = later[v]
            while u_w < start[u + 1] and v_w < start[v + 1]:
                if neighbour[u_w] < neighbour[v_w]:
                    u_w += 1
                elif neighbour[v_w] < neighbour[u_w]:
                    v_w += 1
                else:
                    union(parent, u_v, u_w)
                    union(parent, reverse[u_v], v_w)
                    union(parent, reverse[u_w], reverse[v_w])
                    u_w += 1
                    v_w += 1


@njit(cache=True)
def _join_edges(parent: NDArray[int64], edges: NDArray[int64]) -> None:
    """Join the two ends of every edge."""
    for k in range(edges.shape[0]):
        union(parent, edges[k, 0], edges[k, 1])


@njit(cache=True)
def _fill_pairs(
    words: NDArray[int64], stop: NDArray[int64], position: NDArray[int64], buffer: NDArray[int64]
) -> int:
    """Write the next pairs (low << 32 | high) into ``buffer``, from ``position`` on; return how many.

    ``words`` are the ascending distinct words of each instruction, one instruction after another;
    ``position`` is (instruction, first word, second word) and is moved to where the next call goes on.
    """
    count = 0
    group, i, j = position[0], position[1], position[2]
    while group < stop.shape[0] and count < buffer.shape[0]:
        if j < stop[group]:
            buffer[count] = words[i] << 32 | words[j]
            count += 1
            j += 1
        else:
            i += 1
            if i >= stop[group]:
                group += 1
            j = i + 1
    position[0], position[1], position[2] = group, i, j
    return count
