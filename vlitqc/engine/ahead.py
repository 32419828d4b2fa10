"""Work that is done in threads before it is asked for, with results in order and a bound on what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")

JOBS_AHEAD = 8
"""Jobs that are handed out before their results are asked for, at most."""

BYTES_AHEAD = 1 << 28
"""No job but the next is begun where finished results that wait could then weigh more."""

THREADS = 2
"""One goes on with the next job while the other waits for the last piece of its own."""


class Ahead(Generic[J, R]):
    """``run`` of each job in threads, ahead of whoever asks; made for one call of ``results``.

    At most ``most`` bytes of results wait, by ``weigh``, or the next result alone where it has more; of those under
    way each is taken to weigh as much as the largest so far. Likewise of jobs, by ``holds``, and one more. Nothing
    about the results depends on how far ahead they are made.
    """

    def __init__(
        self,
        run: Callable[[J], R],
        weigh: Callable[[R], int],
        holds: Callable[[J], int],
        *,
        most: int = BYTES_AHEAD,
    ) -> None:
        self._run = run
        self._weigh = weigh
        self._holds = holds
        self._most = most
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="ahead")
        self._lock = Lock()
        self._queue: deque[J] = deque()
        self._begun: deque[Future[tuple[R, int]]] = deque()
        self._running = self._waiting = self._largest = 0

    def results(self, jobs: Iterable[J]) -> Generator[tuple[J, R]]:
        """Each job with its result, in order; raises what its ``run`` raised.

        What ``jobs`` raises comes after the results of those before, as if nothing had been done ahead.
        """
        pending: deque[tuple[J, int]] = deque()
        held = 0
        coming = iter(jobs)
        failed: Exception | None = None
        open_end = True
        try:
            while open_end or pending:
                while open_end and len(pending) <= JOBS_AHEAD and (held <= self._most or len(pending) < 2):
                    try:
                        job = next(coming)
                    except StopIteration:
                        open_end = False
                    except Exception as error:  # noqa: BLE001 - raised below, in its turn
                        open_end, failed = False, error
                    else:
                        pending.append((job, self._holds(job)))
                        held += pending[-1][1]
                        with self._lock:
                            self._queue.append(job)
                        self._begin()
                if pending:
                    # No name is left for a result: while the next is waited for, it is the asker's alone.
                    yield pending[0][0], self._next()
                    held -= pending.popleft()[1]
            if failed is not None:
                raise failed
        finally:
            with self._lock:
                self._queue.clear()
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> R:
        result, weight = self._begun[0].result()
        with self._lock:
            self._begun.popleft()
            self._waiting -= weight
        self._begin()
        return result

    def _begin(self) -> None:
        """Hand out what there is room for. No thread ever waits for room: a process could not end before it."""
        with self._lock:
            while self._queue and (not self._begun or self._has_room()):
                self._running += 1
                self._begun.append(self._pool.submit(self._work, self._queue.popleft()))

    def _has_room(self) -> bool:
        expected = self._waiting + self._largest * (self._running + 1)
        return self._running < THREADS and expected <= self._most

    def _work(self, job: J) -> tuple[R, int]:
        weight = 0
        try:
            result = self._run(job)
            weight = self._weigh(result)
        finally:
            with self._lock:
                self._running -= 1
                self._waiting += weight
                self._largest = max(self._largest, weight)
            self._begin()
        return result, weight
