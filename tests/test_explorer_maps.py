"""Maps in two dimensions, and the vectors that they are made of."""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from vlitqc.engine.run import Run
from vlitqc.engine.shards import Done, folder, write_shard
from vlitqc.engine.vectors import features_of, shards_of, unit_means
from vlitqc.errors import RunError, UsageError
from vlitqc.types import Features, FloatArray
from vlitqc_reports.explorer import maps
from vlitqc_reports.explorer.maps import Map, pca_points, projections, umap_points


@dataclass
class WithVectors:
    """The part of a run that a map is made of."""

    kinds: dict[str, FloatArray]
    unreadable: Sequence[int] = ()
    asked: list[str] = field(default_factory=list)

    def table(self, columns: list[str]) -> pa.Table:
        assert columns == ["state"]
        n = len(next(iter(self.kinds.values()))) + len(self.unreadable)
        return pa.table({"state": ["unreadable" if i in self.unreadable else "scored" for i in range(n)]})

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        self.asked.append(kind)
        if kind not in self.kinds:
            return f"this run has no vectors of {kind}s"
        return self.kinds[kind], np.asarray(self.kinds[kind].any(axis=1))


def unit(n: int, d: int, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32) * np.arange(d, 0, -1)
    made: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def only(found: list[Map]) -> Map:
    assert len(found) == 1
    return found[0]


# ---------------------------------------------------------------- PCA


@pytest.mark.parametrize("d", [7, 80, 300])
def test_pca_is_that_of_a_singular_value_decomposition_whatever_the_block(
    d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit(90, d)
    wanted = np.arange(5, 85)
    points, explained = pca_points(rows, wanted)
    centred = rows[wanted].astype(np.float64) - rows[wanted].astype(np.float64).mean(axis=0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :2] * values[:2] * np.sign(right[[0, 1], np.abs(right[:2]).argmax(axis=1)])
    np.testing.assert_allclose(points, expected, atol=1e-9)
    np.testing.assert_allclose(explained, (values**2 / (values**2).sum())[:2], atol=1e-12)
    monkeypatch.setattr(maps, "BLOCK", 7)
    np.testing.assert_allclose(pca_points(rows, wanted)[0], points, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "explained"),
    [
        ([[1, 0]], (0, 0)),
        ([[1, 0]] * 5, (0, 0)),
        ([[1.0], [-1.0]], (1, 0)),
        ([[1, 0, 0], [0, 1, 0]], (1, 0)),
        ([[1e-3, 0, 1], [0, 1e-3, 1]], (1, 0)),
    ],
)
def test_a_direction_without_variance_has_zeros(rows: Any, explained: tuple[float, float]) -> None:
    points, shares = pca_points(np.array(rows, np.float32), np.arange(len(rows)))
    assert np.isfinite(points).all()
    assert shares == pytest.approx(explained)
    assert not points[:, 1].any()


# ---------------------------------------------------------------- maps


def test_a_map_keeps_the_aspect_and_fills_the_square_in_one_direction() -> None:
    rows = unit(60, 5)
    found = only(projections(WithVectors({"response": rows}), np.arange(60), method="pca", seed=0))
    points, _ = pca_points(rows, np.arange(60))
    x, y = found.x.astype(np.int64), found.y.astype(np.int64)
    sides = np.ptp(x), np.ptp(y)
    assert max(sides) == 65_535
    assert min(x.min(), y.min()) == 0
    assert sides[0] / sides[1] == pytest.approx(np.ptp(points[:, 0]) / np.ptp(points[:, 1]), rel=1e-3)
    assert (x.min() + x.max()) / 2 == pytest.approx(32_767.5, abs=1)
    assert (found.name, found.title, found.method, found.index, found.note) == (
        "response", "Responses", "PCA", None, None,
    )  # fmt: skip


