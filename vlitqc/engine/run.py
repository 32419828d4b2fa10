"""A run: from the input to a run directory, and a run directory read back.

::

    data.vlitqc/
      run.json         command, input and its sha256, profile, models, versions, seed, state
      profile.json     the whole profile, with the models that the call put in its roles
      remote/          fetched pictures, by the sha256 of their URLs (--allow-remote)
      shards/          finished shards, taken over by a later run that would compute the same
      features/        joined features of the data-set metrics
      scores/          part-NNNNN.parquet, one row a record: pandas.read_parquet("data.vlitqc/scores")
      issues.parquet   every fault found, with its place
      scorecard.json   the ten principles, with intervals; schema beside engine/scorecard.py
      report.html      the page
"""

from __future__ import annotations

import itertools
import json
import platform
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vlitqc import profiles, remote
from vlitqc.analysis.verdict import verdict
from vlitqc.engine import dataset, inputs, scorecard
from vlitqc.engine.clock import DATA_SET, READ, RECOGNISE, SET_UP, WAIT_FOR_DECODE, Clock, added
from vlitqc.engine.disk import locked, read_table, sweep, write_json, writing
from vlitqc.engine.estimate import estimate
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.plan import (
    Plan,
    Planned,
    choose_metrics,
    prepare,
    processors,
    versions,
    without,
)
from vlitqc.engine.plan import (
    batch_size as resolved_batch_size,
)
from vlitqc.engine.scorer import check_columns, used_since
from vlitqc.engine.shards import cut, folder, issue_table
from vlitqc.engine.vectors import BLOCK, features_of, unit_means
from vlitqc.errors import InputError, RunError, UsageError
from vlitqc.formats import Reader, check_name
from vlitqc.formats.names import Names
from vlitqc.media import MediaLoader
from vlitqc.models.feature_cache import size_limit
from vlitqc.models.store import ModelStore
from vlitqc.profiles import Profile
from vlitqc.registry import REPORTS, find
from vlitqc.remote import Remote
from vlitqc.types import Clip, FloatArray, Image, Origin, Record, Sample

if TYPE_CHECKING:
    import pandas as pd

    from vlitqc.filtering.request import Words

VIEW_SIDE = 512
REPORT_FILES = {"html": "report.html", "markdown": "scorecard.md", "parquet": "samples.parquet"}


class Progress(Protocol):
    """Told of every step of a run; the command line draws it."""

    def records(self, done: int, share: float | None) -> None:
        """``done`` records are finished, and this share of the input, 0 to 1; None where nobody knows."""
        ...

    def stage(self, name: str) -> None:
        """A stage after the last record has begun."""
        ...


