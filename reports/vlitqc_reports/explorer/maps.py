"""What the responses say and what the pictures show, in two dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.errors import UsageError
from vlitqc.types import FloatArray
from vlitqc_reports import wording

KINDS = {"response": ("Responses", "response"), "picture": ("Pictures", "readable picture")}
"""Kind of vector → the map's title, and what a record without one lacks."""
METHODS = ("pca", "umap", "none")
MOST_POINTS = 100_000
LEARNT_FROM = 20_000
"""Points that UMAP learns its map from at most; it then places the others."""
NEIGHBOURS = 15
LEAST_FOR_UMAP = 10
BLOCK = 4_096

_SIDE = np.iinfo(np.uint16).max


class WithVectors(Protocol):
    """The part of a run that a map is made of; see ``vlitqc.engine.run.Run``."""

    def table(self, columns: list[str]) -> pa.Table:
        """Some columns of the scores."""
        ...

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        """One vector a readable record and which have one, or a reason."""
        ...


@dataclass(frozen=True, slots=True)
class Map:
    """Points on a square of 65,536 steps a side, of one scale on both axes.

    ``index`` has the stored place of each point, None where every place has one, in order. ``explained`` is the
    share of the variance on each axis (PCA), 0 to 1.
    """

    name: str
    title: str
    method: str
    explained: tuple[float, float] | None
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    index: NDArray[np.uint32] | None
    note: str | None

    def packed(self, prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The map's entry in the page's data, and its arrays under names that begin with ``prefix``."""
        arrays: dict[str, NDArray[Any]] = {f"{prefix}_x": self.x, f"{prefix}_y": self.y}
        if self.index is not None:
            arrays[f"{prefix}_i"] = self.index
        entry = {
            "name": self.name,
            "title": self.title,
            "method": self.method,
            "explained": list(self.explained) if self.explained else None,
            "x": f"{prefix}_x",
            "y": f"{prefix}_y",
            "index": f"{prefix}_i" if self.index is not None else None,
            "n": len(self.x),
            "note": self.note,
        }
        return entry, arrays


def projections(
    run: WithVectors, places: NDArray[np.int64], *, method: str, seed: int, most: int = MOST_POINTS
) -> list[Map]:
    """A map of the responses and one of the pictures, as far as the run has vectors of them.

    ``places`` are the rows of the readable records that the page knows of, ascending. ``method`` is "pca", "umap"
    (needs the package umap-learn), or "none". Of more than ``most`` points so many are drawn at random with ``seed``.

    Raises UsageError for another method and for "umap" where its package is missing.
    """
    if method not in METHODS:
        raise UsageError(f"the map {method!r} is unknown; known are {', '.join(METHODS)}")
    if method == "none":
        return []
    if method == "umap":
        _import_umap()
    readable = pc.not_equal(run.table(["state"])["state"], "unreadable").to_numpy()
    samples = (np.cumsum(readable) - 1)[places]
    found = []
    for kind, (title, lacking) in KINDS.items():
        vectors = run.vectors(kind)
        if isinstance(vectors, str):
            continue
        means, has_one = vectors
        with_one = np.flatnonzero(has_one[samples])
        if not len(with_one):
            continue
        chosen = with_one
        if len(with_one) > most:
            drawn = np.random.default_rng(seed).choice(len(with_one), most, replace=False)
            chosen = with_one[np.sort(drawn)]
        points, explained = _placed(means, samples[chosen], method, seed)
        x, y = _on_square(points)
        used = "PCA" if explained else "UMAP"
        notes = [_missing(len(places) - len(with_one), lacking)] if len(with_one) < len(places) else []
        if len(chosen) < len(with_one):
            notes.append(
                f"{wording.count(len(chosen))} of {wording.count(len(with_one))} records are shown, drawn at random"
            )
        if method == "umap" and used != "UMAP":
            notes.append(f"UMAP needs {LEAST_FOR_UMAP} records or more, so this is PCA")
        index = None if len(chosen) == len(places) else chosen.astype(np.uint32)
        found.append(Map(kind, title, used, explained, x, y, index, "; ".join(notes) or None))
    return found


def _missing(n: int, lacking: str) -> str:
    return f"{wording.count(n)} {'record has' if n == 1 else 'records have'} no {lacking} and no point here"


def _placed(
    means: FloatArray, samples: NDArray[np.int64], method: str, seed: int
) -> tuple[NDArray[np.float64], tuple[float, float] | None]:
    if method == "umap" and len(samples) >= LEAST_FOR_UMAP:
        return umap_points(means, samples, seed=seed), None
    return pca_points(means, samples)


def _blocks(means: FloatArray, samples: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    for start in range(0, len(samples), BLOCK):
        block = slice(start, min(start + BLOCK, len(samples)))
        yield block, means[samples[block]].astype(np.float64)


def pca_points(
    means: FloatArray, samples: NDArray[np.int64]
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """The rows ``samples`` of ``means`` on their two principal components, ``float64[n, 2]``, and the share of the
    variance on each.

    Exact: the eigenvectors of the covariance matrix, which is summed block by block, so no more than a block is in
    memory; of fewer rows than dimensions, those of the rows' products, which tell the same. The entry of an
    eigenvector that is largest in size is positive, so that the map is always the same way round. A direction
    without variance has coordinates of 0.
    """
    n, d = len(samples), means.shape[1]
    total = np.zeros(d)
    for _, block in _blocks(means, samples):
        total += block.sum(axis=0)
    mean = total / n
    if n < d:
        rows = means[samples].astype(np.float64) - mean
        products = rows @ rows.T
    else:
        products = np.zeros((d, d))
        for _, block in _blocks(means, samples):
            centred = block - mean
            products += centred.T @ centred
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[::-1][:2].clip(0), vectors[:, ::-1][:, :2]
    variance = float(np.trace(products))
    if n < d:
        vectors = rows.T @ vectors / np.sqrt(np.where(values > 0, values, 1.0))
    # What is left of rounding is no direction.
    used = values > variance * d * np.finfo(np.float64).eps
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(values))]) * used
    points = np.zeros((n, 2))
    for place, block in _blocks(means, samples):
        points[place, : len(values)] = (block - mean) @ vectors
    shares = [float(value / variance) if use else 0.0 for value, use in zip(values, used, strict=True)]
    return points, (shares[0], shares[1] if len(shares) > 1 else 0.0)


def umap_points(means: FloatArray, samples: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """The rows ``samples`` of ``means`` as UMAP places them by cosine, ``float64[n, 2]`` (McInnes et al. 2018).

    Learnt from ``LEARNT_FROM`` of them at most, drawn with ``seed``, which also starts the layout. Raises UsageError
    where umap-learn is missing.
    """
    rng = np.random.default_rng(seed)
    learnt = np.sort(rng.permutation(len(samples))[:LEARNT_FROM])
    layout = _import_umap().UMAP(
        n_components=2,
        n_neighbors=min(NEIGHBOURS, len(learnt) - 1),
        metric="cosine",
        init="pca",
        random_state=seed % 2**32,
        n_jobs=1,
    )
    points = np.zeros((len(samples), 2))
    points[learnt] = layout.fit_transform(means[samples[learnt]])
    others = np.setdiff1d(np.arange(len(samples)), learnt, assume_unique=True)
    for start in range(0, len(others), BLOCK):
        block = others[start : start + BLOCK]
        points[block] = layout.transform(means[samples[block]])
    return points


def _import_umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise UsageError(
            "the map by UMAP needs the package umap-learn; install it with: pip install 'vlitqc[umap]'"
        ) from error
    return umap


def _on_square(points: NDArray[np.float64]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """The points in the middle of the square, as large as they fit in without stretching one axis."""
    low, high = points.min(axis=0), points.max(axis=0)
    span = float((high - low).max()) or 1.0
    scaled = np.rint((points - (low + high) / 2) / span * _SIDE + _SIDE / 2).clip(0, _SIDE).astype(np.uint16)
    return scaled[:, 0].copy(), scaled[:, 1].copy()