def test_points_are_those_of_the_places_and_records_without_a_vector_are_counted() -> None:
    rows = unit(40, 5)
    rows[[0, 7, 33]] = 0
    run = WithVectors({"picture": rows}, unreadable=[2, 20])
    readable = np.array([i for i in range(42) if i not in (2, 20)])
    places = readable[::2]
    found = only(projections(run, places, method="pca", seed=0))
    samples = np.arange(40)[::2]
    with_one = [i for i, sample in enumerate(samples) if sample not in (0, 7, 33)]
    assert found.index is not None
    assert found.index.tolist() == with_one
    alone = only(
        projections(WithVectors({"picture": rows[samples[with_one]]}), np.arange(19), method="pca", seed=0)
    )
    np.testing.assert_array_equal(found.x, alone.x)
    assert found.note == "1 record has no readable picture and no point here"
    assert run.asked == ["response", "picture"]


def test_too_many_points_are_drawn_with_the_seed() -> None:
    run = WithVectors({"response": unit(80, 4)})
    found = only(projections(run, np.arange(80), method="pca", seed=3, most=20))
    assert found.index is not None
    assert len(found.index) == len(found.x) == len(set(found.index.tolist())) == 20
    assert (np.diff(found.index.astype(np.int64)) > 0).all()
    assert found.note == "20 of 80 records are shown, drawn at random"
    again = only(projections(run, np.arange(80), method="pca", seed=3, most=20))
    other = only(projections(run, np.arange(80), method="pca", seed=4, most=20))
    assert again.index is not None
    assert other.index is not None
    np.testing.assert_array_equal(found.index, again.index)
    assert (found.index != other.index).any()


def test_the_entry_of_a_map_names_its_arrays() -> None:
    rows = unit(12, 3)
    rows[4] = 0
    entry, arrays = only(
        projections(WithVectors({"response": rows}), np.arange(12), method="pca", seed=0)
    ).packed("map0")
    assert json.loads(json.dumps(entry)) == entry
    assert (entry["x"], entry["y"], entry["index"], entry["n"]) == ("map0_x", "map0_y", "map0_i", 11)
    assert {name: (a.dtype.name, len(a)) for name, a in arrays.items()} == {
        "map0_x": ("uint16", 11), "map0_y": ("uint16", 11), "map0_i": ("uint32", 11),
    }  # fmt: skip


def test_no_map_without_vectors_and_none_when_none_is_wanted() -> None:
    run = WithVectors({"response": np.zeros((5, 3), np.float32)})
    assert projections(run, np.arange(5), method="pca", seed=0) == []
    assert projections(WithVectors({"response": unit(5, 3)}), np.arange(5), method="none", seed=0) == []


def test_another_method_is_named() -> None:
    with pytest.raises(UsageError, match=r"'tsne' is unknown; known are pca, umap, none"):
        projections(WithVectors({}), np.arange(0), method="tsne", seed=0)


# ---------------------------------------------------------------- UMAP


def test_umap_keeps_neighbours_together_and_places_those_it_did_not_learn_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("umap")
    monkeypatch.setattr(maps, "LEARNT_FROM", 60)
    truth = np.arange(75) % 3
    rows = np.eye(3, 8, dtype=np.float32)[truth] + 0.03 * unit(75, 8)
    found = only(projections(WithVectors({"response": rows}), np.arange(75), method="umap", seed=5))
    assert (found.method, found.explained) == ("UMAP", None)
    points = np.stack([found.x, found.y], axis=1).astype(np.float64)
    centres = np.array([points[truth == k].mean(axis=0) for k in range(3)])
    assert (np.linalg.norm(points[:, None] - centres[None], axis=2).argmin(axis=1) == truth).all()
    np.testing.assert_array_equal(
        umap_points(rows, np.arange(75), seed=5), umap_points(rows, np.arange(75), seed=5)
    )


def test_umap_of_a_few_points_is_pca_and_says_so() -> None:
    pytest.importorskip("umap")
    found = only(projections(WithVectors({"response": unit(4, 3)}), np.arange(4), method="umap", seed=0))
    assert found.method == "PCA"
    assert found.note == "UMAP needs 10 records or more, so this is PCA"