class Run:
    """A finished run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._vectors: dict[str, tuple[FloatArray, NDArray[np.bool_]] | str] = {}

    @classmethod
    def open(cls, data: str | Path | Sequence[str | Path]) -> Run:
        """The run in the folder ``data``, or of the input ``data``: a file, a folder, a pattern, or several.

        Raises RunError where there is none, it did not finish, or it is another input's; UsageError for several runs.
        """
        paths, _ = inputs.given(data)
        if not paths:
            raise UsageError("a run is opened by its folder or by its input's paths")
        path = paths[0]
        several = len(paths) > 1
        found = inputs.run_of(paths)
        if several or not (path / "run.json").is_file():
            gone = inputs.missing(paths)
            if gone is not None and (several or not found.is_dir()):
                raise RunError(f"{gone} does not exist; name a run directory, or the paths that were scored")
            told = inputs.paths_in(found)
            runs = [each for each in paths if (each / "run.json").is_file()]
            if runs and (told is None or inputs.is_other(told, paths)):
                raise UsageError(f"one run at a time: {inputs.in_words(paths)} were given; name one of them")
            if several or path.is_file() or found.is_dir():
                path = found
            if told is not None and (inputs.is_other(told, paths) or len(told) < len(paths)):
                raise RunError(
                    f"{path} holds the run of {inputs.in_words(told)}; score {inputs.in_words(paths)} "
                    "with --out DIR and name that folder"
                )
        if not (path / "run.json").is_file():
            raise RunError(f"{path} is not a run directory; make one with: vlitqc score DATA")
        if not (path / "scorecard.json").is_file():
            raise RunError(
                f"the run in {path} did not finish; run its command again to go on: {_command(path)}"
            )
        run = cls(path)
        if "paths" not in run.info.get("input", ()) or "principles" not in run.scorecard:
            raise RunError(f"{path} was not written by vlitqc, or is damaged; score the data again")
        return run

    @cached_property
    def info(self) -> dict[str, Any]:
        """``run.json``."""
        return _read_json(self.path / "run.json")

    @cached_property
    def profile(self) -> Profile:
        """The profile that the metrics were built from, models of the call included.

        Raises RunError for a run of an earlier version, which kept only its name, and for a file that is not its own.
        """
        where = self.path / "profile.json"
        if not where.is_file():
            raise RunError(
                f"{self.path} holds no profile.json, as runs of earlier versions; score the data again"
            )
        try:
            found = profiles.restore(_read_json(where), str(where))
        except UsageError as error:
            raise RunError(f"{error}; score the data again") from error
        if found.sha256 != self.info["profile"]["sha256"]:
            raise RunError(f"{where} is not the profile of this run; score the data again")
        return found

    @cached_property
    def scorecard(self) -> dict[str, Any]:
        """``scorecard.json``; its schema is ``vlitqc.engine.scorecard.schema()``."""
        return _read_json(self.path / "scorecard.json")

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row a record: place, state, then every metric's value and reason."""
        frame: pd.DataFrame = self.table().to_pandas()
        return frame

    @cached_property
    def issues(self) -> pd.DataFrame:
        """Every fault found: kind, severity, detail, file, line, row, id."""
        frame: pd.DataFrame = self.issue_table.to_pandas()
        return frame

    @cached_property
    def issue_table(self) -> pa.Table:
        """The same as an Arrow table."""
        return _read_table(self.path / "issues.parquet")

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The scores as an Arrow table, all columns or some."""
        return _read_table(self.path / "scores", columns)

    def take(self, rows: Sequence[int]) -> pa.Table:
        """All columns of the scores of some records, in the order asked for; only what holds them is read."""
        return _take_rows(self.path / "scores", rows)

    def metrics(self) -> dict[str, dict[str, Any]]:
        """The scorecard's metrics by name."""
        return {m["name"]: m for p in self.scorecard["principles"] for m in p["metrics"]}

    def vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        """One vector a readable record, in order, and which of them have one; or why there are none, in words.

        ``kind`` is "response" or "picture". ``float32[n, d]``, memory-mapped: the mean of a record's vectors scaled
        to length 1, zeros where it has none. They are read once and their file is gone when the run is no longer
        used. Raises RunError where the features are damaged.
        """
        if kind not in self._vectors:
            self._vectors[kind] = self._read_vectors(kind)
        return self._vectors[kind]

    def _read_vectors(self, kind: str) -> tuple[FloatArray, NDArray[np.bool_]] | str:
        readable = pc.not_equal(self.table(["state"])["state"], "unreadable").to_numpy()
        n = int(np.count_nonzero(readable))
        store = features_of(self.path, len(readable), n, seed=self.info["plan"]["seed"])
        if isinstance(store, str):
            return store
        means = unit_means(self.path, store, kind, np.arange(n))
        if means is None:
            return f"this run has no vectors of {kind}s"
        blocks = (means[start : start + BLOCK].any(axis=1) for start in range(0, n, BLOCK))
        return means, np.concatenate(list(blocks))

    @cached_property
    def reader(self) -> Reader:
        """The run's input. Raises InputError, naming the file, where it has moved or changed since."""
        return inputs.reopened(self.info["input"], self.info["command"])

    @cached_property
    def _reread(self) -> inputs.Reread:
        return inputs.Reread(self.info["input"], self.info["command"])

    @cached_property
    def _media(self) -> MediaLoader:
        plan = self.info["plan"]
        return MediaLoader(
            Path(plan["image_root"]),
            longest_side=VIEW_SIDE,
            allow_outside=plan["allow_outside"],
            remote=Remote(self.path / "remote", allowed=False) if plan.get("allow_remote") else None,
            threads=2,
        )

    def record(self, row: int) -> Record:
        """Record number ``row`` of the input, read again from its place.

        Raises InputError, naming the file, where its file has moved or changed since; other files may have.
        """
        place = self._places.slice(row, 1).to_pylist() if row >= 0 else []
        if not place or place[0]["row"] != row:
            raise RunError(f"{self.path} has no row {row}; its rows are 0 to {len(self._places) - 1}")
        return self._reread.record(Origin(**place[0]))

    @cached_property
    def _places(self) -> pa.Table:
        columns = ["row", "file", "line", "start", "end", "sha256"]
        # Of millions of records few are in different files.
        return _read_table(self.path / "scores", columns, coded=["file"]).combine_chunks()

    def images(self, sample: Sample) -> list[Image]:
        """The sample's pictures, at most 512 pixels wide or high, or their faults."""
        return self._media.load_batch([sample])[0]

    def clips(self, sample: Sample) -> list[Clip]:
        """What the headers of the sample's videos and sounds say, or their faults."""
        return self._media.clips([sample])[0]

    def image_paths(self, sample: Sample) -> list[Path | None]:
        """The file of each of the sample's pictures, there or not.

        None for one that the record itself holds, that was not fetched, or that lies outside of the image root.
        """
        return [self._media.path(media) for media in sample.images]

    def filter(self, *, seed: int = 0, **words: Unpack[Words]) -> pd.Series[bool]:
        """Which records ``vlitqc.filter`` would keep, with the same keywords; nothing is written.

        A Series named "kept", one Boolean a record in the order of ``scores``, indexed by row::

            run.scores[run.filter(where="matching_degree >= 22")]
            dataset.select(np.flatnonzero(run.filter(drop_below={"matching_degree": "p10"})))

        An unreadable record is not kept. Raises UsageError and UnknownName as ``vlitqc.filter`` does.
        """
        from vlitqc.filtering.request import filtered

        return filtered(self, dry_run=True, seed=seed, **words).mask

    def report(self, out: str | Path | None = None, *, form: str = "html", **options: Any) -> Path:
        """Write a report and return it; ``form`` is an entry point of ``vlitqc.reports``, which takes the ``options``.

        By default into the run: ``report.html``, the folder ``report`` (``folder=True``), ``scorecard.md``,
        ``samples.parquet``. Raises UsageError where ``out`` is a part of the run or of its input, a folder where a
        file goes, or a file of another kind.
        """
        write = find(REPORTS, form).load()
        name = "report" if options.get("folder") else REPORT_FILES.get(form, f"report.{form}")
        target = Path(out) if out else self.path / name
        check_name(target)
        ours = form in REPORT_FILES and not options.get("folder")
        inputs.check_output(target, self.path, suffix=Path(name).suffix if ours else None)
        with writing(target):
            written: Path = write(self, target, **options)
        return written


