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
      validity.json    what "vlitqc validate" found, if it was asked
      report.html      the page

At a URL are the same files but for ``remote`` and those of ``features`` that a page does not draw; see ``mirror``.
"""

from __future__ import annotations

import itertools
import json
import platform
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
from vlitqc.engine.clock import Clock, added
from vlitqc.engine.disk import locked, read_table, sweep, write_json, writing
from vlitqc.engine.estimate import estimate
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.mirror import Mirror, is_url, local, located
from vlitqc.engine.plan import (
    Plan,
    Planned,
    choose_metrics,
    picture_cache,
    prepare,
    versions,
    without,
)
from vlitqc.engine.plan import (
    batch_size as resolved_batch_size,
)
from vlitqc.engine.scorer import check_columns, used_since
from vlitqc.engine.shards import cut, folder, issue_table, read_done
from vlitqc.engine.vectors import BLOCK, features_of, unit_means
from vlitqc.errors import InputError, RunError, UsageError
from vlitqc.executors import Executor, executor
from vlitqc.formats import Reader, check_name
from vlitqc.formats.names import Names
from vlitqc.media import MediaLoader
from vlitqc.models.feature_cache import size_limit
from vlitqc.models.store import ModelStore
from vlitqc.profiles import Profile
from vlitqc.registry import REPORTS, find
from vlitqc.remote import Remote
from vlitqc.types import (
    Clip,
    FeatureCache,
    FloatArray,
    Image,
    Origin,
    Record,
    Sample,
    Spread,
    Stage,
    processors,
)

if TYPE_CHECKING:
    import pandas as pd

    from vlitqc.filtering.request import Words

PULLED_AT_ONCE = 4
"""Shards of other machines that are on their way here."""
DOWNLOAD, UPLOAD = "wait for shards from the URL", "write to the URL"
VIEW_SIDE = 512
VIEW_BYTES = 2 << 20
"""A picture of more bytes does not wait for somebody to look at it: four records with a dozen each are held at once."""
BROUGHT = (
    *("run.json", "profile.json", "scorecard.json", "filters.json", "validity.json"),
    *("input.jsonl", "issues.parquet", "scores", "features"),
)
"""What is brought from a URL of a run that is opened."""
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
    """A finished run directory. That of a run at a URL is its ``mirror``'s folder on this machine."""

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self.path = path
        self.mirror = mirror
        self._vectors: dict[str, tuple[FloatArray, NDArray[np.bool_]] | str] = {}

    @classmethod
    def open(cls, data: str | Path | Sequence[str | Path]) -> Run:
        """The run in the folder ``data``, or of the input ``data``: a file, a folder, a pattern, or several.

        A URL is that of the run's folder; what is read of it is brought to this machine, which keeps it.

        Raises RunError where there is none, it did not finish, or it is another input's; UsageError for several runs.
        """
        if isinstance(data, str) and is_url(data):
            data, mirror = located(data)
            if mirror:
                return cls._brought(mirror)
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
            raise _unfinished(path, _read_json(path / "run.json", path / "run.json"))
        return cls(path)._checked()

    @classmethod
    def _brought(cls, mirror: Mirror) -> Run:
        """The run at a URL. One that is under way on this machine is left alone: it has no scorecard there."""
        content = mirror.read("run.json")
        if content is None:
            raise RunError(
                f"{mirror.url} is not a run directory; make one with: vlitqc score DATA --out {mirror.url}"
            )
        if mirror.read("scorecard.json") is None:
            raise _unfinished(mirror.url, _parsed(content, f"{mirror.url}/run.json"))
        own = mirror.folder / "run.json"
        # Of the run that was made here are also features that are not there, and a process may be reading them.
        mirror.pull(*BROUGHT, only_here=not own.is_file() or own.read_bytes() != content)
        # They are large, and most commands do without: what is wanted of them comes then.
        mirror.drop("shards")
        return cls(mirror.folder, mirror)._checked()

    def _checked(self) -> Run:
        told = [self.info.get(key) for key in ("input", "plan", "profile")]
        whole = all(isinstance(one, dict) for one in told) and {"paths", "files"} <= self.info["input"].keys()
        if not whole or not isinstance(self.scorecard.get("principles"), list):
            raise RunError(f"{self.place} was not written by vlitqc, or is damaged; score the data again")
        return self

    @property
    def place(self) -> str:
        """Where the run is kept: its folder, or its URL."""
        return self.mirror.url if self.mirror else str(self.path)

    @property
    def address(self) -> str:
        """``place``, as it is also found from another working directory."""
        return self.mirror.url if self.mirror else str(self.path.absolute())

    @cached_property
    def info(self) -> dict[str, Any]:
        """``run.json``."""
        told = self._json("run.json")
        if self.mirror and isinstance(told.get("input"), dict):
            told["input"] = inputs.rebased(told["input"], self.path)
        return told

    @cached_property
    def profile(self) -> Profile:
        """The profile that the metrics were built from, models of the call included.

        Raises RunError for a run of an earlier version, which kept only its name, and for a file that is not its own.
        """
        where = self.path / "profile.json"
        if not where.is_file():
            raise RunError(
                f"{self.place} holds no profile.json, as runs of earlier versions; score the data again"
            )
        try:
            found = profiles.restore(self._json(where.name), f"{self.place}/{where.name}")
        except UsageError as error:
            raise RunError(f"{error}; score the data again") from error
        if found.sha256 != self.info["profile"]["sha256"]:
            raise RunError(f"{self.place}/{where.name} is not the profile of this run; score the data again")
        return found

    @cached_property
    def scorecard(self) -> dict[str, Any]:
        """``scorecard.json``; its schema is ``vlitqc.engine.scorecard.schema()``."""
        return self._json("scorecard.json")

    def _json(self, name: str) -> dict[str, Any]:
        return _read_json(self.path / name, f"{self.place}/{name}")

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
        with self._reading("issues.parquet"):
            return read_table(self.path / "issues.parquet")

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The scores as an Arrow table, all columns or some."""
        with self._reading("scores"):
            return read_table(self.path / "scores", columns or None)

    def take(self, rows: Sequence[int]) -> pa.Table:
        """All columns of the scores of some records, in the order asked for; only what holds them is read."""
        with self._reading("scores"):
            return _take_rows(self.path / "scores", rows)

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, KeyError, pa.ArrowException) as error:
            raise RunError(f"{self.place}/{name} cannot be read ({error}); score the data again") from error

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
        return self._loader(None)

    @cached_property
    def _waiting_media(self) -> MediaLoader:
        return self._loader(self.cache)

    def _loader(self, cache: FeatureCache | None) -> MediaLoader:
        plan = self.info["plan"]
        return MediaLoader(
            Path(plan["image_root"]),
            longest_side=VIEW_SIDE,
            allow_outside=plan["allow_outside"],
            remote=Remote(self.path / "remote", allowed=False) if plan.get("allow_remote") else None,
            threads=2,
            cache=cache,
            viewers="pages",
            waiting=VIEW_BYTES,
        )

    @cached_property
    def cache(self) -> FeatureCache | None:
        """The cache of features, for what is made of the run's pictures.

        None where the run was scored without it, or by an earlier version, and where it could not be used.
        """
        told = self.info.get("cache")
        return None if not isinstance(told, dict) or told.get("fault") else picture_cache()

    def record(self, row: int) -> Record:
        """Record number ``row`` of the input, read again from its place.

        Raises InputError, naming the file, where its file has moved or changed since; other files may have.
        """
        place = self._places.slice(row, 1).to_pylist() if row >= 0 else []
        if not place or place[0]["row"] != row:
            raise RunError(f"{self.place} has no row {row}; its rows are 0 to {len(self._places) - 1}")
        return self._reread.record(Origin(**place[0]))

    @cached_property
    def _places(self) -> pa.Table:
        columns = ["row", "file", "line", "start", "end", "sha256"]
        # Of millions of records few are in different files.
        with self._reading("scores"):
            return read_table(self.path / "scores", columns, coded=["file"]).combine_chunks()

    def images(self, sample: Sample, *, late: bool = False) -> list[Image]:
        """The sample's pictures, at most 512 pixels wide or high, or their faults.

        With ``late`` one that ``cache`` knows is decoded at the first look at its pixels, which raises where that
        cannot be done.
        """
        return (self._waiting_media if late else self._media).load_batch([sample])[0]

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
        file goes, or a file of another kind. What is written into a run at a URL is put there, too.
        """
        write = find(REPORTS, form).load()
        name = "report" if options.get("folder") else REPORT_FILES.get(form, f"report.{form}")
        target = local(out) if out else self.path / name
        check_name(target)
        ours = form in REPORT_FILES and not options.get("folder")
        inputs.check_output(target, self.path, suffix=Path(name).suffix if ours else None, place=self.place)
        with writing(target):
            written: Path = write(self, target, **options)
        if self.mirror and target.absolute().is_relative_to(self.path):
            self.mirror.push(target.absolute().relative_to(self.path).as_posix())
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
    workers: int | None = None,
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
    cache: bool | Path = True,
    engine: str = "local",
    ray_address: str | None = None,
    gpus_per_worker: float | None = None,
    models: ModelStore | None = None,
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
            that they have in common. Or the URL of a folder that fsspec can write to, such as ``s3://bucket/run``: what
            is finished is put there at once, and taken up from there by any machine. Two runs at a time into one URL
            spoil each other; of another machine's this one can only warn.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: records that the models see together; ``"auto"`` is 32 on the CPU and 256 on a GPU.
        workers: processes, by default 1; each loads its own models. A script that asks for more than one guards its
            own code with ``if __name__ == "__main__":``, as every program that starts processes does. With Ray:
            actors, by default one a processor of the cluster that is free; of more, some wait until nodes join.
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
        cache: whether what models say of a text or a picture, and the page's thumbnails, are looked up in, and added
            to, the cache of features (``vlitqc cache``), so that no run computes them twice; a folder is another cache
            than the user's.
        engine: ``"local"``, this machine, or ``"ray"``, a Ray cluster whose nodes all see the input, the pictures and
            the run directory under the same paths. A run that one has begun the other takes up.
        ray_address: of the cluster: ``"auto"`` or ``"HOST:PORT"``; by default one is started on this machine for the
            run.
        gpus_per_worker: where the cluster has GPUs and ``device`` allows them, each model that takes one is held by
            actors of its own, with this many GPUs each: by default 1/M of one for M such models. 0: by the workers.
        models: what ``model_store`` gave, so that runs one after another in this process load each model once. Its
            profile and device take the place of ``profile``, ``device``, ``lm``, ``judge`` and ``judge_limit``.

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
    if models is not None:
        device, judge_limit = models.device, models.judge_limit
    size = resolved_batch_size(batch_size, device)
    counts = (
        ("limit", limit),
        ("workers", workers),
        ("judge_limit", judge_limit),
    )
    for option, value in counts:
        if value is not None and value < 1:
            raise UsageError(f"{option}={value}: expected 1 or more")
    chosen = models.profile if models is not None else _chosen(profile, lm, judge)
    names = choose_metrics(chosen, metrics)
    made = executor(
        engine, workers=workers, ray_address=ray_address, gpus_per_worker=gpus_per_worker, device=device
    )
    fields = Names.parse(f"{ours}={theirs}" for ours, theirs in (map or {}).items())
    paths, in_memory = inputs.given(data)
    # An input that cannot be used leaves no folder behind.
    with clock.measure("stage", Stage.RECOGNISE):
        reader = inputs.opened(paths, format, fields) if paths else None
        # What the reader knows of the files is of now.
        unchanged = inputs.Snapshot.of(reader) if reader else None
        if reader is not None and next(iter(reader.records()), None) is None:
            raise InputError(f"{inputs.in_words(paths)} holds no records")
    place, mirror = (None, None) if out is None else located(out)
    with ExitStack() as held:
        if mirror:
            held.enter_context(locked(mirror.folder / ".lock", f"the run directory {mirror.url}"))
            with clock.measure("stage", Stage.RECOGNISE):
                mirror.settle()
        target = inputs.target_of(
            paths, place, mirror.url if mirror else None, reader.files if reader else ()
        )
        with clock.measure("stage", Stage.WAIT_FOR_WORKERS if made.apart else Stage.SET_UP):
            crew = held.enter_context(made)
        if mirror is None:
            held.enter_context(locked(target / ".lock", f"the run directory {target}"))
        elif announce and (host := _elsewhere(target)):
            announce(
                f"{mirror.url} holds a run that {host} has not finished; if it is still under way there, end one of "
                "the two: they would spoil each other"
            )
        with clock.measure("stage", Stage.RECOGNISE):
            if reader is None:
                paths = inputs.materialise(in_memory, target)
                reader = inputs.opened(paths, format, fields)
            unchanged = unchanged or inputs.Snapshot.of(reader)
            root = local(image_root) if image_root else Path.cwd() if in_memory else inputs.find_root(reader)
        if not root.is_dir():
            raise UsageError(f"the image root {root} is not a folder; pass --image-root DIR")
        plan = Plan(
            chosen,
            names,
            root.resolve(),
            device,
            size,
            decode_threads=max(1, processors() // crew.workers),
            seed=seed,
            allow_outside=allow_outside,
            allow_remote=allow_remote,
            judge_limit=judge_limit,
            cache=cache if isinstance(cache, Path) else cache and size_limit() > 0,
            mirror=mirror,
        )
        with clock.measure("stage", Stage.SET_UP):
            if models is None:
                models = ModelStore(chosen, device=device, judge_limit=judge_limit)
            planned = prepare(plan, models)
            check_columns(planned)
            gpu = crew.fit(planned, models)
        plan = replace(plan, batch_size=resolved_batch_size(batch_size, device, gpu))
        with clock.measure("stage", Stage.RECOGNISE):
            told = inputs.describe(reader, paths, format, fields)
        command = command or f"vlitqc.score({_argument(paths)}, {profile!r})"
        with clock.measure("stage", Stage.SET_UP):
            info = _info(plan, planned, models, told, limit, command, crew)
        # A run that is under way has no scorecard; what is left from before would describe other scores.
        for name in ("scorecard.json", *REPORT_FILES.values(), "report/index.html"):
            stale = target / name
            # What else is in the way is nothing of ours.
            if stale.is_file():
                with writing(stale):
                    stale.unlink()
        if mirror:
            mirror.remove("scorecard.json", *REPORT_FILES.values(), "report")
            info["host"] = socket.gethostname()
        write_json(target / "run.json", info | {"state": "running"})
        # TOML has inf and nan, and so may the options of a profile of one's own.
        write_json(target / "profile.json", profiles.dump(chosen), allow_nan=True)
        if mirror:
            mirror.push("run.json", "profile.json")
            mirror.sweep("shards")
        sweep(target, *(target / name for name in ("shards", "features", "scores")))
        remote.sweep(target / "remote")
        with clock.measure("stage", "estimate what judges are asked"):
            asked = estimate(planned, itertools.islice(reader.records(), limit)) if announce else None
        if asked and announce:
            announce(str(asked))
        records = itertools.islice(unchanged.records(reader), limit)
        shards, usage, unusable, times, cached = _score_shards(
            plan, target, reader, records, crew, models, progress, clock
        )
        unchanged.check()
        # What is left aside is known when everything has been read.
        told |= inputs.left_out(reader)
        if judge_limit is not None and crew.apart:
            # The data-set pass may ask too; it has what the workers left over.
            spent = max((counts.get("calls", 0) for counts in usage.values()), default=0)
            with clock.measure("stage", Stage.SET_UP):
                models = ModelStore(chosen, device=device, judge_limit=max(0, judge_limit - spent))
                planned = prepare(plan, models)
        planned = [without(p, unusable[p.spec.name]) if p.spec.name in unusable else p for p in planned]
        before = models.usage()
        spent_so_far = time.monotonic() - started
        # Other nodes see the folder of a run that is theirs, and no mirror.
        spread = None if mirror else crew.spread
        card = _resolve(plan, planned, target, shards, info, spent_so_far, progress, clock, spread)
        if mirror:
            if progress:
                progress.stage("upload")
            with clock.measure("stage", UPLOAD):
                # The page draws pairs of numbers; wider features are joined again from the shards.
                pairs = (p for p in (target / "features").glob("*.npy") if np.load(p, "r").shape[-1] <= 2)
                own = ["input.jsonl"] if in_memory else []
                mirror.push(*own, "issues.parquet", "scores", *(f"features/{path.name}" for path in pairs))
        usage = _added(usage, used_since(before, models.usage()))
        finished = {"state": "finished", "seconds": card["seconds"], "usage": usage}
        finished["times"] = _times(added(times, clock.take()), time.monotonic() - started)
        finished["cache"] = cached if plan.cache else None
        write_json(target / "run.json", info | finished)
        write_json(target / "scorecard.json", card)
        if mirror:
            mirror.push("run.json", "scorecard.json")
        run = Run(target, mirror)
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
    if run.mirror:
        run.mirror.push("run.json")


def _times(measured: Mapping[str, Mapping[str, float]], wall: float) -> dict[str, Any]:
    """As ``run.json`` has them, to the millisecond."""
    waited = measured["stages"].get(Stage.WAIT_FOR_DECODE, 0.0)
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
    crew: Executor,
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
    found: list[tuple[Path, int]] = []
    usage: dict[str, dict[str, int]] = {}
    unusable: dict[str, str] = {}
    times: dict[str, dict[str, float]] = {}
    cached: dict[str, Any] = {"found": 0, "kept": 0, "fault": None}
    n = 0
    shards = clock.measured("stage", Stage.READ, cut(records))
    pool = ThreadPoolExecutor(PULLED_AT_ONCE, thread_name_prefix="pull")
    pulls: list[Future[None]] = []
    try:
        for shard, done in crew.shards(plan, target / "shards", shards, models=models, clock=clock):
            path = folder(target / "shards", shard.index)
            found.append((path, done.n_samples))
            if plan.mirror:
                pulls.append(pool.submit(plan.mirror.pull, f"shards/{path.name}"))
            usage = _added(usage, done.usage)
            times = added(times, done.times)
            for key in ("found", "kept"):
                cached[key] += done.cache.get(key, 0)
            cached["fault"] = cached["fault"] or done.cache.get("fault")
            unusable |= done.unavailable
            n += done.n_records
            if progress:
                progress.records(n, reader.share(shard.records[-1].origin))
        if plan.mirror:
            with clock.measure("stage", DOWNLOAD):
                for pull, (path, _) in zip(pulls, found, strict=True):
                    pull.result()
                    if read_done(path) is None:
                        raise RunError(
                            f"{plan.mirror.url}/shards/{path.name} is gone; run the same command again"
                        )
    finally:
        pool.shutdown(cancel_futures=True)
    return found, usage, unusable, times, cached


def _elsewhere(target: Path) -> str | None:
    """The machine on which the run that is there has not finished, where it is another than this."""
    own = target / "run.json"
    told = _read_json(own, own) if own.is_file() else {}
    host = told.get("host")
    return str(host) if told.get("state") == "running" and host not in (None, socket.gethostname()) else None


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


def model_store(
    profile: str | Profile,
    *,
    lm: str | None = None,
    judge: Mapping[str, Any] | None = None,
    judge_limit: int | None = None,
    device: str = "auto",
) -> ModelStore:
    """The models of a profile for several calls of ``score``, whose arguments these are; nothing is loaded yet."""
    return ModelStore(_chosen(profile, lm, judge), device=device, judge_limit=judge_limit)


def _chosen(profile: str | Profile, lm: str | None, judge: Mapping[str, Any] | None) -> Profile:
    """The profile with the language model and the judge of the call in their roles."""
    chosen = profiles.load(profile) if isinstance(profile, str) else profile
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
    spread: Spread | None,
) -> dict[str, Any]:
    """Everything after the last shard: summaries, columns, issues; returns the scorecard."""
    started = time.monotonic()
    shards = [path for path, _ in found]
    if not shards:
        raise InputError(f"{inputs.in_words(info['input']['paths'])} holds no records")
    store = ShardFeatures(shards, [n for _, n in found], target / "features", seed=plan.seed, spread=spread)
    sections = []
    columns: dict[str, pa.Array] = {}
    issues: list[pa.Table] = []
    for p in planned:
        if progress:
            progress.stage(p.spec.title)
        with clock.measure("stage", f"{Stage.DATA_SET}{p.spec.name}"):
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
            shlex.quote(plan.mirror.url if plan.mirror else str(target)),
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
    crew: Executor,
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
        "engine": dict(crew.told),
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


def _unfinished(place: object, told: Mapping[str, Any]) -> RunError:
    command = told.get("command", "vlitqc score")
    return RunError(f"the run in {place} did not finish; run its command again to go on: {command}")


def _read_json(path: Path, place: object) -> dict[str, Any]:
    """What the file holds that is known as ``place``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{place} cannot be read ({error}); score the data again") from error
    return _parsed(content, place)


def _parsed(content: bytes, place: object) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{place} cannot be read ({error}); score the data again") from error
    if not isinstance(loaded, dict):
        raise RunError(f"{place} was not written by vlitqc; score the data again")
    return loaded


def _take_rows(path: Path, rows: Sequence[int]) -> pa.Table:
    wanted = np.asarray(rows, np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending = wanted[order]
    pieces: list[pa.Table] = []
    start = 0
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
