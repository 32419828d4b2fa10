"""Clean records against the same records corrupted: which metric notices what, and what moves that should not."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vlitqc.engine import inputs
from vlitqc.engine.mirror import is_url
from vlitqc.engine.plan import choose_metrics
from vlitqc.engine.run import Run, model_store, score
from vlitqc.engine.subset import Parts
from vlitqc.errors import RunError, UnknownName, UsageError
from vlitqc.formats import Reader
from vlitqc.formats.names import Names
from vlitqc.profiles import Profile
from vlitqc.registry import load_metric
from vlitqc.types import MetricSpec
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions import CORRUPTIONS, Corruption
from vlitqc.validity.drawing import clean_cases
from vlitqc.validity.result import FEWEST, FORMAT, SUFFIX, Pairs, Validity, cell, metric_section
from vlitqc.validity.written import Pictures, Shelf, write

AT_ONCE = 64
"""Cases that are corrupted together where each is by itself: their pictures are in memory."""


class Progress(Protocol):
    """Told how far the experiment is; the command line draws it."""

    def records(self, done: int, share: float | None) -> None:
        """``done`` records are scored, and this share of the sets, 0 to 1; None where nobody knows."""
        ...

    def stage(self, name: str) -> None:
        """The next corruption has begun."""
        ...


def validate(
    data: inputs.Data | Run,
    profile: str | None = None,
    *,
    metrics: str | Sequence[str] | None = None,
    corruptions: str | Sequence[str] | None = None,
    records: int = 100,
    parts: int = 20,
    seed: int = 0,
    image_root: str | Path | None = None,
    limit: int | None = None,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    lm: str | None = None,
    judge: Mapping[str, Any] | None = None,
    judge_limit: int | None = None,
    progress: Progress | None = None,
) -> Validity:
    """Corrupt clean records in controlled ways and measure which metrics notice.

    Clean records are drawn from the data; pictures are reduced to a longest side of 640 pixels. Every corruption, in
    each of its strengths, makes another data set of them, which is scored as any other. Then, of each metric and
    corruption:

    * A score of records (of a sample metric, or the column of a data-set metric that has its name): the AUC, the
      probability that a clean record lies on the right side of a corrupted one, over all pairs of the two; ties
      count half.
    * A value of the data set: the same over its values on random halves of the records, equal halves on both sides.
      Halves of one data set overlap: the interval, over the halves, is of this data set, not of others like it.
    * Where the metric is no target of the corruption: how far it moves, max(AUC, 1 − AUC).
    * Strengths: the mean of each record's (each half's) own Spearman correlation of strength, 0 for clean, and score.
    * The share of records whose score became null under the corruption, which are in no AUC.

    Intervals are 95%, bootstrapped over records. The same seed gives the same result.

    Args:
        data: what ``score`` takes but for records in memory, a run directory, or a Run; of a run it is the input.
        profile: as of ``score``; by default that of the data's run, ``"lite"`` without one.
        metrics: names of metrics, or one name; by default all of the profile.
        corruptions: names of corruptions, or one name; by default all.
        records: clean records to draw.
        parts: random halves on which metrics of the data set are resolved.
        seed: of the draw, the corruptions, the halves and the bootstrap.
        image_root: as of ``score``; ``limit``, ``format``, ``map``, ``allow_outside``, ``device``, ``batch_size``,
            ``lm``, ``judge`` and ``judge_limit`` likewise.
        progress: told how far the experiment is.

    Every set lies in a temporary folder while it is scored; memory is that of scoring and of some hundred decoded
    pictures, more where records have several. Models are loaded once. What they say of unchanged texts and pictures
    is remembered, apart from the user's cache, and forgotten at the end.

    Raises:
        UsageError, UnknownName: an option or a name is wrong.
        InputError, FormatError: the input cannot be used, or has no clean record.
        RunError: the run cannot be opened.
    """
    counts = (("records", records, FEWEST), ("parts", parts, FEWEST), ("seed", seed, 0), ("limit", limit, 1))
    for option, value, least in counts:
        if value is not None and value < least:
            raise UsageError(f"{option}={value}: expected {least} or more")
    chosen = choose_corruptions(corruptions)
    source = _Source.of(data, image_root, format, map, allow_outside)
    asked: str | Profile = profile or (source.run.profile if source.run else "lite")
    models = model_store(asked, lm=lm, judge=judge, judge_limit=judge_limit, device=device)
    names = choose_metrics(models.profile, metrics)
    with tempfile.TemporaryDirectory(prefix="vlitqc-validate-") as folder:
        root = Path(folder).resolve()
        if progress:
            progress.stage("clean records")
        shelf = Shelf(root, "clean")
        cases = clean_cases(
            source.reader,
            source.root,
            shelf,
            records=records,
            seed=seed,
            limit=source.limit if limit is None else limit,
            allow_outside=source.allow_outside,
        )

        def score_set(path: Path) -> Run:
            return score(
                path,
                metrics=names,
                image_root=root,
                out=path.with_suffix(".vlitqc"),
                batch_size=batch_size,
                format="jsonl",
                report=False,
                cache=root / "cache",
                models=models,
            )

        lab = _Lab(root, shelf, cases, score_set, parts=parts, seed=seed)
        with lab.clean_set() as clean:
            cases = lab.cases
            found = _cells(lab, clean, chosen, progress)
            sections = {
                name: metric_section(section, clean.scores.get(name))
                for name, section in clean.metrics.items()
            }
    return Validity(
        {
            "format": FORMAT,
            "vlitqc": metadata.version("vlitqc"),
            "data": source.name,
            "data_sha256": source.told["sha256"],
            "profile": models.profile.name,
            "profile_sha256": models.profile.sha256,
            "records": len(cases),
            "parts": parts,
            "seed": seed,
            "metrics": sections,
            "corruptions": {
                one.name: {
                    "principle": str(one.principle),
                    "summary": one.summary,
                    "strengths": list(one.strengths),
                    "unit": one.unit,
                    "scope": one.scope,
                }
                for one in chosen
            },
            "cells": found,
        },
        run=source.run,
        beside=source.beside,
    )


def choose_corruptions(asked: str | Sequence[str] | None) -> list[Corruption]:
    """The corruptions asked for, or all, in their order. Raises UnknownName."""
    names = {asked} if isinstance(asked, str) else set(asked or CORRUPTIONS)
    for name in sorted(names):
        if name not in CORRUPTIONS:
            raise UnknownName("corruption", name, CORRUPTIONS)
    return [corruption for name, corruption in CORRUPTIONS.items() if name in names]


# ---------------------------------------------------------------- where the records come from


@dataclass(frozen=True, slots=True)
class _Source:
    """An input, opened; ``run`` is that which was given, or the finished one of the same input."""

    run: Run | None
    reader: Reader
    root: Path
    told: Mapping[str, Any]
    allow_outside: bool
    beside: Path
    limit: int | None = None

    @classmethod
    def of(
        cls,
        data: inputs.Data | Run,
        image_root: str | Path | None,
        format: str | None,
        map: Mapping[str, str] | None,
        allow_outside: bool,
    ) -> _Source:
        run = _run_given(data)
        limit = None
        if run is not None:
            if format or map:
                raise UsageError("format and map are those of the run; pass its input to read it otherwise")
            told, plan = run.info["input"], run.info["plan"]
            reader, root, limit = run.reader, Path(image_root or plan["image_root"]), plan.get("limit")
            allow_outside = allow_outside or bool(plan["allow_outside"])
            # The mirror of a run at a URL is nobody's place to look; the name of a run may have dots in it.
            place = inputs.run_of([Path(path) for path in told["paths"]]) if run.mirror else run.path
            beside = place.with_name(place.name.removesuffix(".vlitqc") + SUFFIX)
        else:
            assert not isinstance(data, Run)
            paths, _ = inputs.given(data)
            if not paths:
                raise UsageError(
                    "records in memory cannot be corrupted; write them to a file and pass its path"
                )
            names = Names.parse(f"{ours}={theirs}" for ours, theirs in (map or {}).items())
            reader = inputs.opened(paths, format, names)
            told = inputs.describe(reader, paths, format, names)
            root = Path(image_root) if image_root else inputs.find_root(reader)
            run = _finished(paths, told)
            beside = inputs.run_of(paths).with_suffix(SUFFIX)
        if not root.is_dir():
            raise UsageError(f"the image root {root} is not a folder; pass --image-root DIR")
        return cls(run, reader, root, told, allow_outside, beside, limit)

    @property
    def name(self) -> str:
        """The first path's last part, and how many more there are."""
        return inputs.in_words([Path(path).name for path in self.told["paths"]])


