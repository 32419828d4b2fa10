"""Overlapping clusters of a graph by Ego-Splitting, and the word graph of instructions that it is run on.

Source: Epasto, Lattanzi & Paes Leme, *Ego-Splitting Framework: from Non-Overlapping to Overlapping Clusters*,
KDD 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy import int64
from numpy.typing import NDArray

from vlitqc_metrics._algorithms.compiled import suited
from vlitqc_metrics._algorithms.union_find import flatten, union

GlobalStep = Literal["components", "louvain"]
Index = NDArray[np.signedinteger[Any]]

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
    start, neighbour, edge = _adjacency(simple, n_nodes)
    order, rank = _in_order(start, neighbour)
    later_start, later, _ = _later(start, neighbour, edge, order, rank, len(simple))
    # End 2k of edge k is its side at the earlier node of the order, end 2k + 1 that at the later one. Ends at one
    # node that share a persona are joined.
    parent = np.arange(2 * len(later), dtype=_index(2 * len(later)))
    suited(_join_corners, _merging_steps(later_start, later))(later_start, later, parent)
    suited(flatten, len(parent))(parent)
    earlier = np.repeat(np.arange(n_nodes), np.diff(later_start))
    owner = np.stack([earlier, later], axis=1).reshape(-1)
    # Of one node's ends the first leads to the first neighbour: so personas are numbered by node and neighbour, both
    # in the order, and edges come in it too. Louvain's communities depend on either.
    roots = np.flatnonzero(parent == np.arange(len(parent)))
    roots = roots[np.argsort(owner[roots], kind="stable")]
    number = np.empty(len(parent), dtype=np.int64)
    number[roots] = np.arange(len(roots))
    return PersonaGraph(order[owner[roots]].astype(np.int64), number[parent].reshape(-1, 2))


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
    if global_step == "components":
        members, cuts = _edge_communities(_simple_edges(edges, n_nodes), n_nodes)
    else:
        graph = persona_graph(edges, n_nodes)
        pairs = np.unique(np.stack([_louvain(graph, seed), graph.node], axis=1), axis=0)
        members, cuts = pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1
    if not len(members):
        return []
    bounds = [0, *cuts.tolist(), len(members)]
    return sorted((members[a:b] for a, b in pairwise(bounds)), key=lambda cluster: cluster.tolist())


def co_occurrence_edges(token_ids: Sequence[NDArray[np.integer[Any]]]) -> NDArray[int64]:
    """Return the edges of the word graph: the distinct unordered pairs of words that share an instruction.

    Args:
        token_ids: for each instruction an int array of word ids, 0 to 2³¹ − 1, repetitions allowed.

    Returns:
        int64[m, 2] with the smaller id first, sorted, each pair once. Time is that of looking at every pair of every
        instruction, memory O(m + words).

    Raises:
        ValueError: an array is not one-dimensional and of integers, or an id is out of range.
    """
    several: list[NDArray[np.integer[Any]]] = []
    places_of: list[int] = []
    for place, tokens in enumerate(token_ids):
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ValueError(
                f"token_ids[{place}] must be one-dimensional and of integers, got {ids.dtype}{ids.shape}"
            )
        if ids.size > 1:  # fewer than two words make no pair
            several.append(ids)
            places_of.append(place)
    if not several:
        return np.empty((0, 2), dtype=np.int64)
    text = np.repeat(np.arange(len(several)), [len(ids) for ids in several])
    # What does not fit into int64 becomes negative, and is refused with the rest.
    tokens = np.concatenate(several, dtype=np.int64, casting="unsafe")
    outside = np.flatnonzero((tokens < 0) | (tokens > _LARGEST_TOKEN))
    if len(outside):
        place = places_of[text[outside[0]]]
        raise ValueError(f"token_ids[{place}] holds an id outside 0..{_LARGEST_TOKEN}")
    distinct = np.unique(text << 32 | tokens)
    vocabulary, words = np.unique(distinct & ((1 << 32) - 1), return_inverse=True)
    bounds = np.concatenate([[0], np.cumsum(np.bincount(distinct >> 32, minlength=len(several)))])
    # The texts of each word, as places in ``words``: what lies after a place belongs to later words of its text.
    places = np.argsort(words, kind="stable")
    ends = np.repeat(bounds[1:], np.diff(bounds))
    first = np.concatenate([[0], np.cumsum(np.bincount(words))])
    steps = len(words) + int((ends - 1 - np.arange(len(ends))).sum())
    count = suited(_count_pairs, steps)(words, places, ends, first)
    edges = np.empty((int(count.sum()), 2), dtype=np.int64)
    suited(_fill_pairs, steps)(words, places, ends, first, edges)
    named: NDArray[int64] = vocabulary[edges]
    return named


def _simple_edges(edges: NDArray[int64], n_nodes: int) -> NDArray[int64]:
    """Return the distinct edges u < v, sorted."""
    edges = np.asarray(edges)
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise ValueError(f"edges must be an integer array of shape (m, 2), got {edges.dtype}{edges.shape}")
    if not 0 <= n_nodes <= _LARGEST_TOKEN:
        raise ValueError(f"n_nodes must lie in 0..{_LARGEST_TOKEN}, got {n_nodes}")
    if edges.size and (edges.min() < 0 or edges.max() >= n_nodes):
        raise ValueError(f"node ids must lie in 0..{n_nodes - 1}, got {int(edges.min())}..{int(edges.max())}")
    low, high = edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64)
    keys = low << 32 | high
    if (low < high).all() and (keys[:-1] < keys[1:]).all():
        return np.stack([low, high], axis=1)  # as co_occurrence_edges gives them: nothing to sort
    low, high = np.minimum(low, high), np.maximum(low, high)
    keys = np.unique((low << 32 | high)[low < high])
    return np.stack([keys >> 32, keys & ((1 << 32) - 1)], axis=1)


def _index(n: int) -> type[np.signedinteger[Any]]:
    """The narrowest type for places below ``n``: how much fits into the processor's cache decides the speed."""
    return np.int32 if n <= _LARGEST_TOKEN else np.int64


