"""How many items a network sees at once, and on which threads.

On a CPU the number has a fixed bound. Several chunks are computed side by side, each on a thread of its own: one chunk
spread over all threads waits for the slowest of them after every layer, and what prepares the items (resizing) would
wait for the network. How large the chunks are follows from how many items there are and how many threads, never from
the load; it changes a value by float32 rounding at most.

On CUDA the number is found by trial: it is doubled as long as an item then takes at least 5% less time, and halved
where memory runs out; the work that failed is done again. Threads that share a network take turns there.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

GAIN = 1.05
"""How much more items a second a doubled number must bring to be kept."""
MOST = 1024
"""Items in one pass at most, however much memory there is."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True)
class _Search:
    """Where the search stands for one shape: ``size`` is used next, ``best`` the fastest so far."""

    size: int
    done: bool
    best: int
    rate: float = 0.0
    warm: bool = False


class Passes:
    """Takes items through a network, as many at once as suit the device; one object a network.

    ``cpu`` items at once on a CPU, fewer where the items would else not reach all threads; on CUDA ``cuda`` to begin
    with, and by trial from there. ``size`` fixes the number on both, but that CUDA may still halve it. ``side_by_side``
    is False for a network that keeps state during a pass. ``threads`` prepare items for CUDA, ahead of it.

    ``now`` and ``settle`` (waits until the device is done) are what the search measures with.
    """

    def __init__(
        self,
        device: str,
        *,
        cpu: int,
        cuda: int,
        size: int | None = None,
        side_by_side: bool = True,
        threads: int = 4,
        now: Callable[[], float] = time.perf_counter,
        settle: Callable[[], None] | None = None,
    ) -> None:
        self.device = device
        self._cpu = size or cpu
        self._first = size or cuda
        self._fixed = size is not None
        self._side_by_side = side_by_side
        self._threads = threads
        self._now = now
        self._settle = settle
        self._found: dict[Hashable, _Search] = {}
        self._staging = Staging(device)
        self._lock = threading.Lock()

    def size(self, shape: Hashable = ()) -> int:
        """How many items of that shape the next pass takes."""
        return self._cpu if self.device == "cpu" else self._search(shape).size

    def images(
        self,
        items: Sequence[T],
        prepare: Callable[[T], NDArray[Any]],
        forward: Callable[[torch.Tensor], R],
        shape: Hashable = (),
    ) -> list[R]:
        """``forward`` of chunks of prepared items, in order; each chunk is a tensor on the device.

        ``prepare`` gives arrays of one shape and runs on threads while the network computes; ``forward`` runs in
        inference mode. Raises what they raise; on CUDA running out of memory goes up only where a single item is too
        much.
        """
        if self.device == "cpu":
            return self.parts(
                len(items),
                lambda part: forward(self._staging.move([prepare(item) for item in items[part]])),
            )
        with ThreadPoolExecutor(self._threads, thread_name_prefix="prepare") as pool:
            ready = [pool.submit(prepare, item) for item in items]
            try:
                return self._on_cuda(
                    len(items),
                    lambda part: forward(self._staging.move([found.result() for found in ready[part]])),
                    shape,
                    MOST,
                    lambda part: wait(ready[part]),
                )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def parts(
        self, n: int, forward: Callable[[slice], R], shape: Hashable = (), *, most: int = MOST
    ) -> list[R]:
        """``forward`` of slices that cover ``range(n)``, of at most ``most``, in order. Raises as ``images``."""
        if self.device != "cpu":
            return self._on_cuda(n, forward, shape, most)
        import torch

        lanes = torch.get_num_threads() if self._side_by_side else 1
        step = max(1, min(self._cpu, most, -(-n // lanes)))
        slices = [slice(start, min(start + step, n)) for start in range(0, n, step)]
        if min(lanes, len(slices)) < 2:
            return [_inferred(forward, part) for part in slices]
        # A pass that has begun cannot be stopped, so all are waited for before the first error is raised.
        futures = [_lanes(lanes).submit(_inferred, forward, part) for part in slices]
        try:
            wait(futures)
        finally:
            for future in futures:
                future.cancel()
        return [future.result() for future in futures]

    def _on_cuda(
        self,
        n: int,
        forward: Callable[[slice], R],
        shape: Hashable,
        most: int,
        prepared: Callable[[slice], object] = lambda _: None,
    ) -> list[R]:
        """``prepared`` waits for a slice's items, which is no time of the network's."""
        with self._lock:
            at = self._search(shape)
            results: list[R] = []
            start, rest = 0, n
            while start < n:
                usual = min(at.size, most)
                size = min(usual, rest, n - start)
                part = slice(start, start + size)
                prepared(part)
                trial = not at.done and size == at.size
                if trial:
                    self._wait()
                began = self._now()
                try:
                    result = _inferred(forward, part)
                    if trial:
                        self._wait()
                except Exception as error:
                    if size == 1 or not is_out_of_memory(error):
                        raise
                    starved = True
                else:
                    starved = False
                if starved:
                    # Outside the handler: what the failed pass held is free again.
                    _give_back()
                    if size < usual:
                        # Fewer than ran before: memory is short for the moment, or for these items.
                        rest = size // 2
                    else:
                        at.size, at.done = size // 2, True
                    continue
                if trial:
                    _weigh(at, size / max(self._now() - began, 1e-9))
                results.append(result)
                start += size
            return results

    def _search(self, shape: Hashable) -> _Search:
        return self._found.setdefault(shape, _Search(self._first, self._fixed, self._first))

    def _wait(self) -> None:
        if self._settle is not None:
            self._settle()
        else:
            import torch

            torch.cuda.synchronize()


def _inferred(forward: Callable[[slice], R], part: slice) -> R:
    import torch

    with torch.inference_mode():
        return forward(part)


def _weigh(at: _Search, rate: float) -> None:
    """One step of the search. The first pass of each size warms up libraries and memory and is not counted."""
    if not at.warm:
        at.warm = True
        return
    at.warm = False
    if rate < GAIN * at.rate:
        at.size, at.done = at.best, True
        return
    at.best, at.rate = at.size, rate
    if 2 * at.size > MOST:
        at.done = True
    else:
        at.size *= 2


class Staging:
    """Brings arrays to a device; to a GPU through two page-locked buffers in turn, so that it need not wait.

    While the GPU copies out of one and computes, the other is filled. For one thread at a time, but on a CPU.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._buffers: list[tuple[torch.Tensor, Any] | None] = [None, None]
        self._turn = 0

    def move(self, arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
        """The arrays, all of one shape and type, as one tensor on the device."""
        import torch

        if self._device == "cpu":
            return torch.from_numpy(np.stack(arrays))
        self._turn = 1 - self._turn
        held = self._buffers[self._turn]
        # Copied to the end before it is written again, and before it is let go of.
        if held is not None:
            held[1].synchronize()
        kind = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        shape = (len(arrays), *arrays[0].shape)
        if held is None or held[0].dtype != kind or not _fits(shape, held[0].shape):
            buffer = _pinned(shape, kind)
        else:
            buffer = held[0]
        np.stack(arrays, out=buffer[: len(arrays)].numpy())
        moved = buffer[: len(arrays)].to(self._device, non_blocking=True, copy=True)
        event: Any = torch.cuda.Event
        copied = event()
        copied.record()
        self._buffers[self._turn] = buffer, copied
        return moved


def _fits(shape: tuple[int, ...], held: Sequence[int]) -> bool:
    return shape[0] <= held[0] and shape[1:] == tuple(held[1:])


def _pinned(shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
    import torch

    return torch.empty(shape, dtype=kind, pin_memory=True)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had no memory left, in torch's words or in those of the libraries below it."""
    import torch

    told = isinstance(error, RuntimeError) and "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
    return told or isinstance(error, torch.cuda.OutOfMemoryError)


def _give_back() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------- threads of one chunk each

_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _lanes(count: int) -> ThreadPoolExecutor:
    """``count`` threads on each of which torch computes by itself; kept for the process."""
    with _pools_lock:
        if count not in _pools:
            _pools[count] = _started(count)
        return _pools[count]


def _started(count: int) -> ThreadPoolExecutor:
    import torch

    ready = threading.Barrier(count + 1)

    def start() -> None:
        # OpenMP keeps a number for each thread; torch sets it at a thread's first question to what was set last, and
        # never again, so the question is asked now.
        torch.set_num_threads(1)
        torch.get_num_threads()
        ready.wait()

    with _number_of_threads():
        pool = ThreadPoolExecutor(count, thread_name_prefix="network", initializer=start)
        for _ in range(count):
            pool.submit(int)
        ready.wait()
    return pool


@contextmanager
def _number_of_threads() -> Iterator[None]:
    """torch hands the number that was set last to threads that begin later; theirs stays what it was."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forget_lanes() -> None:
    # Threads do not live on in a forked child.
    _pools.clear()
    _pools_lock.release()


os.register_at_fork(
    before=_pools_lock.acquire, after_in_parent=_pools_lock.release, after_in_child=_forget_lanes
)
