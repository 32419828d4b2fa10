"""The metrics of a run over some of its records: what the scorecard would say of these alone. No model runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vlitqc.engine import dataset
from vlitqc.engine.disk import read_table
from vlitqc.engine.features import NO_ROWS, encoded, read_column
from vlitqc.engine.plan import Plan, Planned, prepare
from vlitqc.engine.run import Run
from vlitqc.engine.vectors import shards_of
from vlitqc.errors import RunError, UsageError
from vlitqc.models.store import ModelStore
from vlitqc.types import DatasetScore, FloatArray, Judged, Spread

T = TypeVar("T")

LIMIT = 50_000
"""Records over which data-set metrics are resolved again unless told otherwise. Clustering is quadratic: of twice as
many, with a few turns each, it takes minutes on two cores, once for every set that is compared."""


def summaries(run: Run, kept: NDArray[np.bool_], *, limit: int | None = LIMIT) -> dict[str, dict[str, Any]]:
    """The scorecard's metric sections, by name, as they are over the readable records of ``kept`` alone.

    Sample metrics come from the table of scores. Data-set metrics are resolved again, with the run's seed, from the
    features that it stored of these records; the value is null, with a reason, where

    * there are more than ``limit`` records (None: no limit);
    * the run holds no profile or no shards any more, or a model or a metric is not the one that it was;
    * the metric would ask a judge again.

    ``kept`` has one value a record, in the order of the input. Over all records the sections are the scorecard's.
    Raises RunError where the table of scores cannot be read, UsageError for a mask of another length.
    """
    state = run.table(["state"])["state"]
    if len(kept) != len(state):
        raise UsageError(f"the mask has {len(kept)} values for the {len(state)} records of {run.place}")
    can_read: NDArray[np.bool_] = pc.not_equal(state, "unreadable").to_numpy()
    mask = np.asarray(kept, np.bool_) & can_read
    n = int(mask.sum())
    planned = _planned(run)
    part: PartFeatures | str
    if limit is not None and n > limit:
        part = f"not resolved for {n:,} records: at most {limit:,}"
    else:
        part = _part(run, len(state), mask[can_read])
    found = {}
    for name, section in run.metrics().items():
        metric = planned[name]
        if section["level"] == "dataset":
            summary = dataset.dataset_summary(name, _resolved(metric, part, n))
        else:
            table = run.table(dataset.score_columns(name, section["parts"])).filter(pa.array(mask))
            built = metric.metric if isinstance(metric, Planned) else None
            summary = dataset.summary_of(table, name, section["parts"], built, seed=run.scorecard["seed"])
        interval = summary["interval"]
        found[name] = {**section, **summary, "interval": list(interval) if interval else None}
    return found


class Parts:
    """The data-set metrics of a run over one part of it after another; what they need is looked up once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._readable: NDArray[np.bool_] = pc.not_equal(
            run.table(["state"])["state"], "unreadable"
        ).to_numpy()
        self._planned = _planned(run)

    def scores(self, kept: NDArray[np.bool_], names: Sequence[str]) -> dict[str, DatasetScore]:
        """These metrics, resolved with the run's seed over the readable records of ``kept``, however many."""
        mask = (kept & self._readable)[self._readable]
        part = _part(self._run, len(self._readable), mask)
        return {name: _resolved(self._planned[name], part, int(mask.sum())) for name in names}


def _resolved(metric: Planned | str, part: PartFeatures | str, n: int) -> DatasetScore:
    """The metric over a part of a run, or the reason why there is none."""
    for fault in (metric, part):
        if isinstance(fault, str):
            return DatasetScore(reason=fault, n_total=n)
    assert isinstance(metric, Planned)
    assert isinstance(part, PartFeatures)
    if isinstance(metric.metric, Judged):
        return DatasetScore(reason="not resolved for a part: a judge would be asked again", n_total=n)
    return dataset.resolve(metric, part)[0]


