"""Where the time of a run goes: exclusive times, in ``run.json`` and in words."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

import vlitqc
from vlitqc import cli, console, profiles
from vlitqc.console.times import advice
from vlitqc.engine import clock as clock_module
from vlitqc.engine.clock import Clock, added
from vlitqc.engine.plan import BATCH, BATCH_CUDA, Plan, batch_size
from vlitqc.engine.scorer import ShardScorer
from vlitqc.engine.shards import cut
from vlitqc.errors import UsageError
from vlitqc.formats import open_input


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Calls the command line in this process; returns its exit code and both streams."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlitqc", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when it is told to."""
    now = [0.0]
    monkeypatch.setattr(clock_module, "perf_counter", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


class TestClock:
    def test_what_is_nested_is_taken_off(self, ticks: Callable[[float], None]) -> None:
        clock = Clock()
        with clock.measure("stage", "read"):
            ticks(1)
            with clock.measure("metric", "a"):
                ticks(2)
                with clock.measure("model", "m"):
                    ticks(4)
                with clock.measure("model", "m"):
                    ticks(8)
            ticks(16)
        assert clock.take() == {"stages": {"read": 17.0}, "metrics": {"a": 2.0}, "models": {"m": 12.0}}
        assert clock.take() == {"stages": {}, "metrics": {}, "models": {}}

    def test_an_open_measurement_comes_later_and_whole(self, ticks: Callable[[float], None]) -> None:
        clock = Clock()
        with clock.measure("stage", "outer"):
            ticks(1)
            with clock.measure("stage", "inner"):
                ticks(2)
            assert clock.take()["stages"] == {"inner": 2.0}
        assert clock.take()["stages"] == {"outer": 1.0}

    def test_an_error_ends_a_measurement(self, ticks: Callable[[float], None]) -> None:
        clock = Clock()
        with clock.measure("stage", "outer"):
            with pytest.raises(ValueError, match="x"), clock.measure("metric", "a"):
                ticks(3)
                raise ValueError("x")
            ticks(1)
        assert clock.take() == {"stages": {"outer": 1.0}, "metrics": {"a": 3.0}, "models": {}}

    def test_another_thread_measures_nothing(self) -> None:
        clock = Clock()

        def beside() -> None:
            with clock.measure("model", "m"):
                pass

        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
        assert clock.take()["models"] == {}

    def test_items_are_measured_while_they_are_made(self, ticks: Callable[[float], None]) -> None:
        clock = Clock()

        def slow() -> Iterator[int]:
            for i in range(3):
                ticks(1)
                yield i

        for _ in clock.measured("stage", "read", slow()):
            ticks(10)
        assert clock.take()["stages"] == {"read": 3.0}

    def test_times_are_added_by_name(self) -> None:
        one = {"stages": {"a": 1.0}, "metrics": {}}
        other = {"stages": {"a": 2.0, "b": 3.0}, "decode": {"busy": 1.0}}
        assert added(one, other) == {
            "stages": {"a": 3.0, "b": 3.0}, "metrics": {}, "decode": {"busy": 1.0},
        }  # fmt: skip


class TestRun:
    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_times_of_a_run(self, make_data: Callable[..., Path], tiny: str, workers: int) -> None:
        data = make_data(40)
        run = vlitqc.score(data, tiny, workers=workers)
        times = run.info["times"]
        assert set(times) == {"wall", "stages", "metrics", "models", "decode"}
        stages = times["stages"]
        assert {"recognise the input", "set up models", "read records", "wait for pictures", "report"} <= set(
            stages
        )
        assert ("wait for workers" in stages) == (workers > 1)
        assert "over the data set: composition" in stages
        assert {"image_readability", "composition"} <= set(times["metrics"])
        assert times["decode"]["busy"] > 0
        assert times["decode"]["waited"] == stages["wait for pictures"]
        assert all(
            seconds >= 0 for part in times.values() if isinstance(part, dict) for seconds in part.values()
        )
        if workers == 1:
            parts = (times[name] for name in ("stages", "metrics", "models"))
            assert sum(sum(part.values()) for part in parts) <= times["wall"]
        assert json.loads((run.path / "run.json").read_text())["times"] == times
        # Neither do the times get into what a shard holds, nor does a shard that is taken over bring any.
        assert all("times" not in json.loads(p.read_text()) for p in run.path.glob("shards/*/done.json"))
        again = vlitqc.score(data, tiny, report=False).info["times"]
        assert again["metrics"] == {} and again["decode"]["busy"] == 0

    def test_the_table_of_the_command(
        self, make_data: Callable[..., Path], tiny: str, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        data = make_data(5)
        code, out, _ = command("score", data, "--profile", tiny, "--profile-time")
        assert code == 0
        assert "where the time went" in out
        assert "% of the time is in the " in out
        code, out, err = command("score", data, "--profile", tiny, "--profile-time", "--json")
        assert json.loads(out)["counts"]["records"] == 5
        assert "where the time went" in err
        assert "where the time went" not in "".join(command("score", data, "--profile", tiny)[1:])


def test_the_times_of_a_shard_that_is_scored_record_by_record(
    make_data: Callable[..., Path], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path))
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "10M")
    chosen = profiles.load(tiny)
    data = make_data(6)
    plan = Plan(chosen, tuple(chosen.metrics), data.parent, cache=True)
    scorer = ShardScorer(plan, tmp_path / "shards")
    done = scorer.score(next(cut(open_input(data).records())), journal=tmp_path / "journal")
    assert {"image_readability", "composition"} <= set(done.times["metrics"])
    assert done.times["decode"]["busy"] > 0
    assert done.cache["kept"] > 0


