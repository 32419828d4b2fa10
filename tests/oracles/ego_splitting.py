"""Ego-Splitting by its definition, with networkx, and the clique percolation that it must equal."""

from __future__ import annotations

from itertools import combinations

import networkx as nx

Cluster = tuple[int, ...]


def persona_graph(graph: nx.Graph) -> nx.Graph:
    """Nodes are (v, a component of G[N(v)]); each edge of G joins the personas that hold its other end."""
    personas: dict[int, list[frozenset[int]]] = {
        v: [frozenset(part) for part in nx.connected_components(graph.subgraph(graph[v]))] for v in graph
    }
    result = nx.Graph()
    for v, parts in personas.items():
        result.add_nodes_from((v, part) for part in parts)
    for u, v in graph.edges:
        (of_u,) = [part for part in personas[u] if v in part]
        (of_v,) = [part for part in personas[v] if u in part]
        result.add_edge((u, of_u), (v, of_v))
    return result


def by_definition(graph: nx.Graph) -> list[Cluster]:
    """Components of the persona graph, mapped back to nodes."""
    parts = nx.connected_components(persona_graph(graph))
    return sorted(tuple(sorted({v for v, _ in part})) for part in parts)


def by_clique_percolation(graph: nx.Graph) -> list[Cluster]:
    """3-clique communities, and one pair per edge without a triangle."""
    communities = [tuple(sorted(part)) for part in nx.community.k_clique_communities(graph, 3)]
    bare = [(min(u, v), max(u, v)) for u, v in graph.edges if not set(graph[u]) & set(graph[v])]
    return sorted(communities + bare)


def triangles(graph: nx.Graph) -> list[tuple[int, int, int]]:
    return [
        (u, v, w)
        for u, v, w in combinations(sorted(graph), 3)
        if graph.has_edge(u, v) and graph.has_edge(u, w) and graph.has_edge(v, w)
    ]
