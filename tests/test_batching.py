"""How many items a network sees at once: fixed on a CPU, by trial on CUDA, halved where memory runs out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from vlitqc.models import batching
from vlitqc.models.batching import MOST, Passes, Staging, is_out_of_memory


class Device:
    """A GPU whose passes cost what ``cost`` says of their size, with room for ``room`` items."""

    def __init__(self, cost: Callable[[int], float], room: int = 10_000) -> None:
        self.cost, self.room = cost, room
        self.time = 0.0
        self.sizes: list[int] = []
        self.waits = 0

    def passes(self, first: int = 2, size: int | None = None) -> Passes:
        return Passes("cuda", cpu=1, cuda=first, size=size, now=lambda: self.time, settle=self.settle)

    def settle(self) -> None:
        self.waits += 1

    def forward(self, part: slice) -> list[int]:
        size = part.stop - part.start
        self.sizes.append(size)
        if size > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        # A size that is new takes ten times as long once, as it does with kernels that are chosen at first use.
        first = self.sizes.count(size) == 1
        self.time += self.cost(size) * (10 if first else 1)
        return list(range(part.start, part.stop))


def flat(parts: list[list[int]]) -> list[int]:
    return [i for part in parts for i in part]


def saturating(at: int) -> Callable[[int], float]:
    """A pass costs the same up to ``at`` items, and from there on as much as they are."""
    return lambda size: max(size, at) / at


def test_the_search_doubles_while_it_pays_and_keeps_the_fastest() -> None:
    device = Device(saturating(16))
    passes = device.passes()
    assert flat(passes.parts(300, device.forward)) == list(range(300))
    # Two passes of each size, the first to warm up; 32 brings nothing more.
    assert device.sizes[:12] == [2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 16, 16]
    assert passes.size() == 16
    waits = device.waits
    passes.parts(64, device.forward)
    assert device.sizes[-4:] == [16] * 4
    assert device.waits == waits  # what is settled is not measured again


def test_a_gain_below_five_percent_does_not_count() -> None:
    device = Device(lambda size: 1.0 if size == 2 else size / 2 / 1.04)
    passes = device.passes()
    passes.parts(40, device.forward)
    assert passes.size() == 2


def test_each_shape_has_a_size_of_its_own() -> None:
    device = Device(saturating(8))
    passes = device.passes()
    passes.parts(200, device.forward, "wide")
    assert (passes.size("wide"), passes.size("tall")) == (8, 2)


def test_the_search_goes_on_over_calls_and_counts_whole_passes_alone() -> None:
    device = Device(saturating(64))
    passes = device.passes(first=8)
    for _ in range(6):
        passes.parts(12, device.forward)  # 8 and 4, then 12 of 16: nothing can be said of 16
    assert device.sizes[:4] == [8, 4, 8, 4]
    assert device.sizes[4:] == [12, 12, 12, 12]
    assert passes.size() == 16


def test_the_search_ends_at_the_most() -> None:
    device = Device(lambda _: 1.0)
    passes = device.passes(first=MOST // 2)
    passes.parts(8 * MOST, device.forward)
    assert max(device.sizes) == MOST == passes.size()


def test_what_failed_for_memory_is_done_again_with_half_and_the_half_is_remembered() -> None:
    device = Device(lambda _: 1.0, room=20)
    passes = device.passes(first=8)
    assert flat(passes.parts(100, device.forward)) == list(range(100))
    assert device.sizes.count(32) == 1
    assert passes.size() == 16
    device.sizes.clear()
    passes.parts(40, device.forward)
    assert device.sizes == [16, 16, 8]


def test_a_size_of_the_users_is_kept_but_for_memory() -> None:
    device = Device(lambda _: 1.0)
    passes = device.passes(size=6)
    passes.parts(20, device.forward)
    assert device.sizes == [6, 6, 6, 2]
    assert device.waits == 0
    tight = Device(lambda _: 1.0, room=2)
    passes = tight.passes(size=6)
    assert flat(passes.parts(7, tight.forward)) == list(range(7))
    assert tight.sizes == [6, 3, 1, 1, 1, 1, 1, 1, 1]


def test_a_single_item_that_is_too_much_is_an_error_and_so_is_any_other_fault() -> None:
    device = Device(lambda _: 1.0, room=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        device.passes(first=4).parts(5, device.forward)
    assert device.sizes == [4, 2, 1]

    def broken(part: slice) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        device.passes().parts(5, broken)


def test_a_remainder_that_is_too_much_is_halved_for_itself_alone() -> None:
    device = Device(lambda _: 1.0)
    passes = device.passes(size=16)
    passes.parts(16, device.forward)
    device.sizes.clear()
    device.room = 3  # another program holds the memory for a while
    assert flat(passes.parts(10, device.forward)) == list(range(10))
    assert device.sizes == [10, 5, 2, 2, 2, 2, 2]
    assert passes.size() == 16
    # A bound of the caller's that is too much is no remainder: it would fail again each time.
    assert flat(passes.parts(9, device.forward, most=4)) == list(range(9))
    assert passes.size() == 2


def test_what_prepares_the_items_is_not_measured() -> None:
    device = Device(saturating(64))
    prepared: set[int] = set()
    begun: set[int] = set()

    def prepare(i: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        time.sleep(0.002)
        prepared.add(i)
        return np.array([i])

    def now() -> float:
        begun.update(prepared)
        return device.time

    def forward(pixels: torch.Tensor) -> list[int]:
        items = pixels[:, 0].tolist()
        assert begun.issuperset(items)  # when the time of the pass began
        return device.forward(slice(items[0], items[-1] + 1))

    passes = Passes("cuda", cpu=1, cuda=8, now=now, settle=device.settle)
    passes._staging = Staging("cpu")
    assert flat(passes.images(range(600), prepare, forward)) == list(range(600))
    assert passes.size() == 64


def test_threads_take_turns_on_a_gpu() -> None:
    running = most = 0

    def forward(part: slice) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.002)
        running -= 1
        return list(range(part.start, part.stop))

    passes = Device(lambda _: 1.0).passes(size=2)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: flat(passes.parts(6, forward)), range(4)))
    assert found == [list(range(6))] * 4
    assert most == 1


def test_memory_is_given_back_outside_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(batching, "_give_back", lambda: seen.append(bool(__import__("sys").exc_info()[0])))
    device = Device(lambda _: 1.0, room=2)
    device.passes(first=4).parts(4, device.forward)
    assert seen == [False]


def test_the_words_of_cublas_count_as_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(MemoryError())


# ---------------------------------------------------------------- CPU


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_cpu_takes_fixed_chunks_side_by_side_each_on_one_thread(two_threads: None) -> None:
    together = threading.Barrier(2, timeout=20)

    def forward(part: slice) -> tuple[int, int, bool, str]:
        if part.start < 8:
            together.wait()  # breaks unless two run at once
        name = threading.current_thread().name
        return part.stop - part.start, torch.get_num_threads(), torch.is_inference_mode_enabled(), name

    found = Passes("cpu", cpu=4, cuda=1).parts(18, forward)
    assert [size for size, *_ in found] == [4, 4, 4, 4, 2]
    assert {(threads, inference) for _, threads, inference, _ in found} == {(1, True)}
    assert all(name.startswith("network") for *_, name in found)
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2  # threads of others are left alone


def test_few_items_reach_all_threads_and_one_item_uses_all(two_threads: None) -> None:
    def forward(part: slice) -> tuple[int, int]:
        return part.stop - part.start, torch.get_num_threads()

    assert Passes("cpu", cpu=8, cuda=1).parts(6, forward) == [(3, 1), (3, 1)]
    assert Passes("cpu", cpu=8, cuda=1).parts(1, forward) == [(1, 2)]
    assert Passes("cpu", cpu=8, cuda=1).parts(0, forward) == []
    alone = Passes("cpu", cpu=8, cuda=1, side_by_side=False)
    assert alone.parts(12, forward) == [(8, 2), (4, 2)]
    assert alone.parts(7, forward, most=3) == [(3, 2), (3, 2), (1, 2)]


def test_an_error_on_one_thread_comes_up_after_the_others_are_done(two_threads: None) -> None:
    finished = []

    def forward(part: slice) -> None:
        if part.start == 0:
            raise MemoryError("no room")
        finished.append(part.start)

    with pytest.raises(MemoryError, match="no room"):
        Passes("cpu", cpu=1, cuda=1).parts(4, forward)
    assert sorted(finished) == [1, 2, 3]


def test_passes_within_a_pass_do_not_wait_for_each_other(two_threads: None) -> None:
    inner = Passes("cpu", cpu=1, cuda=1)
    outer = Passes("cpu", cpu=1, cuda=1)
    assert outer.parts(4, lambda _: len(inner.parts(3, lambda part: part.start))) == [3] * 4


def test_a_forked_child_has_threads_of_its_own(two_threads: None) -> None:
    passes = Passes("cpu", cpu=1, cuda=1)
    passes.parts(4, lambda part: part.start)
    child = os.fork()
    if child == 0:
        # A pool of the parent's would never answer here.
        os._exit(0 if passes.parts(4, lambda part: part.start) == [0, 1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_images_come_prepared_as_one_tensor_in_order(two_threads: None) -> None:
    items = [np.full((2, 3), i, np.uint8) for i in range(5)]
    found = Passes("cpu", cpu=2, cuda=1).images(
        items, lambda item: item + 1, lambda pixels: pixels[:, 0, 0].tolist()
    )
    assert found == [[1, 2], [3, 4], [5]]


# ---------------------------------------------------------------- staging


class Event:
    waits = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        type(self).waits += 1


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The buffers that are made; events of a GPU that is not there."""
    made: list[tuple[int, ...]] = []

    def make(shape: tuple[int, ...], kind: torch.dtype) -> torch.Tensor:
        made.append(shape)
        return torch.empty(shape, dtype=kind)

    monkeypatch.setattr(batching, "_pinned", make)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    Event.waits = 0
    return made