def _adjacency(simple: NDArray[int64], n_nodes: int) -> tuple[NDArray[int64], Index, Index]:
    """Return (start, neighbour, edge): the neighbours of v, ascending, are ``neighbour[start[v]:start[v + 1]]``.

    ``edge`` holds beside each neighbour the row of ``simple`` that joins the two.
    """
    start = np.zeros(n_nodes + 1, dtype=np.int64)
    np.cumsum(np.bincount(simple.reshape(-1), minlength=n_nodes), out=start[1:])
    neighbour = np.empty(2 * len(simple), dtype=np.int32)
    edge = np.empty(2 * len(simple), dtype=_index(len(simple)))
    suited(_fill_adjacency, len(neighbour))(simple, start[:-1].copy(), neighbour, edge)
    return start, neighbour, edge


def _in_order(start: NDArray[int64], neighbour: Index) -> tuple[Index, Index]:
    """``_degeneracy_order``, whose steps are longer than others'."""
    return suited(_degeneracy_order, 4 * (len(start) + len(neighbour)))(start, neighbour)


def _merging_steps(start: NDArray[int64], later: Index) -> int:
    """How many neighbours there are, at most, to go through at both ends of all edges."""
    after = np.diff(start)
    return len(start) + int((after * after).sum() + after[later].sum())


def _later(
    start: NDArray[int64], neighbour: Index, edge: Index, order: Index, rank: Index, n_edges: int
) -> tuple[NDArray[int64], Index, Index]:
    """The graph along ``order``: (start, later, place).

    The neighbours of the k-th node of the order that come after it, by rank and ascending, are
    ``later[start[k]:start[k + 1]]``; ``place[e]`` is where edge ``e`` stands in ``later``.
    """
    later_start = np.zeros(len(order) + 1, dtype=np.int64)
    steps = len(order) + len(neighbour)
    np.cumsum(suited(_count_later, steps)(start, neighbour, order, rank), out=later_start[1:])
    later = np.empty(n_edges, dtype=np.int32)
    place = np.empty(n_edges, dtype=edge.dtype)
    suited(_fill_later, steps)(start, neighbour, edge, order, rank, later_start[:-1].copy(), later, place)
    return later_start, later, place


