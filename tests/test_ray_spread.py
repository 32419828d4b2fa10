"""Work shared by the tasks of a Ray cluster of two nodes: in order, retried, and the same as on one machine; and calls
of the actors of a pool."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from test_bands import cloud
from test_ray import Cluster

from vlitqc.errors import RunError, UsageError, as_reason
from vlitqc_metrics._algorithms.dbscan import dbscan
from vlitqc_metrics._algorithms.file_rows import FileRows
from vlitqc_metrics._algorithms.near_duplicates import near_duplicate_groups

pytest.importorskip("ray")

import ray

from vlitqc.executors import ray_models
from vlitqc.executors.ray_models import Member, ModelActor, Pool, PoolLost, actor_class


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one processor, to which this process is connected."""
    paths = [str(Path(__file__).parent), *(str(ROOT / name) for name in ("", "metrics"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Cluster(os.environ | {"PYTHONPATH": os.pathsep.join(paths)})
        try:
            made.start()
            made.start()
            ray.init(made.address, log_to_driver=False)
            yield made
        finally:
            ray.shutdown()
            made.end()


@pytest.fixture
def spread(cluster: Cluster) -> Any:
    from vlitqc.executors.ray_spread import RaySpread

    return RaySpread()


def slow_square(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0.0)
    return number * number


def named(number: int) -> tuple[str, int]:
    name: Any = ray.get_runtime_context().get_task_name()
    return name, number


def fail(at: int, number: int) -> int:
    if number == at:
        raise UsageError(f"part {number} cannot be")
    return number


def die(folder: Path, times: int, number: int) -> int:
    """Kills its worker the first ``times`` that part 3 is computed."""
    if number == 3:
        for k in range(times):
            try:
                (folder / str(k)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
    return -number


def where(folder: Path, number: int) -> str:
    node: str = ray.get_runtime_context().get_node_id()
    (folder / f"{number} {node}").touch()
    time.sleep(0.4)
    return node


def test_answers_come_in_order_and_few_parts_are_under_way(spread: Any) -> None:
    assert spread.width == 2
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(12):
            taken.append(number)
            yield number

    for done, answer in enumerate(spread.map(slow_square, parts())):
        assert answer == done * done
        assert len(taken) <= done + 4
    assert len(taken) == 12
    assert list(spread.map(slow_square, [])) == []


def test_tasks_have_names(spread: Any) -> None:
    assert list(spread.map(named, [1, 2])) == [("vlitqc named", 1), ("vlitqc named", 2)]


def test_a_part_raises_its_own_error(spread: Any) -> None:
    answers = spread.map(partial(fail, 5), range(9))
    assert [next(answers) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="part 5 cannot be") as caught:
        next(answers)
    assert type(caught.value) is UsageError


def test_a_part_whose_worker_dies_is_computed_again(spread: Any, tmp_path: Path) -> None:
    assert list(spread.map(partial(die, tmp_path, 2), range(6))) == [0, -1, -2, -3, -4, -5]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_part_that_always_kills_its_worker_ends_the_run(spread: Any, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"end again and again .*the same command goes on"):
        list(spread.map(partial(die, tmp_path, 100), range(6)))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_cluster_that_fails_ends_the_run_in_a_sentence(
    spread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ray.exceptions.RaySystemError("it is gone.")

    for name in ("put", "cluster_resources"):
        with monkeypatch.context() as patch:
            patch.setattr(ray, name, fails)
            with pytest.raises(RunError, match=r"\(System error: it is gone\).*the same command goes on"):
                list(spread.map(slow_square, [1]))


# ---------------------------------------------------------------- pools


class Refused(Exception):
    """No pickle of it can be read."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class Held:
    """Models of which each takes a while, or refuses."""

    def get(self, slot: str) -> Held:
        return self

    def usage(self) -> dict[str, Any]:
        return {}

    def ask(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def refuse(self) -> None:
        raise Refused(3, "no")


class Small(ModelActor):
    """An actor of a pool without a plan."""

    def __init__(self) -> None:
        held: Any = Held()
        self._models, self._slot, self._told = held, "judge", {}


def test_a_slow_pool_is_waited_for_and_a_lost_one_is_not(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = actor_class(Small).options(num_cpus=0).remote()
    pools = [Pool("judge", [Member(actor, "")], "", number) for number in range(4)]
    with pytest.raises(Exception, match="3: no") as caught:
        pools[0].call("refuse", (), {})
    assert as_reason(caught.value) == "error: Refused: 3: no"
    monkeypatch.setattr(ray_models, "PATIENCE", 2.0)
    monkeypatch.setattr(ray_models, "START_SECONDS", 2.5)
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda pool: pool.call("ask", (1.5,), {}), pools))
    assert answers == [(1.5, {})] * 4
    ray.kill(actor)
    # It takes a moment to die; a call that it had begun by then would rightly end this process.
    with pytest.raises(ray.exceptions.RayActorError):
        while True:
            ray.get(actor.ping.remote(), timeout=60)
    with pytest.raises(PoolLost, match="no actor of the model 'judge' has answered"):
        pools[0].call("ask", (1.0,), {})


def test_labels_and_groups_are_those_of_one_machine(spread: Any, tmp_path: Path) -> None:
    x = cloud(20_000, 64)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    items = np.flatnonzero(np.arange(len(x)) % 5)
    for picked, budget in ((None, 1 << 27), (items, 1 << 17)):
        rows = x if picked is None else x[picked]
        found = dbscan(FileRows(mapped, picked), 0.3, 3, edge_budget=budget, spread=spread)
        assert found.max() > 100
        assert found.tobytes() == dbscan(rows, 0.3, 3).tobytes()
        groups = near_duplicate_groups(FileRows(mapped, picked), 0.8, spread=spread)
        assert groups.tobytes() == near_duplicate_groups(rows, 0.8).tobytes()


def test_a_lost_node_loses_nothing(cluster: Cluster, spread: Any, tmp_path: Path) -> None:
    answers = spread.map(partial(where, tmp_path), range(12))
    before = [next(answers), next(answers)]
    while len({path.name.split()[1] for path in tmp_path.iterdir()}) < 2:
        before.append(next(answers))
    cluster.kill(cluster.nodes[1])
    assert len([*before, *answers]) == 12
    assert {path.name.split()[0] for path in tmp_path.iterdir()} == {str(n) for n in range(12)}
