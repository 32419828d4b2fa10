from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import combinations
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import ego_splitting as oracle

from vlitqc_metrics._algorithms import ego_splitting as module
from vlitqc_metrics._algorithms.ego_splitting import co_occurrence_edges, ego_splitting, persona_graph

Edges = list[tuple[int, int]]


def clusters(edges: Edges, n_nodes: int | None = None, **options: Any) -> list[tuple[int, ...]]:
    array = np.array(edges, dtype=np.int64).reshape(-1, 2)
    size = n_nodes if n_nodes is not None else 1 + max(map(max, edges), default=-1)
    return [tuple(cluster.tolist()) for cluster in ego_splitting(array, size, **options)]


def complete(*nodes: int) -> Edges:
    return list(combinations(nodes, 2))


def random_graph(seed: int) -> nx.Graph:
    """From sparse to nearly complete, uniform or clustered, with isolated nodes."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 36))
    if seed % 3 == 0 and n > 4:
        return nx.powerlaw_cluster_graph(n, int(rng.integers(1, 4)), float(rng.uniform(0, 1)), seed=seed)
    return nx.gnp_random_graph(n, min(1.0, float(rng.uniform(0.5, 8)) / n), seed=seed)


def test_equals_clique_percolation_and_the_definition_on_300_random_graphs() -> None:
    several = 0
    for seed in range(300):
        graph = random_graph(seed)
        found = clusters(list(graph.edges), len(graph))
        assert found == oracle.by_clique_percolation(graph), seed
        assert found == oracle.by_definition(graph), seed
        several += any(len(cluster) > 3 for cluster in found) and len(found) > 2
    assert several >= 150


@given(st.integers(1, 9), st.data())
@settings(max_examples=300, deadline=None)
def test_equals_clique_percolation_on_any_small_graph(n: int, data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    edges = data.draw(st.lists(pairs, max_size=40))
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((u, v) for u, v in edges if u != v)
    assert clusters(edges, n) == oracle.by_clique_percolation(graph)


@pytest.mark.parametrize("seed", range(40))
def test_persona_graph_invariants(seed: int) -> None:
    graph = random_graph(seed)
    edges = np.array(graph.edges, dtype=np.int64).reshape(-1, 2)
    personas = persona_graph(edges, len(graph))
    # One persona edge per edge; contracting the personas gives the graph back.
    assert len(personas.edges) == graph.number_of_edges()
    contracted = {tuple(sorted(pair)) for pair in personas.node[personas.edges].tolist()}
    assert contracted == {tuple(sorted(pair)) for pair in graph.edges}
    # A node has as many personas as its neighbourhood has components.
    parts = [nx.number_connected_components(graph.subgraph(graph[v])) for v in range(len(graph))]
    assert personas.personas_per_node(len(graph)).tolist() == parts
    # It is the persona graph of the definition up to the names of the personas.
    expected = oracle.persona_graph(graph)
    degrees = np.bincount(personas.edges.ravel(), minlength=len(personas.node))
    found = Counter(zip(personas.node.tolist(), degrees.tolist(), strict=True))
    assert found == Counter((v, expected.degree((v, part))) for v, part in expected)


@pytest.mark.parametrize("seed", range(40))
def test_every_triangle_and_every_edge_lies_in_one_cluster(seed: int) -> None:
    graph = random_graph(seed)
    found = [set(cluster) for cluster in clusters(list(graph.edges), len(graph))]
    for triangle in oracle.triangles(graph):
        assert any(set(triangle) <= cluster for cluster in found)
    for edge in graph.edges:
        assert any(set(edge) <= cluster for cluster in found)


@pytest.mark.parametrize("seed", range(40))
def test_renumbering_the_nodes_renumbers_the_clusters(seed: int) -> None:
    graph = random_graph(seed)
    new = np.random.default_rng(seed).permutation(len(graph))
    renumbered = sorted(
        tuple(sorted(new[list(cluster)].tolist())) for cluster in clusters(list(graph.edges), len(graph))
    )
    edges = [(int(new[v]), int(new[u])) for u, v in graph.edges]
    assert clusters(edges, len(graph)) == renumbered


@pytest.mark.parametrize("n", range(2, 12))
def test_complete_graph_is_one_cluster(n: int) -> None:
    assert clusters(complete(*range(n))) == [tuple(range(n))]


@pytest.mark.parametrize("n", range(2, 12))
def test_path_and_star_give_one_cluster_per_edge(n: int) -> None:
    path = [(i, i + 1) for i in range(n - 1)]
    assert clusters(path) == path
    star = [(0, i) for i in range(1, n)]
    assert clusters(star) == star


@pytest.mark.parametrize("n", range(4, 12))
def test_cycle_of_four_or_more_gives_one_cluster_per_edge(n: int) -> None:
    assert len(clusters([(i, (i + 1) % n) for i in range(n)])) == n


def test_cycle_of_three_is_a_triangle() -> None:
    assert clusters([(0, 1), (1, 2), (2, 0)]) == [(0, 1, 2)]


def test_two_complete_graphs_sharing_a_node_stay_apart() -> None:
    assert clusters(complete(0, 1, 2, 3) + complete(3, 4, 5, 6)) == [(0, 1, 2, 3), (3, 4, 5, 6)]


def test_two_complete_graphs_sharing_an_edge_are_one() -> None:
    assert clusters(complete(0, 1, 2, 3) + complete(2, 3, 4, 5)) == [(0, 1, 2, 3, 4, 5)]


def test_two_complete_graphs_joined_by_a_bridge() -> None:
    found = clusters([*complete(0, 1, 2, 3), (3, 4), *complete(4, 5, 6, 7)])
    assert found == [(0, 1, 2, 3), (3, 4), (4, 5, 6, 7)]


def test_wheel_is_one_cluster_and_its_hub_one_persona() -> None:
    rim = [(i, i % 5 + 1) for i in range(1, 6)]
    spokes = [(0, i) for i in range(1, 6)]
    assert clusters(rim + spokes) == [(0, 1, 2, 3, 4, 5)]
    personas = persona_graph(np.array(rim + spokes), 6)
    assert personas.personas_per_node(6).tolist() == [1] * 6


def test_a_cluster_may_hold_two_personas_of_a_node() -> None:
    # A strip of triangles 012, 123, 234, 345, 456, 560: its two ends meet at node 0 and nowhere else.
    strip = [(i, i + 1) for i in range(6)] + [(i, i + 2) for i in range(5)] + [(5, 0), (6, 0)]
    assert clusters(strip) == [(0, 1, 2, 3, 4, 5, 6)]
    assert persona_graph(np.array(strip), 7).personas_per_node(7).tolist() == [2, 1, 1, 1, 1, 1, 1]


def test_repeated_edges_directions_and_self_loops_change_nothing() -> None:
    edges = [*complete(0, 1, 2), (2, 3)]
    noisy = [*edges, *((v, u) for u, v in edges), *edges, (1, 1), (4, 4)]
    assert clusters(noisy, 5) == clusters(edges, 5) == [(0, 1, 2), (2, 3)]


@pytest.mark.parametrize("step", ["components", "louvain"])
def test_without_edges_there_is_no_cluster(step: str) -> None:
    assert clusters([], 0, global_step=step) == []
    assert clusters([], 7, global_step=step) == []
    assert clusters([(3, 3)], 7, global_step=step) == []
    assert persona_graph(np.empty((0, 2), dtype=np.int64), 7).personas_per_node(7).tolist() == [0] * 7


def test_large_graph_needs_no_more_than_its_edges() -> None:
    # A hub with 200,000 spokes: quadratic work in its degree would not end.
    star = np.stack([np.zeros(200_000, dtype=np.int64), np.arange(1, 200_001)], axis=1)
    assert len(ego_splitting(star, 200_001)) == 200_000


@pytest.mark.parametrize("seed", range(40))
def test_no_node_has_more_later_neighbours_than_the_degeneracy(seed: int) -> None:
    graph = random_graph(seed)
    edges = np.array(graph.edges, dtype=np.int64).reshape(-1, 2)
    start, neighbour, _ = module._adjacency(np.unique(np.sort(edges, axis=1), axis=0), len(graph))
    order, rank = (found.tolist() for found in module._degeneracy_order(start, neighbour))
    assert sorted(order) == list(range(len(graph)))
    place = {v: k for k, v in enumerate(order)}
    assert rank == [place[v] for v in range(len(graph))]
    later = max(sum(place[w] > place[v] for w in graph[v]) for v in graph)
    assert later == max(nx.core_number(graph).values())


def test_louvain_parts_what_components_join() -> None:
    # Two K6 that share an edge: one 3-clique community, two Louvain communities.
    edges = complete(0, 1, 2, 3, 4, 5, 6, 7) + complete(6, 7, 8, 9, 10, 11, 12, 13)
    assert len(clusters(edges)) == 1
    found = clusters(edges, global_step="louvain", seed=1)
    assert len(found) == 2
    assert {node for cluster in found for node in cluster} == set(range(14))
    assert found == clusters(edges, global_step="louvain", seed=1)


@pytest.mark.parametrize("seed", range(10))
def test_louvain_refines_the_components(seed: int) -> None:
    graph = random_graph(seed)
    joined = [set(cluster) for cluster in clusters(list(graph.edges), len(graph))]
    parted = clusters(list(graph.edges), len(graph), global_step="louvain")
    assert len(parted) >= len(joined)
    assert all(any(set(part) <= whole for whole in joined) for part in parted)


@pytest.mark.parametrize(
    ("edges", "n_nodes", "options", "message"),
    [
        (np.zeros(4, dtype=np.int64), 1, {}, r"shape \(m, 2\), got int64\(4,\)"),
        (np.zeros((2, 3), dtype=np.int64), 1, {}, r"shape \(m, 2\)"),
        (np.zeros((1, 2)), 1, {}, "integer array"),
        (np.array([[0, 3]]), 3, {}, r"lie in 0\.\.2, got 0\.\.3"),
        (np.array([[-1, 2]]), 3, {}, r"got -1\.\.2"),
        (np.array([[0, 1]]), -1, {}, "n_nodes must lie in"),
        (np.array([[0, 1]]), 2, {"global_step": "leiden"}, "'components' or 'louvain', got 'leiden'"),
    ],
)
def test_refuses_what_is_no_graph(edges: Any, n_nodes: int, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ego_splitting(edges, n_nodes, **options)


def test_words_of_an_instruction_are_joined_in_pairs() -> None:
    edges = co_occurrence_edges([np.array([5, 1, 5, 3]), np.array([3, 1]), np.array([7]), np.array([])])
    assert edges.dtype == np.int64
    assert edges.tolist() == [[1, 3], [1, 5], [3, 5]]


@pytest.mark.parametrize("tokens", [[], [[]], [[4]], [[4, 4]], [[1], [2]]])
def test_one_word_has_no_pair(tokens: list[list[int]]) -> None:
    edges = co_occurrence_edges([np.array(ids, dtype=np.int64) for ids in tokens])
    assert edges.shape == (0, 2)


@given(st.lists(st.lists(st.one_of(st.integers(0, 12), st.integers(0, 2**31 - 1)), max_size=9), max_size=12))
@settings(max_examples=100, deadline=None)
def test_word_pairs_equal_those_of_a_set(instructions: list[list[int]]) -> None:
    expected = sorted({pair for words in instructions for pair in combinations(sorted(set(words)), 2)})
    edges = co_occurrence_edges([np.array(words, dtype=np.int64) for words in instructions])
    assert list(map(tuple, edges.tolist())) == expected


@pytest.mark.parametrize("seed", range(20))
def test_edges_in_any_order_and_direction_give_the_same_clusters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instructions = [rng.integers(0, 40, size=rng.integers(0, 6)) for _ in range(60)]
    edges = co_occurrence_edges(instructions)
    mixed = rng.permutation(np.concatenate([edges, edges[:, ::-1], edges[:5]]))
    ordered, shuffled = ego_splitting(edges, 40), ego_splitting(mixed, 40)
    assert [cluster.tolist() for cluster in ordered] == [cluster.tolist() for cluster in shuffled]


@pytest.mark.parametrize("seed", range(20))
def test_the_clusters_are_the_components_of_the_persona_graph(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = co_occurrence_edges([rng.integers(0, 40, size=rng.integers(0, 6)) for _ in range(60)])
    personas = persona_graph(edges, 40)
    joined = nx.Graph(personas.edges.tolist())
    expected = sorted(
        sorted({int(personas.node[p]) for p in part}) for part in nx.connected_components(joined)
    )
    assert [cluster.tolist() for cluster in ego_splitting(edges, 40)] == expected


def test_memory_grows_with_the_edges_and_not_with_the_pairs_of_all_texts() -> None:
    words = np.arange(300)
    co_occurrence_edges([words])  # compiled, or read from the compiler's cache
    ego_splitting(co_occurrence_edges([words]), 300)
    tracemalloc.start()
    try:
        edges = co_occurrence_edges([words] * 200)  # nine million pairs, 44,850 of them distinct
        ego_splitting(edges, 300)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(edges) == 44_850
    assert peak < 150 * len(edges)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([np.array([1, 2]), np.array([[1, 2]])], r"token_ids\[1\] must be one-dimensional"),
        ([np.array([1.0, 2.0])], r"token_ids\[0\] must be .* of integers, got float64"),
        ([np.array([3, -1])], r"outside 0\.\.2147483647"),
        ([np.array([3, 2**31])], r"outside 0\.\.2147483647"),
    ],
)
def test_refuses_what_are_no_word_ids(tokens: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        co_occurrence_edges(tokens)


def test_personas_are_numbered_by_node_and_first_neighbour_along_the_order() -> None:
    # Louvain's communities depend on the numbers and on the order of the edges.
    edges = [(0, 1), (0, 2), (0, 3), (0, 6), (0, 7), (1, 3), (1, 4), (1, 6), (2, 6), (3, 6), (3, 7), (4, 6)]
    found = persona_graph(np.array([*edges, (5, 7), (6, 7)]), 8)
    assert found.node.tolist() == [5, 2, 4, 7, 7, 1, 0, 3, 6]
    joined = [(0, 3), (1, 6), (1, 8), (2, 5), (2, 8), (4, 6), (4, 7), (4, 8), (5, 6), (5, 7), (5, 8), (6, 7)]
    assert list(map(tuple, found.edges.tolist())) == [*joined, (6, 8), (7, 8)]
