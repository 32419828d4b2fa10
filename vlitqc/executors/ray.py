"""A Ray cluster: one actor a worker, each with the metrics and models of the plan.

These are Ray's actors, and not data sets of Ray Data: a shard is cut, written, marked and taken up again by
the engine, wherever it is scored, while Ray Data divides rows into blocks of its own, so that neither the batches nor
the shards of a run would be those of another. It would also be one more large import in every process.

Records travel to the actors, which write what they find below the run directory; only the markers come back. So the
run directory and the pictures lie where every node sees them under the same path.

Where the cluster has GPUs that ``device`` allows, the models that take one live in pools of actors of their own
(``ray_models``), and workers hold the others.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError, UnserializableException

from vlitqc.engine.clock import Clock
from vlitqc.engine.disk import sweep
from vlitqc.engine.plan import Plan, Planned, fingerprint, prepare, versions
from vlitqc.engine.scorer import ShardScorer
from vlitqc.engine.shards import Done, Shard, in_utf8
from vlitqc.errors import RunError, UsageError
from vlitqc.executors.deadly import MAX_DEATHS, DeadlySearch
from vlitqc.executors.local import share
from vlitqc.executors.ray_models import (
    START_SECONDS,
    STEPS,
    Layout,
    ModelActors,
    PoolLost,
    Pools,
    at_home,
    check_alike,
    layout,
    own,
    portable,
)
from vlitqc.executors.ray_spread import RaySpread
from vlitqc.models.store import ModelStore
from vlitqc.types import Stage, Unreadable, processors

UNDER_WAY = 2
"""Shards that a worker has at a time: one is scored while the next is on its way."""

GIVEN_AGAIN = 2
"""So many times a shard whose worker died is given to another before its deadly records are sought."""

OVER_A_RECORD = 2
"""So many workers must die over a record that is scored by itself to blame it: one may die with its node."""

ANSWER_SECONDS = 10.0
"""How long a cluster may take to answer a first call, and a dead worker's other shards to be told as lost."""

CHECK_SECONDS = 20.0
"""How long a process may take that imports Ray and asks what listens at an address whether it is a cluster."""

CHECK = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"

STORE_BYTES = 512 << 20
"""Memory for shards on their way, in a cluster that is started for the run."""

CURE = "with fewer --workers if it happens again"

FOLDERS = "vlitqc-ray-"
"""How the names of temporary folders of Ray begin; whoever uses one holds a lock on it."""

NEW_SECONDS = 60.0
"""So long after it is made a folder is taken for one in use."""

