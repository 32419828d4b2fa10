"""This machine: in the process itself, or in a pool of worker processes that die with their parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from vlitqc.engine.plan import Plan
from vlitqc.engine.scorer import ShardScorer
from vlitqc.engine.shards import Done, Shard
from vlitqc.errors import RunError
from vlitqc.models.store import ModelStore

_scorer: ShardScorer | None = None


def run_shards(
    plan: Plan, target: Path, shards: Iterable[Shard], *, workers: int, models: ModelStore
) -> Iterator[tuple[Shard, Done]]:
    """Score every shard into ``target``; yields each with its marker, in order, as it finishes.

    A single worker is this process, with its ``models``; more are processes of their own.
    """
    if workers <= 1:
        scorer = ShardScorer(plan, target, models)
        for shard in shards:
            yield shard, scorer.score(shard)
        return
    # Forking a process that holds threads and a model's locks can deadlock.
    context = get_context("spawn")
    limits = context.SimpleQueue()
    for i in range(workers):
        limits.put(share(plan.judge_limit, i, workers))
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(plan, target, os.getpid(), max(1, (os.cpu_count() or 1) // workers), limits),
    )
    with pool:
        pending: deque[tuple[Shard, Future[Done]]] = deque()
        try:
            for shard in shards:
                pending.append((shard, pool.submit(_score, shard)))
                if len(pending) >= 2 * workers:
                    head, future = pending.popleft()
                    yield head, future.result()
            while pending:
                head, future = pending.popleft()
                yield head, future.result()
        except BrokenProcessPool as error:
            raise RunError(
                "a worker process was killed, perhaps for want of memory; the same command goes on, "
                "with fewer --workers if it happens again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def share(limit: int | None, worker: int, workers: int) -> int | None:
    """A worker's part of a limit, as even as whole numbers allow."""
    return None if limit is None else limit // workers + (worker < limit % workers)


def _start_worker(
    plan: Plan, target: Path, parent: int, threads: int, limits: SimpleQueue[int | None]
) -> None:
    global _scorer  # noqa: PLW0603 - a worker process holds exactly one scorer, with its loaded models
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    # Ctrl-C reaches the whole group; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _scorer = ShardScorer(replace(plan, judge_limit=limits.get()), target)


def _score(shard: Shard) -> Done:
    assert _scorer is not None
    return _scorer.score(shard)


def _die_with(parent: int) -> None:
    # A parent that was killed cannot close its pool; its workers are then adopted by another process.
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