def test_arrays_reach_a_gpu_through_two_buffers_that_are_not_written_before_they_are_read(
    pinned: list[tuple[int, ...]],
) -> None:
    staging = Staging("cpu:0")  # goes the way of a GPU
    moved = [staging.move([np.full((2, 2), 10 * k + i, np.uint8) for i in range(3)]) for k in range(5)]
    assert [tensor[:, 0, 0].tolist() for tensor in moved] == [
        [10 * k + i for i in range(3)] for k in range(5)
    ]
    assert pinned == [(3, 2, 2)] * 2
    assert Event.waits == 3  # from the third on, the copy of the one before last
    staging.move([np.zeros((2, 2), np.uint8)])
    assert len(pinned) == 2  # fewer fit
    staging.move([np.zeros((2, 2), np.uint8)] * 4)
    staging.move([np.zeros((2, 2), np.float32)])
    assert pinned[2:] == [(4, 2, 2), (1, 2, 2)]


def test_on_cuda_what_was_prepared_is_used_again_after_memory_ran_out(pinned: list[tuple[int, ...]]) -> None:
    prepared: list[int] = []

    def prepare(i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        prepared.append(i)
        return np.full((2, 2), i, np.uint8)

    def forward(pixels: torch.Tensor) -> list[int]:
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return [int(i) for i in pixels[:, 0, 0]]

    passes = Passes("cpu:0", cpu=1, cuda=4, now=lambda: 0.0, settle=lambda: None)
    assert flat(passes.images(range(7), prepare, forward)) == list(range(7))
    assert sorted(prepared) == list(range(7))
    assert passes.size() == 2