AUTHENTICATION = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""What says who may use a cluster. Where nothing does, Ray would keep a token for it in the home folder, and every
cluster that is started later would then ask for one."""

_TOKEN = secrets.token_hex(32)

INHERITED = (
    *("HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY"),
    "OMP_NUM_THREADS",
)
"""Variables that workers take from the driver: libraries of models print no more there, and take no more threads."""


class RayExecutor:
    """Workers on the Ray cluster at ``address``: ``auto``, ``HOST:PORT``; None starts one on this machine for the run.

    By default there is one worker a processor that is free; of more, those that find none begin as nodes join. Each
    model that takes a device has actors of its own where the cluster has GPUs and ``device`` allows them, each with
    ``gpus_per_worker`` GPUs: by default 1/M of one for M such models, and 0 leaves them to the workers. A program that
    is connected to a cluster already stays with it.

    A model's time is what a worker waits for its answers, while other workers have the model as well as while it
    computes.
    """

    apart = True

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        gpus_per_worker: float | None = None,
        *,
        device: str = "auto",
    ) -> None:
        if gpus_per_worker:
            if not 1 / STEPS <= gpus_per_worker < float("inf") or (
                gpus_per_worker > 1 and gpus_per_worker % 1
            ):
                raise UsageError(
                    f"gpus_per_worker={gpus_per_worker:g}: expected a share of a GPU such as 0.25, or a whole number"
                )
            gpus_per_worker = round(gpus_per_worker * STEPS) / STEPS
        self._address = address
        self._asked = workers
        self._gpus_asked = gpus_per_worker
        self._device = device
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._lock = -1
        self._connected = False
        self._layout = Layout()
        self._environment = {name: os.environ.get(name) for name in AUTHENTICATION}

    def __enter__(self) -> RayExecutor:
        """Raises UsageError where no cluster answers, or none can be used."""
        if not ray.is_initialized():
            try:
                self._connect()
            except BaseException:
                self.close()
                raise
        free = ray.cluster_resources() if self._folder else ray.available_resources()
        self._cpus, self._gpus = int(free.get("CPU", 0)), free.get("GPU", 0.0)
        self._nodes = [node for node in ray.nodes() if node["Alive"]]
        # Where nothing is free, one that waits.
        self.workers = self._asked or max(1, self._cpus)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started for the run ends."""
        if self._connected:
            ray.shutdown()
            self._connected = False
            for name, value in self._environment.items():
                if value is None:
                    os.environ.pop(name, None)
        if self._folder:
            self._folder.cleanup()
            self._folder = None
            os.close(self._lock)

    @property
    def told(self) -> Mapping[str, Any]:
        """What ``run.json`` says of it."""
        at = self._layout
        told = {
            "name": "ray",
            "workers": self.workers,
            "gpus_per_worker": at.share,
            "nodes": len(self._nodes),
        }
        return told | ({"pools": dict.fromkeys(at.slots, at.each)} if at.slots else {})

    @property
    def spread(self) -> RaySpread:
        """Tasks of the same cluster, for when the workers have ended."""
        return RaySpread()

    def fit(self, planned: Sequence[Planned], models: ModelStore) -> bool:
        """As ``Executor.fit``."""
        slots = {slot for p in planned if p.metric is not None for slot in models.on_device(p.entry)}
        of_nodes = [node["Resources"].get("GPU", 0.0) for node in self._nodes]
        self._layout = layout(sorted(slots), of_nodes, self._gpus, self._gpus_asked, self._device)
        if self._folder and self._layout.slots and self._gpus < 1:
            raise UsageError(
                f"device={self._device}: this machine has no GPU; name a cluster with --ray-address"
            )
        return bool(self._layout.slots)

    def shards(
        self, plan: Plan, target: Path, shards: Iterable[Shard], *, models: ModelStore, clock: Clock
    ) -> Iterator[tuple[Shard, Done]]:
        """As ``Executor.shards``; each comes back with the origin of its last record."""
        # Workers have working directories of their own.
        target = target.absolute()
        threads = max(1, self._cpus // self.workers)
        variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # Nothing is fetched there, whatever this process may do.
        variables["HF_HUB_OFFLINE"] = "1"
        plan = replace(plan, decode_threads=threads)
        place = {"run": str(in_utf8(target.parent.name)), "namespace": f"vlitqc-{uuid4().hex}"}
        crew = _Crew(plan, target, fingerprint(plan, prepare(plan, models)), variables, **place)
        actors = ModelActors(plan, self._layout, variables=variables, **place)
        try:
            with clock.measure("stage", Stage.WAIT_FOR_WORKERS):
                crew.start(self.workers, actors.started(models))
            yield from crew.run(shards, clock)
        except RayError as error:
            raise RunError(
                f"the Ray cluster failed ({_in_a_line(error)}); the same command goes on"
            ) from error
        finally:
            crew.end()
            actors.end()
            sweep(target)

    def _connect(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._connected = True
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self._address is None:
            # Of its own, so that "auto" of another program never finds a cluster that is about to end.
            self._folder = tempfile.TemporaryDirectory(prefix=FOLDERS, ignore_cleanup_errors=True)
            self._lock = _held(self._folder.name)
            _remove_left()
            disabled = os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled"
            if not disabled and not any(name in os.environ for name in AUTHENTICATION):
                os.environ["RAY_AUTH_TOKEN"] = _TOKEN
            try:
                with _same_end():
                    ray.init(
                        "local",
                        num_cpus=max(processors(), self._asked or 1),
                        include_dashboard=False,
                        object_store_memory=STORE_BYTES,
                        _temp_dir=self._folder.name,
                        **quiet,
                    )
            except (OSError, RuntimeError, ValueError) as error:
                raise RunError(f"Ray cannot start on this machine ({_in_a_line(error)})") from error
            return
        cure = (
            "start one with 'ray start --head', set RAY_AUTH_MODE=token if it asks for a token, or leave --ray-address "
            "away for one on this machine"
        )
        if self._address != "auto":
            _check_address(self._address, cure)
        try:
            with _same_end():
                ray.init(self._address, **quiet)
        except (OSError, RuntimeError, ValueError) as error:
            where = "on this machine" if self._address == "auto" else f"at {self._address}"
            raise UsageError(
                f"no Ray cluster that can be used {where} ({_in_a_line(error)}); {cure}"
            ) from error


def _check_address(address: str, cure: str) -> None:
    """Ray itself would try for half a minute, and then tell of its inner servers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"ray_address={address}: expected auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"no Ray cluster answers at {address} ({told}); {cure}") from None
    # In a process of its own, as Ray logs what it tries, for minutes, and may end the process.
    try:
        asked = subprocess.run(  # noqa: S603 - a command of our own
            [sys.executable, "-c", CHECK, address], capture_output=True, timeout=CHECK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        answers, refused = False, False
    else:
        answers, refused = not asked.returncode, b"authentication token" in asked.stderr.lower()
    if refused:
        raise UsageError(
            f"the Ray cluster at {address} asks for its token; set RAY_AUTH_MODE=token, and copy its ~/.ray/auth_token "
            "or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    if not answers:
        raise UsageError(
            f"what listens at {address} is no Ray cluster; give the port of 'ray start --head', which is 6379 where "
            "none was named, and not that of the dashboard (8265) or of Ray clients (10001)"
        )


@contextmanager
def _same_end() -> Iterator[None]:
    """Ray's own answer to SIGTERM, the end of jobs under Slurm and Kubernetes, is a page of its log."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _held(folder: str) -> int:
    """A lock on the folder that goes with this process; raises BlockingIOError where another has it."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_left() -> None:
    """Remove the temporary folders of this user's commands that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{FOLDERS}*"):
        with suppress(OSError):
            found = left.stat(follow_symlinks=False)
            # One that is new may not be locked yet.
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > NEW_SECONDS:
                lock = _held(str(left))
                shutil.rmtree(left, ignore_errors=True)
                os.close(lock)


class Worker:
    """The actor: one process of the cluster with its metrics and models."""

    def start(
        self, plan: Plan, target: Path, variables: Mapping[str, str], pools: Pools | None, number: int
    ) -> tuple[str, str, Mapping[str, str]]:
        """Build the plan's metrics; returns the fingerprint that shards get here, the machine, and its versions."""
        plan = at_home(plan, variables)
        # Ray lets those who asked for no GPU see all of them.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        models = ModelStore(
            plan.profile,
            device=plan.device,
            judge_limit=plan.judge_limit,
            elsewhere=pools.of_worker(number) if pools else None,
        )
        with portable():
            self._scorer = ShardScorer(plan, target, models)
        return self._scorer.fingerprint, socket.gethostname(), dict(versions())

    def score(self, shard: Shard, deadly: frozenset[int], journal: Path | None) -> Done:
        """As ``ShardScorer.score``. Raises RunError where models can no longer be asked."""
        try:
            with portable():
                return self._scorer.score(shard, deadly=deadly, journal=journal)
        except PoolLost as error:
            raise RunError(str(error)) from None


@dataclass(slots=True, eq=False)
class _Task:
    """A shard on its way; when it is ``done``, with the origin of its last record alone.

    Behind a slow shard many may wait that are done, and pictures may stand in records.
    """

    shard: Shard
    deaths: int = 0
    search: DeadlySearch | None = None
    done: Done | None = None

    def finish(self, done: Done) -> None:
        self.done = done
        self.shard = replace(self.shard, records=(Unreadable(self.shard.records[-1].origin, ()),))

    def died(self, target: Path) -> None:
        """Its worker did, over this shard."""
        self.deaths += 1
        if self.search:
            self.search.died()
        elif self.deaths > GIVEN_AGAIN:
            self.search = DeadlySearch(self.shard, target, CURE, times=OVER_A_RECORD)


@dataclass(slots=True, eq=False)
class _Actor:
    """A worker as the driver knows it: ``under_way`` are its calls, oldest first; None is its start."""

    handle: Any
    limit: int | None
    under_way: dict[Any, _Task | None] = field(default_factory=dict)
    ready: bool = False


class _Crew:
    """Actors that are replaced when one dies, with its process or its node; its shards go to the others."""

    def __init__(
        self, plan: Plan, target: Path, mark: str, variables: Mapping[str, str], *, run: str, namespace: str
    ) -> None:
        self._plan = plan
        self._target = target
        self._mark = mark
        self._variables = variables
        self._name = run
        self._namespace = namespace
        self._pools: Pools | None = None
        self._kind: Any = ray.remote(Worker)
        self._again: list[_Task] = []
        self._actors: list[_Actor] = []
        self._started = self._died_starting = 0

    def start(self, workers: int, pools: Pools | None) -> None:
        """Let so many begin, which ask the ``pools``."""
        self._pools = pools
        for i in range(workers):
            self._start(share(self._plan.judge_limit, i, workers))

    def run(self, shards: Iterable[Shard], clock: Clock) -> Iterator[tuple[Shard, Done]]:
        """Every shard with its marker, in order. The next is asked for when a worker has room for it."""
        coming = iter(shards)
        order: deque[_Task] = deque()
        open_end = True
        while open_end or order:
            while (open_end or self._again) and (actor := self._idlest()):
                if self._again:
                    self._hand(actor, self._again.pop(0))
                elif shard := next(coming, None):
                    order.append(_Task(shard))
                    self._hand(actor, order[-1])
                else:
                    open_end = False
            while order and (done := order[0].done):
                yield order.popleft().shard, done
            if order or open_end:
                with clock.measure("stage", Stage.WAIT_FOR_WORKERS):
                    self._wait()

    def end(self) -> None:
        """End the actors, also in the middle of their work; an unfinished shard leaves nothing that counts."""
        calls = [call for actor in self._actors for call in actor.under_way]
        with suppress(RayError):
            for actor in self._actors:
                ray.kill(actor.handle)
            if calls:
                ray.wait(calls, num_returns=len(calls), timeout=ANSWER_SECONDS)

    def _start(self, limit: int | None) -> None:
        self._started += 1
        handle = self._kind.options(
            # A name that is free: that of a dead actor may not be yet.
            name=f"vlitqc {self._name} worker {self._started}",
            namespace=self._namespace,
            num_cpus=1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        ).remote()
        plan = replace(self._plan, judge_limit=limit)
        first = handle.start.remote(plan, self._target, self._variables, self._pools, self._started)
        self._actors.append(_Actor(handle, limit, {first: None}))

    def _idlest(self) -> _Actor | None:
        """The actor with the least to do, if it has room."""
        free = [actor for actor in self._actors if actor.ready and len(actor.under_way) < UNDER_WAY]
        return min(free, key=lambda actor: len(actor.under_way), default=None)

    def _hand(self, actor: _Actor, task: _Task) -> None:
        search = task.search
        if search:
            search.begin()
            call = actor.handle.score.remote(task.shard, search.deadly, search.journal)
        else:
            call = actor.handle.score.remote(task.shard, frozenset(), None)
        actor.under_way[call] = task

    def _wait(self) -> None:
        """For the next answer of any actor."""
        calls = [call for actor in self._actors for call in actor.under_way]
        ready = any(actor.ready for actor in self._actors)
        found, _ = ray.wait(calls, timeout=None if ready else START_SECONDS)
        if not found:
            free = ray.available_resources().get("CPU", 0)
            raise RunError(
                f"no worker could start in {START_SECONDS / 60:g} minutes; each asks for 1 processor, and {free:g} "
                "are free"
            )
        actor = next(actor for actor in self._actors if found[0] in actor.under_way)
        if not self._settle(actor, found[0]):
            self._replace(actor)

    def _settle(self, actor: _Actor, call: Any) -> bool:
        """Take an answer; False where the actor has died without it."""
        try:
            answer = ray.get(call, timeout=ANSWER_SECONDS)
        except (RayTaskError, UnserializableException) as error:
            raise own(error) from error
        except RayError:
            return False
        task = actor.under_way.pop(call)
        if task is None:
            mark, host, found = answer
            check_alike(mark == self._mark, host, found)
            actor.ready = True
            self._died_starting = 0
        else:
            task.finish(answer)
            if actor.limit is not None:
                asked = max((counts.get("calls", 0) for counts in answer.usage.values()), default=0)
                actor.limit = max(0, actor.limit - asked)
        return True

    def _replace(self, actor: _Actor) -> None:
        """Another in the place of one that died; the oldest of its calls without an answer is what it died of."""
        ray.kill(actor.handle)
        self._actors.remove(actor)
        lost = [task for call, task in list(actor.under_way.items()) if not self._settle(actor, call)]
        if lost and lost[0]:
            lost[0].died(self._target)
        elif lost:
            self._died_starting += 1
            if self._died_starting > MAX_DEATHS:
                raise RunError(
                    "workers die again and again while they start, perhaps for want of memory or because vlitqc is "
                    f"not installed on every node; the same command goes on, {CURE}"
                )
        self._again = sorted((*self._again, *filter(None, lost)), key=lambda task: task.shard.index)
        self._start(actor.limit)


def _in_a_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