def _run_given(data: inputs.Data | Run) -> Run | None:
    """The run, where ``data`` is one or its folder or URL."""
    if isinstance(data, Run):
        return data
    one = data[0] if isinstance(data, list | tuple) and len(data) == 1 else data
    if isinstance(one, str | Path) and (is_url(str(one)) or (Path(one) / "run.json").is_file()):
        return Run.open(one)
    return None


def _finished(paths: Sequence[Path], told: Mapping[str, Any]) -> Run | None:
    """The run of these paths at its usual place, where there is one, of what they hold now."""
    try:
        run = Run.open(paths)
    except (RunError, UsageError):
        return None
    return run if run.info["input"].get("sha256") == told["sha256"] else None


# ---------------------------------------------------------------- scoring


class _Scored:
    """What the metrics say of one set of cases, while its folder is there.

    ``scores`` have one value a case (NaN: null) for every metric with a score of records; ``whole`` are the others.
    """

    def __init__(self, run: Run, parts: int, seed: int) -> None:
        self.metrics = run.metrics()
        specs = {name: _spec(name) for name in self.metrics}
        columns = [name for name, spec in specs.items() if spec.level == "sample" or name in spec.columns]
        table = run.table(["state", *columns])
        self.scores = {
            name: table[name].to_pandas().to_numpy(np.float64, na_value=np.nan) for name in columns
        }
        self.whole = [name for name in self.metrics if name not in self.scores]
        self.tasks = run.scores["task"].fillna("").tolist() if "task" in run.scores else None
        self._n = len(table)
        self._parts = Parts(run)
        self._count, self._seed = parts, seed
        self._values: dict[bytes, dict[str, NDArray[np.float64]]] = {}

    def on_halves(self, places: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Metrics of the whole set on random halves of these cases: one value a half, NaN for null."""
        key = places.tobytes()
        if key not in self._values:
            found: dict[str, list[float]] = {name: [] for name in self.whole}
            for half in halves(places, self._count, self._seed):
                kept = np.zeros(self._n, np.bool_)
                kept[half] = True
                for name, resolved in self._parts.scores(kept, self.whole).items():
                    found[name].append(np.nan if resolved.value is None else resolved.value)
            self._values[key] = {name: np.array(values) for name, values in found.items()}
        return self._values[key]


def halves(places: NDArray[np.int64], parts: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Random halves of these numbers, each drawn from all of them."""
    rng = np.random.default_rng(seed)
    for _ in range(parts):
        yield np.sort(rng.choice(places, (len(places) + 1) // 2, replace=False))


def _spec(name: str) -> MetricSpec:
    spec: MetricSpec = load_metric(name).spec
    return spec


class _Lab:
    """Writes sets of cases, has them scored, and clears them away."""

    def __init__(
        self,
        root: Path,
        shelf: Shelf,
        cases: Sequence[Case],
        score_set: Callable[[Path], Run],
        *,
        parts: int,
        seed: int,
    ) -> None:
        self.cases = list(cases)
        self.scored = 0
        self._root, self._shelf, self._score = root, shelf, score_set
        self.seed = seed
        self._parts = parts

    @contextmanager
    def clean_set(self) -> Iterator[_Scored]:
        """The clean cases, scored; from then on they know their tasks."""
        with self._set(self.cases, self._shelf) as scored:
            if scored.tasks is not None:
                self.cases = [
                    replace(case, task=task) for case, task in zip(self.cases, scored.tasks, strict=True)
                ]
            yield scored

    @contextmanager
    def corrupted_set(
        self, corruption: Corruption, strength: float
    ) -> Iterator[tuple[NDArray[np.int64], _Scored | None]]:
        """The places of the cases that are corrupted, and the set, scored; None where they are too few.

        Where there is nothing to corrupt the set has the clean case, so that a metric which holds a record against
        others of its data set finds the same ones.
        """
        shelf = Shelf(self._root, "corrupted", clean=self._shelf)
        try:
            answers = list(self._corrupted(corruption, strength, shelf))
            places = np.flatnonzero([answer is not None for answer in answers])
            if len(places) < FEWEST:
                yield places, None
                return
            cases = [answer or case for answer, case in zip(answers, self.cases, strict=True)]
            with self._set(cases, shelf) as scored:
                yield places, scored
        finally:
            shutil.rmtree(self._root / "corrupted", ignore_errors=True)

    @contextmanager
    def _set(self, cases: Sequence[Case], shelf: Shelf) -> Iterator[_Scored]:
        folder = Path(tempfile.mkdtemp(dir=self._root))
        try:
            write(folder / "set.jsonl", cases, shelf)
            self.scored += len(cases)
            yield _Scored(self._score(folder / "set.jsonl"), self._parts, self.seed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _corrupted(self, corruption: Corruption, strength: float, shelf: Shelf) -> Iterator[Case | None]:
        """Each case under the corruption, its pictures in files."""
        # The same random numbers for every strength: a stronger fault is more of the same.
        rng = np.random.default_rng([self.seed, zlib.crc32(corruption.name.encode())])
        size = AT_ONCE if corruption.scope == "case" else len(self.cases)
        for start in range(0, len(self.cases), size):
            some = self.cases[start : start + size]
            answers = corruption.apply(some, strength, rng)
            if len(answers) != len(some):
                raise RunError(
                    f"{corruption.name} made {len(answers)} cases of {len(some)}; expected as many"
                )
            for answer in answers:
                yield answer and replace(answer, pictures=Pictures(shelf, shelf.references(answer)))


# ---------------------------------------------------------------- the matrix


def _cells(
    lab: _Lab, clean: _Scored, corruptions: Sequence[Corruption], progress: Progress | None
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    sets = sum(len(one.strengths) for one in corruptions)
    done = 0
    for corruption in corruptions:
        if progress:
            progress.stage(corruption.name)
        pairs: dict[str, list[Pairs]] = {name: [] for name in clean.metrics}
        for strength in corruption.strengths:
            with lab.corrupted_set(corruption, strength) as (places, corrupted):
                for name, pair in _pairs(clean, corrupted, places, len(lab.cases)):
                    pairs[name].append(pair)
            done += 1
            if progress:
                progress.records(lab.scored, done / sets)
        for name, section in clean.metrics.items():
            found.append(cell(section, corruption, pairs[name], seed=lab.seed))
    # By metric, as the scorecard has them, then by corruption.
    order = list(clean.metrics)
    return sorted(found, key=lambda one: order.index(one["metric"]))


def _pairs(
    clean: _Scored, corrupted: _Scored | None, places: NDArray[np.int64], n: int
) -> Iterator[tuple[str, Pairs]]:
    """Every metric's values on both sides, place by place: the corrupted cases, or random halves of them."""
    if corrupted is None:
        nothing = np.empty(0)
        for name in clean.metrics:
            yield name, Pairs(nothing, nothing, places, n)
        return
    for name, values in clean.scores.items():
        yield name, Pairs(values[places], corrupted.scores[name][places], places, n)
    before, after = clean.on_halves(places), corrupted.on_halves(places)
    for name in clean.whole:
        yield name, Pairs(before[name], after[name], places, n, halves=True)
