"""DBSCAN and near-duplicates over bands of tiles, as machines share them, are those of one machine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlitqc.errors import RunError
from vlitqc.testing import MemoryFeatures
from vlitqc.types import Batch, Image, Media, ModelRef, Origin, Sample, Spread, Tag, Turn
from vlitqc_metrics._algorithms import bands, file_rows
from vlitqc_metrics._algorithms.cluster_summary import Density, cluster
from vlitqc_metrics._algorithms.dbscan import dbscan
from vlitqc_metrics._algorithms.file_rows import FileRows, in_a_file, rows_of
from vlitqc_metrics._algorithms.mapped import SampleMeans
from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups
from vlitqc_metrics._algorithms.tiles import TiledRows
from vlitqc_metrics.duplicates import Duplicates, near_text_pairs
from vlitqc_metrics.instruction_diversity import InstructionDiversity, _parts
from vlitqc_metrics.response_diversity import ResponseDiversity
from vlitqc_metrics.visual_semantic_diversity import VisualSemanticDiversity

Part = TypeVar("Part")
T = TypeVar("T")


def travelled(value: T) -> tuple[T, int]:
    """What arrives elsewhere, with its arrays read-only as Ray gives them, and how many bytes it took."""
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(value, 5, buffer_callback=buffers.append)
    arrived = [bytes(buffer.raw()) for buffer in buffers]
    return pickle.loads(message, buffers=arrived), len(message) + sum(map(len, arrived))


class Elsewhere:
    """A ``Spread`` in this process that sends everything as if to another."""

    def __init__(self, width: int = 1) -> None:
        self.width = width
        self.functions: list[str] = []
        self.n_parts: list[int] = []
        self.largest = 0

    def map(self, function: Callable[[Part], T], parts: Iterable[Part]) -> Iterator[T]:
        self.functions.append(getattr(function, "func", function).__name__)
        self.n_parts.append(0)
        for part in parts:
            self.n_parts[-1] += 1
            sent, size = travelled((function, part))
            answer, back = travelled(sent[0](sent[1]))
            self.largest = max(self.largest, size, back)
            yield answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


def in_file(folder: Path, x: np.ndarray) -> Any:
    """The rows as a run's store hands them out."""
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, x)
    return np.load(path, mmap_mode="r")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Share the work on however few rows."""
    monkeypatch.setattr(file_rows, "SPREAD_FROM", 0)


@st.composite
def rows(draw: st.DrawFn) -> np.ndarray:
    """Rows on a small grid of whole numbers, many of them equal and many exactly as far apart as others."""
    n, d = draw(st.integers(1, 60)), draw(st.integers(1, 4))
    side = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(-side, side + 1, (n, d)).astype(np.float32)
    x[~x.any(axis=1), 0] = 1
    if draw(st.booleans()):
        x += rng.normal(size=x.shape).astype(np.float32) / 4
    return x


EPS = {"euclidean": (0.5, 1.0, 2.0**0.5, 2.0), "cosine": (0.01, 0.1, 0.29289321881345254, 0.5, 1.0, 2.0)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=rows(),
    metric=st.sampled_from(["cosine", "euclidean"]),
    which=st.integers(0, 5),
    min_samples=st.sampled_from([1, 2, 3, 4, 8, 300]),
    block=st.sampled_from([1, 2, 3, 7, 16, 100]),
    n_bands=st.integers(1, 9),
    budget=st.sampled_from([0, 8, 40, 200, 1000, 1 << 27]),
    some=st.booleans(),
)
def test_labels_are_those_of_one_machine(
    x: np.ndarray,
    metric: Any,
    which: int,
    min_samples: int,
    block: int,
    n_bands: int,
    budget: int,
    some: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bands, "BANDS_EACH", 1)
    items = np.flatnonzero(np.arange(len(x)) % 3) if some and len(x) > 1 else None
    eps = EPS[metric][which % len(EPS[metric])]
    expected = dbscan(x if items is None else x[items], eps, min_samples, metric=metric)
    found = dbscan(
        FileRows(in_file(folder, x), items),
        eps,
        min_samples,
        metric=metric,
        block=block,
        edge_budget=budget,
        spread=Elsewhere(n_bands),
    )
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=rows(),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 2**-0.5, 0.9, 0.99, 1.0]),
    block=st.sampled_from([1, 2, 5, 100]),
    n_bands=st.integers(1, 9),
)
def test_groups_are_those_of_one_machine(
    x: np.ndarray,
    threshold: float,
    block: int,
    n_bands: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bands, "BANDS_EACH", 1)
    expected = near_duplicate_groups(x, threshold)
    found = near_duplicate_groups(FileRows(in_file(folder, x)), threshold, block, spread=Elsewhere(n_bands))
    assert found.dtype == expected.dtype
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("n", [0, 1, 2, 7, 10, 101])
@pytest.mark.parametrize("width", [1, 2, 3, 64])
def test_bands_hold_every_tile_once_and_as_many_each(n: int, width: int) -> None:
    whole = TiledRows(np.ones((n, 2), np.float32), "cosine", 10)
    parts = bands.ranges(whole, width)
    apart = np.arange(n)
    tiles = [[(rows.start, col) for rows, col in bands.Band(whole, part)._tiles(apart)] for part in parts]
    assert list(chain(*tiles)) == [(row, col) for row in range(0, n, 10) for col in range(row, n, 10)]
    sizes = [len(part) for part in tiles]
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) <= bands.BANDS_EACH * width


def cloud(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit rows in groups of different density."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 30), d))
    x = centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, d)) * rng.uniform(0, 1, (n, 1))
    unit: np.ndarray = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_only_bands_with_too_many_waiting_pairs_are_computed_again(folder: Path) -> None:
    # The first rows are near each other, and nothing else is: their tiles lie in the first bands.
    x = np.eye(400, dtype=np.float32)
    x[:60] = 0
    x[:60, 0] = 1
    x[:60, 1:61] += 0.5 * np.eye(60, dtype=np.float32)
    few = Elsewhere(2)
    mapped = FileRows(in_file(folder, x))
    labels = dbscan(mapped, 0.3, 100, block=20, edge_budget=8 * 800, spread=few)
    assert labels.tolist() == dbscan(x, 0.3, 100).tolist()
    assert few.functions == ["dbscan_band", "border_band"]
    assert few.n_parts[0] == 8
    assert 0 < few.n_parts[1] < 4
    enough = Elsewhere(2)
    dbscan(mapped, 0.3, 100, block=20, spread=enough)
    assert enough.functions == ["dbscan_band"]


def test_what_travels_is_small_beside_the_rows(folder: Path) -> None:
    x = cloud(4000, 256)
    spread = Elsewhere(2)
    items = np.arange(3999)
    found = dbscan(FileRows(in_file(folder, x), items), 0.3, 3, block=256, spread=spread)
    assert found.tolist() == dbscan(x[:-1], 0.3, 3).tolist()
    # 8 bytes a row for its number, length and factor each, or for what comes back.
    assert spread.largest < 40 * len(x) < x.nbytes / 20


def test_faults_are_those_of_one_machine(folder: Path) -> None:
    x = cloud(40, 4)
    x[17] = 0
    for call in (
        lambda r, s: dbscan(r, 0.3, 3, spread=s),
        lambda r, s: near_duplicate_groups(r, 0.9, spread=s),
    ):
        with pytest.raises(ValueError, match="row 17 of x is all zeros"):
            call(FileRows(in_file(folder, x)), Elsewhere())


def test_a_machine_that_does_not_see_the_file_says_so(folder: Path) -> None:
    rows = FileRows(in_file(folder, cloud(40, 4)))
    message = pickle.dumps(rows)
    np.testing.assert_array_equal(pickle.loads(message)[5:9], rows[5:9])
    (folder / "gone").mkdir()
    path = Path(str(rows._x.filename))  # type: ignore[attr-defined]
    path.rename(folder / "gone" / path.name)
    with pytest.raises(RunError, match="every machine must see the run's folder under the same path"):
        pickle.loads(message)
    path.write_bytes(b"too short")
    with pytest.raises(RunError, match="cannot be read where a part of the work was sent"):
        pickle.loads(message)
    # A copy of another run: as large, and with other rows.
    np.save(path, cloud(40, 4, seed=1))
    with pytest.raises(RunError, match=r"it holds other rows\); every machine must see the run's folder"):
        pickle.loads(message)
    np.save(path, cloud(40, 4))
    np.testing.assert_array_equal(pickle.loads(message)[:], cloud(40, 4))


def test_only_a_whole_mapped_matrix_is_in_a_file(folder: Path) -> None:
    x = in_file(folder, cloud(40, 4))
    assert in_a_file(x)
    # Views have the map's name and offset, and other rows.
    for other in (x[1:], x[:, 1:], np.array(x), x.T, x.view(np.int32)):
        assert not in_a_file(other)
        with pytest.raises(ValueError, match="x must be a matrix as"):
            FileRows(other)


def test_few_rows_stay_on_one_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = in_file(folder, cloud(90, 8))
    spread = Elsewhere()
    monkeypatch.setattr(file_rows, "SPREAD_FROM", 80)
    assert isinstance(rows_of(x, None, spread), FileRows)
    assert isinstance(rows_of(x, np.arange(80), spread), FileRows)
    assert isinstance(rows_of(x, np.arange(79), spread), np.ndarray)
    assert rows_of(x, None, None) is x
    assert rows_of(np.array(x), None, spread).shape == x.shape
    assert isinstance(rows_of(np.array(x), None, spread), np.ndarray)


@pytest.mark.parametrize("max_items", [50, 200])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.usefixtures("always")
def test_a_clustering_is_that_of_one_machine(folder: Path, max_items: int, some: bool) -> None:
    x = in_file(folder, cloud(120, 8))
    items = np.arange(3, 117, 2) if some else None
    spread = Elsewhere()
    density = Density(0.3, 3, max_items)
    alone, shared = (cluster(x, density, seed=3, items=items, spread=s) for s in (None, spread))
    assert spread.functions == ["dbscan_band"]
    assert alone.labels.tolist() == shared.labels.tolist()
    assert (alone.n_clusters, alone.n_clustered) == (shared.n_clusters, shared.n_clustered)


@pytest.mark.usefixtures("always")
def test_near_text_of_a_large_bucket_is_that_of_one_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlitqc_metrics.duplicates.BLOCK", 50)
    rng = np.random.default_rng(5)
    x = cloud(300, 8, 5)
    sample_of = np.sort(np.concatenate([np.arange(150), rng.integers(0, 150, 150)]))
    x[np.flatnonzero(sample_of == 70)] = 0  # nothing is near a mean of zeros
    means = SampleMeans(in_file(folder, x), sample_of, 150)
    same = np.zeros(150, np.int64)
    long = np.full(150, 9)
    spread = Elsewhere(2)
    alone, shared = (near_text_pairs(means, same, same, long, 0.8, spread=s)[0] for s in (None, spread))
    assert set(spread.functions) == {"near_duplicate_band"}
    assert len(alone) > 5
    assert alone.tolist() == shared.tolist()
    arrived, _ = travelled(FileRows(means.rows, *means.places(np.arange(150))))
    assert arrived[:].tobytes() == means(np.arange(150)).tobytes()
    assert arrived[40:43].tobytes() == means(np.arange(40, 43)).tobytes()


class Shared(MemoryFeatures):
    """A store whose vectors lie in files and whose work is shared."""

    def __init__(self, memory: MemoryFeatures, folder: Path, spread: Elsewhere) -> None:
        self.__dict__.update(memory.__dict__)
        self._folder = folder
        self._elsewhere = spread

    @property
    def spread(self) -> Spread:
        return self._elsewhere

    def vectors(self, name: str) -> Any:
        rows, index = super().vectors(name)
        return (in_file(self._folder, rows) if len(rows) else rows), index


class Points:
    """A text's last number and a picture's first pixel choose a point on an arc."""

    ref = ModelRef("TextEncoder", "points", "1", "b" * 64)

    def encode_texts(self, texts: Sequence[str]) -> Any:
        return self._points([int(text.split()[-1]) for text in texts])

    def encode_images(self, images: Sequence[Any]) -> Any:
        return self._points([int(image[0, 0, 0]) for image in images])

    def sentences(self, text: str) -> list[str]:
        return [text]

    def _points(self, numbers: Sequence[int]) -> Any:
        angles = 0.013 * np.array([n + 7 * (n // 9) for n in numbers])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class ByFirstWord:
    """The task of an instruction is its first word."""

    ref = ModelRef("Tagger", "first word", "1", "c" * 64)

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        return [text.split()[0] for text in instructions]

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        return [Tag(proposal) for proposal in proposals]


def conversations(n: int) -> Batch:
    rng = np.random.default_rng(2)
    words = [
        "lighthouse",
        "rocks",
        "clouds",
        "harbour",
        "boats",
        "gulls",
        "sand",
        "dunes",
        "grass",
        "wind",
        "tide",
        "pier",
        "ropes",
    ]
    samples, images = [], []
    for i in range(n):
        said = " ".join(rng.choice(words, 3, replace=False))
        turn = Turn(
            f"{['Describe', 'Count', 'Name', 'Find'][i % 4]} {said}", f"one two three four {rng.integers(90)}"
        )
        samples.append(
            Sample(str(i), (turn,), (Media("image", f"{i}.png"),), {}, Origin("d.json", i, i, 0, 0, ""))
        )
        shown = np.full((2, 2, 3), rng.integers(90), np.uint8)
        images.append((Image(f"{i}.png", shown, None, f"sha-{i}"),))
    return Batch(samples, images)


@pytest.mark.parametrize(
    ("metric", "sent"),
    [
        (ResponseDiversity(Points(), eps=0.0002), {"dbscan_band"}),
        (VisualSemanticDiversity(Points(), eps=0.0002, max_items=100), {"dbscan_band"}),
        (Duplicates(Points(), Points(), 0.9999, 0.9999), {"near_duplicate_band"}),
        (InstructionDiversity(ByFirstWord(), min_words=2), {"themes_of"}),
        (InstructionDiversity(ByFirstWord(), min_words=2, global_step="louvain"), {"themes_of"}),
    ],
)
@pytest.mark.usefixtures("always")
def test_metrics_score_as_on_one_machine(
    metric: Any, sent: set[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlitqc_metrics.instruction_diversity.SPREAD_FROM", 1)
    memory = MemoryFeatures.collect(metric, [conversations(150)])
    spread = Elsewhere(2)
    alone, shared = (metric.resolve(store) for store in (memory, Shared(memory, folder, spread)))
    assert set(spread.functions) == sent
    assert alone.value is not None
    assert (alone.value, alone.interval, alone.details) == (shared.value, shared.interval, shared.details)
    for name, column in alone.columns.items():
        assert column.equals(shared.columns[name])
    assert alone.issues == shared.issues


def test_tasks_travel_in_parts_of_like_size() -> None:
    texts = pa.array([f"text {i % 50}" for i in range(100)]).dictionary_encode()
    tasks = [list(range(a, b)) for a, b in ((0, 40), (40, 45), (45, 50), (50, 70), (70, 71), (71, 100))]
    for least, sizes in ((1, [1, 1, 1, 1, 1, 1]), (25, [1, 3, 2]), (1000, [6])):
        parts = list(_parts(texts, tasks, least))
        assert [len(part) for part in parts] == sizes
        assert [len(texts) for part in parts for texts in part] == [40, 5, 5, 20, 1, 29]