def shown(info: Any) -> str:
    out = Console(file=io.StringIO(), width=100)
    out.print(console.times(info))
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text


class TestTable:
    INFO: ClassVar[dict[str, Any]] = {
        "models": [{"name": "net", "kind": "ImageEncoder"}, {"name": "words", "kind": "LanguageModel"}],
        "times": {
            "wall": 100.0,
            "stages": {"read records": 10.0, "wait for pictures": 5.0, "tiny": 0.1, "small": 0.2},
            "metrics": {"m": 2.0},
            "models": {"net": 62.0, "words": 8.0},
            "decode": {"busy": 30.0, "waited": 5.0},
        },
    }

    def test_shares_and_advice(self) -> None:
        lines = shown(self.INFO).splitlines()
        cells = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines if line.endswith("%")}
        assert cells["model"] == ["70.0", "70.0%"]
        assert cells["net"] == ["62.0", "62.0%"]
        assert cells["everything else"] == ["12.7", "12.7%"]
        assert cells["2 smaller"] == ["0.3", "0.3%"]
        assert (
            sum(float(cells[name][1][:-1]) for name in ("model", "metric, without its models", "stage"))
            == 100
        )
        text = " ".join(" ".join(lines).split())
        assert "decoding took 30.0 s of processor time; the models waited 5.0 s for it" in text
        assert "62% of the time is in the model net; a GPU, or a faster one, would help" in text

    def test_waiting_for_workers_is_no_work(self) -> None:
        times = {
            **self.INFO["times"],
            "wall": 60.0,
            "stages": {"wait for workers": 59.0, "read records": 30.0},
        }
        text = shown({**self.INFO, "times": times})
        assert "wait for workers" not in text and "everything else" not in text
        assert "62.0%" not in text and "60.8%" in text  # 62 of 102 seconds of work

    @pytest.mark.parametrize(
        ("section", "name", "told"),
        [
            ("models", "words", "is in the model words; more processor cores with --workers would help"),
            ("metrics", "m", "is in the metric m itself; more processor cores with --workers would help"),
            ("stages", "wait for pictures", "decoding is slower than the models"),
            ("stages", "report", "neither a GPU nor --workers would change that"),
            (
                "stages",
                "over the data set: duplicates",
                "a GPU would help where it clusters, --workers would not",
            ),
        ],
    )
    def test_each_kind_of_advice(self, section: str, name: str, told: str) -> None:
        assert told in advice(section, name, 0.5, self.INFO["models"])

    def test_a_name_cannot_steer_the_terminal(self) -> None:
        assert "\x1b" not in advice("models", "\x1b[31mnet", 0.5, [])


class TestBatchSize:
    def test_auto_is_the_devices(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert batch_size("auto", "cpu") == BATCH
        assert batch_size(7, "cuda") == 7
        monkeypatch.setattr("vlitqc.engine.plan.has_gpu", lambda: True)
        assert batch_size("auto", "auto") == batch_size("auto", "cuda") == BATCH_CUDA
        assert batch_size("auto", "cpu") == BATCH

    @pytest.mark.parametrize("wrong", [0, -3, "many"])
    def test_anything_else_is_refused(self, wrong: Any) -> None:
        with pytest.raises(UsageError, match="expected 1 or more, or 'auto'"):
            batch_size(wrong, "cpu")

    def test_the_command_takes_both(
        self, make_data: Callable[..., Path], tiny: str, command: Callable[..., tuple[int, str, str]]
    ) -> None:
        data = make_data(3)
        for asked, size in (("auto", BATCH), ("2", 2)):
            options = ("--profile", tiny, "--device", "cpu", "--batch-size", asked, "--quiet")
            assert command("score", data, *options)[0] == 0
            assert vlitqc.Run.open(data).info["plan"]["batch_size"] == size
        assert command("score", data, "--batch-size", "0")[0] == 2