def test_without_its_package_umap_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_umap(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "umap":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_umap)
    with pytest.raises(UsageError, match=r"pip install 'vlitqc\[umap\]'"):
        projections(WithVectors({"response": unit(20, 3)}), np.arange(20), method="umap", seed=0)


# ---------------------------------------------------------------- the run's vectors


def made(
    path: Path, rows: Sequence[Sequence[Sequence[float]]], unreadable: Sequence[int] = (), per: int = 3
) -> Run:
    """A run whose record i has the vectors ``rows[i]`` of pictures, ``per`` records a shard."""
    n = len(rows)
    (path / "scores").mkdir(parents=True)
    state = ["unreadable" if i in unreadable else "scored" for i in range(n)]
    pq.write_table(pa.table({"row": range(n), "state": state}), path / "scores" / "part-00000.parquet")
    (path / "shards").mkdir()
    for index, start in enumerate(range(0, n, per)):
        readable = [i for i in range(start, min(start + per, n)) if i not in unreadable]
        pairs = [(k, vector) for k, i in enumerate(readable) for vector in rows[i]]
        values = np.array([v for _, v in pairs], np.float32) if pairs else np.empty((0, 0), np.float32)
        feature = Features(values, np.array([k for k, _ in pairs], np.int64))
        done = Done("f", min(per, n - start), len(readable))
        write_shard(
            folder(path / "shards", index), done, pa.table({"row": readable}), [], {"picture-x": feature}
        )
    (path / "scorecard.json").write_text(json.dumps({"principles": [], "seed": 0}))
    (path / "run.json").write_text(json.dumps({"plan": {"seed": 0}, "input": {"paths": []}}))
    return Run(path)


def test_vectors_of_a_run_are_unit_means_of_its_readable_records(tmp_path: Path) -> None:
    run = made(tmp_path / "r", [[[3, 0]], [], [[1, 0], [0, 1]], [[9, 9]], [], [[0, 2]], []], unreadable=[3])
    found = run.vectors("picture")
    assert not isinstance(found, str)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[0], [[1, 0], [0, 0], [half, half], [0, 0], [0, 1], [0, 0]], atol=1e-6)
    assert found[1].tolist() == [True, False, True, False, True, False]
    assert found[0].dtype == np.float32
    assert run.vectors("response") == "this run has no vectors of responses"


def test_members_without_any_vector_have_zeros(tmp_path: Path) -> None:
    run = made(tmp_path / "r", [[[3, 0]], [], [], []])
    store = features_of(run.path, 4, 4, seed=0)
    assert not isinstance(store, str)
    found = unit_means(run.path, store, "picture", np.array([1, 3]))
    assert found is not None
    assert found.tolist() == [[0, 0], [0, 0]]
    assert unit_means(run.path, store, "picture", np.empty(0, np.int64)) is None


def test_vectors_of_shards_that_are_gone_are_a_reason(tmp_path: Path) -> None:
    run = made(tmp_path / "r", [[[1, 0]]] * 7)
    assert len(shards_of(run.path, 7, 7) or ()) == 3
    assert len(shards_of(run.path, 6, 6) or ()) == 2
    assert shards_of(run.path, 5, 5) is None
    assert shards_of(run.path, 7, 6) is None
    (folder(run.path / "shards", 1) / "done.json").unlink()
    assert run.vectors("picture") == "the run's features are gone or another run's"


def test_vectors_of_two_widths_are_named(tmp_path: Path) -> None:
    run = made(tmp_path / "r", [[[1, 0]]] * 6)
    np.save(folder(run.path / "shards", 1) / "features" / "picture-x.npy", np.zeros((3, 3), np.float32))
    with pytest.raises(RunError, match="picture-x differ in width"):
        run.vectors("picture")
