"""This machine: in the process itself, or in a pool of worker processes that die with their parent."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from vlitqc.engine.clock import Clock
from vlitqc.engine.disk import sweep
from vlitqc.engine.plan import Plan, Planned
from vlitqc.engine.scorer import ShardScorer
from vlitqc.engine.shards import Done, Shard
from vlitqc.executors.deadly import DeadlySearch
from vlitqc.models.store import ModelStore
from vlitqc.types import Stage, processors, torch_threads

CURE = (
    "with fewer --workers if it happens again "
    '(a script of one\'s own calls score under if __name__ == "__main__":)'
)

_scorer: ShardScorer | None = None


class LocalExecutor:
    """``workers`` processes that are started for a run; a single one is this process, with its models and clock."""

    spread = None

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.apart = workers > 1
        self.told = {"name": "local", "workers": workers}

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left to end: workers end with ``shards``."""

    def fit(self, planned: Sequence[Planned], models: ModelStore) -> None:
        """As ``Executor.fit``."""

    def shards(
        self, plan: Plan, target: Path, shards: Iterable[Shard], *, models: ModelStore, clock: Clock
    ) -> Iterator[tuple[Shard, Done]]:
        """As ``Executor.shards``."""
        if not self.apart:
            yield from ShardScorer(plan, target, models, clock).run(shards)
            return
        crew = _Crew(plan, target, self.workers)
        pending: deque[tuple[Shard, Future[Done]]] = deque()

        def first() -> tuple[Shard, Done]:
            with clock.measure("stage", Stage.WAIT_FOR_WORKERS):
                return crew.first(pending)

        try:
            for shard in shards:
                pending.append((shard, crew.submit(shard)))
                if len(pending) >= 2 * self.workers:
                    yield first()
            while pending:
                yield first()
        except BaseException:
            crew.end()
            raise
        finally:
            crew.close()
            sweep(target)


class _Crew:
    """Worker processes that are replaced when one dies; what was lost with them is scored again."""

    def __init__(self, plan: Plan, target: Path, workers: int) -> None:
        self._plan = plan
        self._target = target
        self._workers = workers
        self._asked = 0
        self._others = frozenset(active_children())
        self._pool = self._start(workers)

    def submit(self, shard: Shard) -> Future[Done]:
        """Have the shard scored; a crew that is broken says so in the future."""
        try:
            return self._hand(shard)
        except BrokenProcessPool as error:
            broken: Future[Done] = Future()
            broken.set_exception(error)
            return broken

    def first(self, pending: deque[tuple[Shard, Future[Done]]]) -> tuple[Shard, Done]:
        """Take the first of the pending shards and wait for it."""
        if isinstance(pending[0][1].exception(), BrokenProcessPool):
            # Nobody knows which shard killed its worker, so each of the lost ones is alone in a process now.
            for i, (shard, future) in enumerate(pending):
                if isinstance(future.exception(), BrokenProcessPool):
                    alone: Future[Done] = Future()
                    alone.set_result(self._alone(shard))
                    pending[i] = (shard, alone)
            self._renew(self._workers)
        shard, future = pending.popleft()
        done = future.result()
        self._asked += max((counts.get("calls", 0) for counts in done.usage.values()), default=0)
        return shard, done

    def end(self) -> None:
        """End the workers in the middle of their work; an unfinished shard leaves nothing that counts."""
        for process in frozenset(active_children()) - self._others:
            process.terminate()

    def close(self) -> None:
        """Wait for the workers to end."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _alone(self, shard: Shard) -> Done:
        """The shard in a process of its own; if that dies too, without the records that kill it."""
        self._renew(1)
        try:
            return self._hand(shard).result()
        except BrokenProcessPool:
            pass
        search = DeadlySearch(shard, self._target, CURE)
        while True:
            search.begin()
            self._renew(1)
            try:
                return self._hand(shard, search.deadly, search.journal).result()
            except BrokenProcessPool:
                search.died()

    def _hand(
        self, shard: Shard, deadly: frozenset[int] = frozenset(), journal: Path | None = None
    ) -> Future[Done]:
        # This may start a worker, and Ctrl-C reaches the whole group: the worker never hears of it, as it inherits
        # what is blocked; this process, which alone answers it, hears of it a moment later.
        with _interrupts_blocked():
            return self._pool.submit(_score, shard, deadly, journal)

    def _renew(self, workers: int) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._start(workers)

    def _start(self, workers: int) -> ProcessPoolExecutor:
        # Forking a process that holds threads and a model's locks can deadlock.
        context = get_context("spawn")
        limits = context.SimpleQueue()
        limit = self._plan.judge_limit
        for i in range(workers):
            limits.put(share(None if limit is None else max(0, limit - self._asked), i, workers))
        threads = torch_threads(max(1, processors() // workers), os.environ.get("OMP_NUM_THREADS"))
        return ProcessPoolExecutor(
            workers,
            mp_context=context,
            initializer=_start_worker,
            initargs=(self._plan, self._target, threads, limits),
        )


def share(limit: int | None, worker: int, workers: int) -> int | None:
    """A worker's part of a limit, as even as whole numbers allow."""
    return None if limit is None else limit // workers + (worker < limit % workers)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(plan: Plan, target: Path, threads: int, limits: SimpleQueue[int | None]) -> None:
    global _scorer  # noqa: PLW0603 - a worker process holds exactly one scorer, with its loaded models
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # Where it could not be blocked; what a worker starts in its turn ignores it as well.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _scorer = ShardScorer(replace(plan, judge_limit=limits.get()), target)


def _score(shard: Shard, deadly: frozenset[int], journal: Path | None) -> Done:
    assert _scorer is not None
    return _scorer.score(shard, deadly=deadly, journal=journal)


def _die_with_parent() -> None:
    # A parent that was killed cannot close its pool; its workers would be adopted by another process.
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