def score(
    data: inputs.Data,
    profile: str = "lite",
    *,
    metrics: str | Sequence[str] | None = None,
    image_root: str | Path | None = None,
    limit: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int | Literal["auto"] = "auto",
    workers: int = 1,
    seed: int = 0,
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    allow_outside: bool = False,
    allow_remote: bool = False,
    report: bool = True,
    command: str | None = None,
    progress: Progress | None = None,
    lm: str | None = None,
    judge: Mapping[str, Any] | None = None,
    judge_limit: int | None = None,
    announce: Callable[[str], None] | None = None,
    cache: bool = True,
) -> Run:
    """Score a data set and return the finished run.

    Args:
        data: a file, a folder, a glob pattern, several of these read one after another, or the records
            themselves (then ``out`` says where the run goes).
        profile: a shipped profile's name or the path of a TOML file.
        metrics: names of metrics, or one name; by default all of the profile.
        image_root: the folder that image paths start from; by default found from the first records, or the
            working directory for records in memory.
        limit: only the first so many records.
        out: the run directory; by default ``<data>.vlitqc`` beside the input; of several paths, after the folder
            that they have in common.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: records that the models see together; ``"auto"`` is 32 on the CPU and 256 on a GPU.
        workers: processes; each loads its own models. A script that asks for more than one guards its own code
            with ``if __name__ == "__main__":``, as every program that starts processes does.
        seed: of everything random.
        format: a format's name; by default detected from the content of each file.
        map: fields that the data calls otherwise, ours to theirs, such as ``{"image": "meta.path"}``.
        allow_outside: whether image paths may leave the image root.
        allow_remote: whether pictures with http and https URLs are fetched, into the run directory; never from
            private addresses.
        report: whether to write ``report.html``.
        command: what to record as the command in ``run.json``.
        progress: told how far the run is.
        lm: a causal language model in the place of the profile's: a slot of the profile, a folder, a ``.gguf``
            file or a Hugging Face id in the cache.
        judge: a judge in the place of the profile's: ``{"model": …}`` with, for a server, ``"url"``, and any
            other option of the backend (``openai_judge``, or ``transformers_judge`` without a URL).
        judge_limit: no more calls to each judge than this; what is left unasked is null and asked by the next
            run.
        announce: told in a sentence what the judges are about to be asked.
        cache: whether what models say of a text or a picture is looked up in, and added to, the cache of features
            (``vlitqc cache``), so that no run computes it twice.

    A run that was interrupted is taken up by the same call; finished shards are not computed again.

    ``run.info["times"]`` says where the time went, in seconds: ``wall`` in all; ``stages``, ``metrics`` and
    ``models`` by name, which do not overlap (a model's time, which has its loading, is not in that of the metric that
    asks it); and of ``decode``, which goes on beside them, ``busy``, the processor time of its threads, and
    ``waited``, how long the models waited for it. Those of several workers are summed. A shard that an earlier run
    finished adds no time of metrics, models and decoding, only that of reading and comparing it.

    Raises:
        UsageError, UnknownName: an option or a name is wrong.
        InputError, FormatError: the input cannot be used at all.
        RunError: the run directory is in use or cannot be written.
    """
    started = time.monotonic()
    clock = Clock()
    size = resolved_batch_size(batch_size, device)
    counts = (
        ("limit", limit),
        ("workers", workers),
        ("judge_limit", judge_limit),
    )
    for option, value in counts:
        if value is not None and value < 1:
            raise UsageError(f"{option}={value}: expected 1 or more")
    chosen = _chosen(profile, lm, judge)
    names = choose_metrics(chosen, metrics)
    fields = Names.parse(f"{ours}={theirs}" for ours, theirs in (map or {}).items())
    paths, in_memory = inputs.given(data)
    # An input that cannot be used leaves no folder behind.
    with clock.measure("stage", RECOGNISE):
        if paths and next(iter(inputs.opened(paths, format, fields).records()), None) is None:
            raise InputError(f"{inputs.in_words(paths)} holds no records")
    target = inputs.target_of(paths, out)
    with locked(target / ".lock", f"the run directory {target}"):
        with clock.measure("stage", RECOGNISE):
            paths = paths or inputs.materialise(in_memory, target)
            reader = inputs.opened(paths, format, fields)
            unchanged = inputs.Snapshot.of(reader)
            root = Path(image_root) if image_root else Path.cwd() if in_memory else inputs.find_root(reader)
        if not root.is_dir():
            raise UsageError(f"the image root {root} is not a folder; pass --image-root DIR")
        plan = Plan(
            chosen,
            names,
            root.resolve(),
            device,
            size,
            decode_threads=max(1, processors() // workers),
            seed=seed,
            allow_outside=allow_outside,
            allow_remote=allow_remote,
            judge_limit=judge_limit,
            cache=cache and size_limit() > 0,
        )
        with clock.measure("stage", SET_UP):
            models = ModelStore(chosen, device=device, judge_limit=judge_limit)
            planned = prepare(plan, models)
            check_columns(planned)
        with clock.measure("stage", RECOGNISE):
            told = inputs.describe(reader, paths, format, fields)
        command = command or f"vlitqc.score({_argument(paths)}, {profile!r})"
        with clock.measure("stage", SET_UP):
            info = _info(plan, planned, models, told, limit, command)
        # A run that is under way has no scorecard; what is left from before would describe other scores.
        for name in ("scorecard.json", *REPORT_FILES.values(), "report/index.html"):
            stale = target / name
            # What else is in the way is nothing of ours.
            if stale.is_file():
                with writing(stale):
                    stale.unlink()
        write_json(target / "run.json", info | {"state": "running"})
        # TOML has inf and nan, and so may the options of a profile of one's own.
        write_json(target / "profile.json", profiles.dump(chosen), allow_nan=True)
        sweep(target, *(target / name for name in ("shards", "features", "scores")))
        remote.sweep(target / "remote")
        with clock.measure("stage", "estimate what judges are asked"):
            asked = estimate(planned, itertools.islice(reader.records(), limit)) if announce else None
        if asked and announce:
            announce(str(asked))
        records = itertools.islice(unchanged.records(reader), limit)
        shards, usage, unusable, times, cached = _score_shards(
            plan, target, reader, records, workers, models, progress, clock
        )
        unchanged.check()
        # What is left aside is known when everything has been read.
        told |= inputs.left_out(reader)
        if judge_limit is not None and workers > 1:
            # The data-set pass may ask too; it has what the workers left over.
            spent = max((counts.get("calls", 0) for counts in usage.values()), default=0)
            with clock.measure("stage", SET_UP):
                models = ModelStore(chosen, device=device, judge_limit=max(0, judge_limit - spent))
                planned = prepare(plan, models)
        planned = [without(p, unusable[p.spec.name]) if p.spec.name in unusable else p for p in planned]
        before = models.usage()
        card = _resolve(plan, planned, target, shards, info, time.monotonic() - started, progress, clock)
        usage = _added(usage, used_since(before, models.usage()))
        finished = {"state": "finished", "seconds": card["seconds"], "usage": usage}
        finished["times"] = _times(added(times, clock.take()), time.monotonic() - started)
        finished["cache"] = cached if plan.cache else None
        write_json(target / "run.json", info | finished)
        write_json(target / "scorecard.json", card)
        run = Run(target)
        if report:
            if progress:
                progress.stage("report")
            write_report(run)
        return run


def write_report(run: Run) -> None:
    """The run's own page, the last stage of a run; the time that it takes is added to those in ``run.json``.

    Whoever calls it holds the run's lock.
    """
    started = time.monotonic()
    run.report()
    spent = time.monotonic() - started
    told = dict(run.info["times"])
    wall = told.pop("wall") + spent
    run.info["times"] = _times(added(told, {"stages": {"report": spent}}), wall)
    write_json(run.path / "run.json", run.info)


def _times(measured: Mapping[str, Mapping[str, float]], wall: float) -> dict[str, Any]:
    """As ``run.json`` has them, to the millisecond."""
    waited = measured["stages"].get(WAIT_FOR_DECODE, 0.0)
    decode = {"busy": measured.get("decode", {}).get("busy", 0.0), "waited": waited}
    sections = {**measured, "decode": decode}.items()
    return {"wall": round(wall, 3)} | {
        section: {name: round(seconds, 3) for name, seconds in found.items()} for section, found in sections
    }


def _score_shards(
    plan: Plan,
    target: Path,
    reader: Reader,
    records: Iterable[Record],
    workers: int,
    models: ModelStore,
    progress: Progress | None,
    clock: Clock,
) -> tuple[
    list[tuple[Path, int]],
    dict[str, dict[str, int]],
    dict[str, str],
    dict[str, dict[str, float]],
    dict[str, Any],
]:
    """Score every shard; returns their folders in order, each with its number of readable samples, what the
    judges were asked, the metrics whose model could not be loaded, where the time went, and what the cache did."""
    from vlitqc.executors.local import run_shards

    found: list[tuple[Path, int]] = []
    usage: dict[str, dict[str, int]] = {}
    unusable: dict[str, str] = {}
    times: dict[str, dict[str, float]] = {}
    cached: dict[str, Any] = {"found": 0, "kept": 0, "fault": None}
    n = 0
    shards = clock.measured("stage", READ, cut(records))
    for shard, done in run_shards(
        plan, target / "shards", shards, workers=workers, models=models, clock=clock
    ):
        found.append((folder(target / "shards", shard.index), done.n_samples))
        usage = _added(usage, done.usage)
        times = added(times, done.times)
        for key in ("found", "kept"):
            cached[key] += done.cache.get(key, 0)
        cached["fault"] = cached["fault"] or done.cache.get("fault")
        unusable |= done.unavailable
        n += done.n_records
        if progress:
            progress.records(n, reader.share(shard.records[-1].origin))
    return found, usage, unusable, times, cached


def _added(
    one: Mapping[str, Mapping[str, int]], other: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    return {
        slot: {
            key: one.get(slot, {}).get(key, 0) + other.get(slot, {}).get(key, 0)
            for key in {**one.get(slot, {}), **other.get(slot, {})}
        }
        for slot in {**one, **other}
    }


def _chosen(profile: str, lm: str | None, judge: Mapping[str, Any] | None) -> Profile:
    """The profile with the language model and the judge of the call in their roles."""
    chosen = profiles.load(profile)
    if lm is not None:
        model = chosen.models.get(lm) or profiles.model_from(
            lm, role="lm", kind="LanguageModel", backend="causal_lm"
        )
        chosen = profiles.rebind(chosen, "lm", model)
    if judge is not None:
        options = dict(judge)
        try:
            name = str(options["model"])
        except KeyError:
            raise UsageError("judge: name the model, as in {'model': 'org/name'}") from None
        if "url" in options:
            model = profiles.ModelEntry(
                "judge", "openai_judge", "Judge", name, "see its publisher", (), options
            )
        elif name in chosen.models:
            model = chosen.models[name]
        else:
            model = profiles.model_from(name, role="judge", kind="Judge", backend="transformers_judge")
            model = replace(model, options={key: v for key, v in options.items() if key != "model"})
        chosen = profiles.rebind(chosen, "judge", model)
    return chosen


def _resolve(
    plan: Plan,
    planned: Sequence[Planned],
    target: Path,
    found: Sequence[tuple[Path, int]],
    info: Mapping[str, Any],
    seconds: float,
    progress: Progress | None,
    clock: Clock,
) -> dict[str, Any]:
    """Everything after the last shard: summaries, columns, issues; returns the scorecard."""
    started = time.monotonic()
    shards = [path for path, _ in found]
    if not shards:
        raise InputError(f"{inputs.in_words(info['input']['paths'])} holds no records")
    store = ShardFeatures(shards, [n for _, n in found], target / "features", seed=plan.seed)
    sections = []
    columns: dict[str, pa.Array] = {}
    issues: list[pa.Table] = []
    for p in planned:
        if progress:
            progress.stage(p.spec.title)
        with clock.measure("stage", f"{DATA_SET}{p.spec.name}"):
            if p.spec.level == "sample":
                summary = dataset.sample_summary(p, shards, seed=plan.seed)
            else:
                resolved, labels = dataset.resolve(p, store)
                columns |= labels
                issues.append(issue_table(resolved.issues))
                summary = dataset.dataset_summary(p.spec.name, resolved)
                # Of millions of samples it is large, and the next metric needs the room.
                del resolved, labels
        sections.append(scorecard.metric_section(p, summary))
    with clock.measure("stage", "write the table of scores"):
        dataset.write_scores(shards, columns, target / "scores")
    with clock.measure("stage", "write issues"):
        issues.append(dataset.repeated_ids(target / "scores"))
        all_issues = dataset.write_issues(shards, issues, target / "issues.parquet")
    table = read_table(target / "scores", ["row", "state"])
    states = table["state"]
    counts = {
        state: pc.sum(pc.equal(states, state)).as_py() or 0 for state in ("scored", "partial", "unreadable")
    }
    return {
        "schema": scorecard.SCHEMA,
        "vlitqc": info["versions"]["vlitqc"],
        "created": info["started"],
        "command": info["command"],
        "profile": info["profile"],
        "input": {
            key: info["input"][key]
            for key in ("path", "paths", "format", "sha256", "bytes", "notes", "others")
        }
        | {"image_root": str(plan.image_root)},
        "counts": {"records": len(states), **counts},
        "verdict": verdict(
            len(states),
            shlex.quote(str(target)),
            _suspect_rows(all_issues),
            _below_floor(target, sections),
            scorecard.failed(sections),
            table.filter(pc.equal(states, "unreadable"))["row"].to_numpy(),
        ),
        "principles": scorecard.principle_sections(sections),
        "issues": scorecard.issue_section(all_issues),
        "models": info["models"],
        "versions": info["versions"],
        "seed": plan.seed,
        "seconds": round(seconds + time.monotonic() - started, 3),
    }


def _suspect_rows(issues: pa.Table) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    grave = issues.filter(pc.not_equal(issues["severity"], "note"))
    return {
        kind: grave.filter(pc.equal(grave["kind"], kind))["row"].to_numpy()
        for kind in pc.unique(grave["kind"]).to_pylist()
    }


def _below_floor(target: Path, sections: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Any]]:
    below = []
    for section in sections:
        if section["floor"] is None or section["n_scored"] == 0:
            continue
        table = read_table(target / "scores", ["row", section["name"]])
        low = table.filter(pc.less(table[section["name"]], section["floor"]))
        below.append((section, low["row"].to_numpy()))
    return below


def _files(planned: Sequence[Planned], models: ModelStore) -> list[dict[str, Any]]:
    """Every model file of the run, with the sha256 of what was there."""
    slots = sorted({slot for p in planned if p.metric is not None for slot in models.slots(p.entry)})
    return [
        {"slot": slot, "role": s.file.role, "source": s.file.source, "sha256": s.sha256, "fault": s.fault}
        for slot in slots
        for s in models.state(slot)
    ]


def _info(
    plan: Plan,
    planned: Sequence[Planned],
    models: ModelStore,
    told: Mapping[str, Any],
    limit: int | None,
    command: str,
) -> dict[str, Any]:
    return {
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": told,
        "profile": {
            "name": plan.profile.name,
            "title": plan.profile.title,
            "summary": plan.profile.summary,
            "adds": plan.profile.adds,
            "sha256": plan.profile.sha256,
        },
        "plan": {
            "metrics": list(plan.metrics),
            "image_root": str(plan.image_root),
            "device": plan.device,
            "batch_size": plan.batch_size,
            "seed": plan.seed,
            "allow_outside": plan.allow_outside,
            "allow_remote": plan.allow_remote,
            "limit": limit,
        },
        "models": scorecard.model_section(models, planned),
        "files": _files(planned, models),
        "versions": {
            "python": platform.python_version(),
            "vlitqc": metadata.version("vlitqc"),
            **versions(),
        },
    }


def _argument(paths: Sequence[Path]) -> str:
    """The paths as an argument of ``score``."""
    told = [str(path.absolute()) for path in paths]
    return repr(told[0] if len(told) == 1 else told)


def _command(path: Path) -> str:
    return str(_read_json(path / "run.json").get("command", "vlitqc score"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); score the data again") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{path} was not written by vlitqc; score the data again")
    return loaded


def _read_table(path: Path, columns: Sequence[str] | None = None, *, coded: Sequence[str] = ()) -> pa.Table:
    try:
        return read_table(path, columns or None, coded=coded)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read ({error}); score the data again") from error


def _take_rows(path: Path, rows: Sequence[int]) -> pa.Table:
    wanted = np.asarray(rows, np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    pieces: list[pa.Table] = []
    start = 0
    try:
        for part in sorted(path.glob("*.parquet")):
            with pq.ParquetFile(part) as file:
                if not pieces:
                    pieces.append(file.schema_arrow.empty_table())
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    first, last = np.searchsorted(ascending, (start, end))
                    if first < last:
                        pieces.append(file.read_row_group(group).take(ascending[first:last] - start))
                    start = end
        return pa.concat_tables(pieces).take(np.argsort(order))
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read ({error}); score the data again") from error