def _planned(run: Run) -> dict[str, Planned | str]:
    """Each metric of the run, built once more from the profile that it left, or the reason why it cannot be."""
    sections = run.metrics()
    asked = run.info["plan"]
    try:
        plan = Plan(run.profile, (), Path(asked["image_root"]), asked["device"], asked["batch_size"])
    except RunError as error:
        return dict.fromkeys(sections, str(error))
    store = ModelStore(plan.profile, device=plan.device)
    models = {model["slot"]: model["sha256"] for model in run.info["models"]}

    def build(name: str, section: Mapping[str, Any]) -> Planned | str:
        if str(section["reason"]).startswith("model unavailable"):
            return str(section["reason"])
        try:
            (found,) = prepare(replace(plan, metrics=(name,)), store)
        except UsageError as error:
            return str(error)
        if found.metric is None:
            return str(found.unavailable)
        if found.spec.version != section["version"]:
            return f"version {found.spec.version} of the metric is here, and the run had {section['version']}"
        other = [slot for slot, ref in found.models if models.get(slot) != ref.sha256]
        return f"the model in slot {other[0]} is not the one of the run" if other else found

    return {name: build(name, section) for name, section in sections.items()}


def _part(run: Run, n_records: int, kept: NDArray[np.bool_]) -> PartFeatures | str:
    """The features of these readable records of a run, or the reason why they cannot be had."""
    found = shards_of(run.path, n_records, len(kept))
    if found is None:
        return f"{run.place}/shards is not that of the run any more; score the data again"
    parts = []
    at = 0
    for shard, done in found:
        parts.append((shard, kept[at : at + done.n_samples]))
        at += done.n_samples
    return PartFeatures(parts, seed=run.scorecard["seed"])


class PartFeatures:
    """``FeatureStore`` over some samples of shard folders. It is read into memory and writes nothing.

    ``shards`` has each folder with what is kept of its readable samples.
    """

    def __init__(self, shards: Sequence[tuple[Path, NDArray[np.bool_]]], *, seed: int) -> None:
        self._shards = []
        self._n = 0
        for shard, kept in shards:
            if kept.any():
                self._shards.append((shard, kept, np.cumsum(kept) - 1 + self._n))
                self._n += int(kept.sum())
        self._seed = seed
        self._memo: dict[Hashable, Any] = {}

    @property
    def n_samples(self) -> int:
        """How many samples are kept."""
        return self._n

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self._seed

    @property
    def spread(self) -> Spread | None:
        """None: a part lies in memory, for one machine."""
        return None

    def vectors(self, name: str) -> tuple[FloatArray, NDArray[np.int64]]:
        """The rows of a vector feature that belong to kept samples, and the sample of each."""
        found = []
        for shard, kept, places in self._shards:
            if (path := shard / "features" / f"{name}.npy").exists():
                index = np.load(shard / "features" / f"{name}.index.npy")
                values = np.load(path, mmap_mode="r")[kept[index]]
                if len(values):
                    found.append((values, places[index[kept[index]]]))
        if not found:
            return np.empty((0, 0), np.float32), np.empty(0, np.int64)
        return np.concatenate([v for v, _ in found]), np.concatenate([i for _, i in found])

    def strings(self, name: str) -> tuple[list[str], NDArray[np.int64]]:
        """The texts of a string feature that belong to kept samples, and the sample of each."""
        found = list(self._texts(name))
        texts = [text for column, _ in found for text in column.to_pylist()]
        return texts, np.concatenate([NO_ROWS, *(index for _, index in found)])

    def coded(self, name: str) -> tuple[pa.DictionaryArray, NDArray[np.int64]]:
        """The same by number: ``dictionary[indices[i]]``, in the order of first appearance."""
        found = list(self._texts(name))
        return encoded([column for column, _ in found]), np.concatenate(
            [NO_ROWS, *(index for _, index in found)]
        )

    def column(self, name: str, samples: NDArray[np.int64] | None = None) -> list[Any]:
        """A column of the table of scores, for all kept samples or for some of them."""
        values = [value for shard, kept, _ in self._shards for value in read_column(shard, name, kept)]
        return values if samples is None else [values[i] for i in samples.tolist()]

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value stored under ``key``, computed on first use."""
        if key not in self._memo:
            self._memo[key] = compute()
        value: T = self._memo[key]
        return value

    def _texts(self, name: str) -> Iterator[tuple[pa.ChunkedArray, NDArray[np.int64]]]:
        for shard, kept, places in self._shards:
            if (path := shard / "features" / f"{name}.parquet").exists():
                index = np.load(shard / "features" / f"{name}.index.npy")
                yield read_table(path)["text"].filter(pa.array(kept[index])), places[index[kept[index]]]