def _edge_communities(simple: NDArray[int64], n_nodes: int) -> tuple[NDArray[int64], NDArray[int64]]:
    """Return (members, cuts): the nodes of each connected component of the persona graph, one after another.

    A persona edge is an edge of the graph, and two of them meet in a persona exactly if a chain of triangles
    joins them: the components are the classes of edges under "two sides of one triangle", and no persona is
    needed to find them.
    """
    if not len(simple):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    start, neighbour, edge = _adjacency(simple, n_nodes)
    order, rank = _in_order(start, neighbour)
    later_start, later, place = _later(start, neighbour, edge, order, rank, len(simple))
    parent = np.arange(len(later), dtype=_index(len(later)))
    suited(_join_sides, _merging_steps(later_start, later))(later_start, later, parent)
    suited(flatten, len(parent))(parent)
    is_root = parent == np.arange(len(parent))
    community = (np.cumsum(is_root) - 1).astype(edge.dtype)[parent][place]
    steps = len(start) + len(edge)
    stop = np.cumsum(suited(_count_members, steps)(start, edge, community, int(is_root.sum())))
    members = np.empty(int(stop[-1]), dtype=np.int64)
    begin = np.concatenate([[0], stop[:-1]])
    suited(_fill_members, steps)(start, edge, community, begin, members)
    return members, stop[:-1]


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


def _fill_adjacency(simple: NDArray[int64], filled: NDArray[int64], neighbour: Index, edge: Index) -> None:
    """Write each edge at both of its nodes; the edges are sorted, so that neighbours come in ascending order."""
    for k in range(simple.shape[0]):
        for side in range(2):
            v = simple[k, side]
            neighbour[filled[v]] = simple[k, 1 - side]
            edge[filled[v]] = k
            filled[v] += 1


def _degeneracy_order(start: NDArray[int64], neighbour: Index) -> tuple[Index, Index]:
    """Order the nodes by taking one of smallest remaining degree at a time (Matula & Beck 1983), in O(n + m).

    Every node has at most degeneracy-many neighbours after it, which bounds the work of listing triangles.
    Returns the order, and the place of each node in it.
    """
    n = start.shape[0] - 1
    degree = np.empty(n, dtype=np.int32)
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
    order = np.empty(n, dtype=np.int32)
    place = np.empty(n, dtype=np.int32)
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
    return order, place


def _count_later(start: NDArray[int64], neighbour: Index, order: Index, rank: Index) -> NDArray[int64]:
    """How many neighbours of the k-th node of the order come after it."""
    count = np.zeros(order.shape[0], dtype=np.int64)
    for k in range(order.shape[0]):
        v = order[k]
        for at in range(start[v], start[v + 1]):
            if rank[neighbour[at]] > k:
                count[k] += 1
    return count


def _fill_later(
    start: NDArray[int64],
    neighbour: Index,
    edge: Index,
    order: Index,
    rank: Index,
    filled: NDArray[int64],
    later: Index,
    place: Index,
) -> None:
    """Write each node behind its earlier neighbours. They are met in ascending order, so that none is sorted."""
    for k in range(order.shape[0]):
        v = order[k]
        for at in range(start[v], start[v + 1]):
            before = rank[neighbour[at]]
            if before < k:
                later[filled[before]] = k
                place[edge[at]] = filled[before]
                filled[before] += 1


def _join_sides(start: NDArray[int64], later: Index, parent: Index) -> None:
    """For every triangle u < v < w join its three sides."""
    for u in range(start.shape[0] - 1):
        stop_u = start[u + 1]
        for u_v in range(start[u], stop_u):
            v = later[u_v]
            u_w, v_w, stop_v = u_v + 1, start[v], start[v + 1]
            root = parent[u_v]
            while u_w < stop_u and v_w < stop_v:
                one, other = later[u_w], later[v_w]
                if one < other:
                    u_w += 1
                elif other < one:
                    v_w += 1
                else:
                    # Mostly all three have the same parent already, and nothing is left to do.
                    if parent[u_w] != root or parent[v_w] != root:
                        union(parent, u_v, u_w)
                        union(parent, u_v, v_w)
                        root = parent[u_v]
                    u_w += 1
                    v_w += 1


def _join_corners(start: NDArray[int64], later: Index, parent: Index) -> None:
    """For every triangle u < v < w join, at each corner, the ends of the two sides that meet there."""
    for u in range(start.shape[0] - 1):
        stop_u = start[u + 1]
        for u_v in range(start[u], stop_u):
            v = later[u_v]
            u_w, v_w, stop_v = u_v + 1, start[v], start[v + 1]
            while u_w < stop_u and v_w < stop_v:
                one, other = later[u_w], later[v_w]
                if one < other:
                    u_w += 1
                elif other < one:
                    v_w += 1
                else:
                    if parent[2 * u_v] != parent[2 * u_w]:
                        union(parent, 2 * u_v, 2 * u_w)
                    if parent[2 * u_v + 1] != parent[2 * v_w]:
                        union(parent, 2 * u_v + 1, 2 * v_w)
                    if parent[2 * u_w + 1] != parent[2 * v_w + 1]:
                        union(parent, 2 * u_w + 1, 2 * v_w + 1)
                    u_w += 1
                    v_w += 1


def _count_members(start: NDArray[int64], edge: Index, community: Index, n: int) -> NDArray[int64]:
    """How many nodes the edges of each community touch."""
    count = np.zeros(n, dtype=np.int64)
    met = np.full(n, -1, dtype=np.int32)
    for v in range(start.shape[0] - 1):
        for at in range(start[v], start[v + 1]):
            c = community[edge[at]]
            if met[c] != v:
                met[c] = v
                count[c] += 1
    return count


def _fill_members(
    start: NDArray[int64], edge: Index, community: Index, filled: NDArray[int64], members: NDArray[int64]
) -> None:
    """Write each node, in ascending order, to the communities of its edges."""
    met = np.full(filled.shape[0], -1, dtype=np.int32)
    for v in range(start.shape[0] - 1):
        for at in range(start[v], start[v + 1]):
            c = community[edge[at]]
            if met[c] != v:
                met[c] = v
                members[filled[c]] = v
                filled[c] += 1


def _count_pairs(
    words: NDArray[int64], places: NDArray[int64], ends: NDArray[int64], first: NDArray[int64]
) -> NDArray[int64]:
    """How many larger words share a text with each word.

    ``words`` are the ascending distinct words of each text, one text after another, ``ends[p]`` is where the text
    of place p ends; ``places[first[w]:first[w + 1]]`` are the places of word w.
    """
    n = first.shape[0] - 1
    count = np.zeros(n, dtype=np.int64)
    met = np.full(n, -1, dtype=np.int32)
    for w in range(n):
        for k in range(first[w], first[w + 1]):
            for at in range(places[k] + 1, ends[places[k]]):
                if met[words[at]] != w:
                    met[words[at]] = w
                    count[w] += 1
    return count


def _fill_pairs(
    words: NDArray[int64],
    places: NDArray[int64],
    ends: NDArray[int64],
    first: NDArray[int64],
    edges: NDArray[int64],
) -> None:
    """Write the pairs that ``_count_pairs`` counts, sorted."""
    n = first.shape[0] - 1
    met = np.full(n, -1, dtype=np.int32)
    row = 0
    for w in range(n):
        begin = row
        for k in range(first[w], first[w + 1]):
            for at in range(places[k] + 1, ends[places[k]]):
                if met[words[at]] != w:
                    met[words[at]] = w
                    edges[row, 0] = w
                    edges[row, 1] = words[at]
                    row += 1
        edges[begin:row, 1].sort()
