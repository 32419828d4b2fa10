"""The arithmetic of the cost model and of the benchmarks on Ray; that the tables of the document come out of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlitqc.engine.shards import shard_size

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "cluster"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the folder, whose modules find each other there and are forgotten afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    for own in FOLDER.glob("*.py"):
        monkeypatch.delitem(sys.modules, own.stem, raising=False)

    def load(name: str) -> Any:
        made = importlib.import_module(name)
        for own in FOLDER.glob("*.py"):
            if own.stem in sys.modules:
                # Noted, so that it is taken out again.
                monkeypatch.setitem(sys.modules, own.stem, sys.modules.pop(own.stem))
        return made

    return load


def rates(cost_model: Any, **changed: Any) -> Any:
    """A record takes a worker a second, the driver a millisecond meanwhile, and 3 ms afterwards."""
    told = {
        "models": {"EfficientNet-Lite0 (ImageNet-1k)": 0.5, "visual_complexity": 0.2, "spaCy": 0.1},
        "decode": 0.1,
        "metrics": 0.06,
        "compare": 0.04,
        "read": 0.0004,
        "send": 0.0006,
        "feature_bytes": 1e6,
        "passes": {"duplicates": 0.0015, "tables": 0.0005},
        "row_bytes": {"duplicates": 400.0},
        "pair_flops": 1e11,
    }
    return cost_model.Rates(**(told | changed))


def test_what_a_record_costs_is_the_sum_of_its_stages(module: Any) -> None:
    made = rates(module("cost_model"))
    assert made.core == pytest.approx(1.0)
    assert made.pipeline == pytest.approx(0.001)
    assert made.tail == pytest.approx(0.003)
    # The network goes to the GPU, and in paper the classical measure of complexity as well.
    assert made.beside_gpu(lite=True) == pytest.approx(0.5)
    assert made.beside_gpu(lite=False) == pytest.approx(0.3)


def test_workers_bind_until_the_driver_does(module: Any) -> None:
    model = module("cost_model")
    made = rates(model)
    few = model.on_cores(10_000, 100, made)
    assert few.binds == "models on the workers"
    assert few.scoring == pytest.approx(100.0)
    assert few.alone == pytest.approx(30.0 + made.clustering(100))
    assert few.total == pytest.approx(model.START + few.scoring + few.alone)
    # A thousand workers take as much a second as the driver reads and sends; more of them wait.
    many = model.on_cores(10_000, 4_000, made)
    assert many.binds == "driver: reading and sending"
    assert many.scoring == pytest.approx(10.0)
    assert "1,000" in model.driver_table(made).splitlines()[2]


def test_a_gpu_waits_for_its_processors_or_they_for_it(module: Any) -> None:
    model = module("cost_model")
    made = rates(model)
    lite = model.on_gpus(1_000, 2, "lite", made)
    assert lite.binds == "decoding and the rest on processors"
    assert lite.scoring == pytest.approx(1_000 * 0.5 / (2 * model.CORES_A_GPU))
    judges = model.on_gpus(1_000, 2, "paper, with judges", made)
    assert judges.binds == "models on the GPUs"
    assert judges.scoring == pytest.approx(1_000 * model.gpu_seconds("paper, with judges") / 2)
    # 28.6 TFLOP of TagGPT's proposals are a third of a second of a GPU at 78 TFLOP a second.
    [tagged] = (flops for name, flops in model.FLOPS[model.JUDGED].items() if "TagGPT" in name)
    assert tagged / (model.GPU_PEAK * model.UTILISATION) == pytest.approx(0.3664, abs=0.001)
    # Its choice is the driver's own, and so is to read all records once before: 19 hours for a million.
    more = model.on_gpus(10**6, 64, model.JUDGED, made).alone - model.on_gpus(10**6, 64, "lite", made).alone
    assert more == pytest.approx(400 + 5.3246e12 / 78e12 * 1e6)
    assert model.duration(more - 400) == "19 h"


@pytest.mark.parametrize(("n", "d", "cores"), [(2, 8, 1), (50_000, 384, 2), (3_000_000, 1280, 1024)])
def test_rows_in_a_time_are_those_that_take_that_time(module: Any, n: int, d: int, cores: int) -> None:
    model = module("cost_model")
    assert model.most_rows(model.pair_seconds(n, d, cores, 7e10), d, cores, 7e10) == n
    # Two rows are one pair, of a multiplication and an addition a number.
    assert model.pair_seconds(2, 5, 1, 10.0) == pytest.approx(1.0)
    assert model.most_rows(4 * model.HOUR, d, cores, 7e10) == pytest.approx(
        2 * model.most_rows(model.HOUR, d, cores, 7e10), rel=1e-4
    )


def test_what_other_benchmarks_say_is_read_from_their_tables(module: Any) -> None:
    found = module("rates").dataset_metrics(
        "| cores | 2 |\n"
        "| memory | duplicates, 180,000 samples: peak [3] | 484 MB | 4 GB |\n"
        "| memory | duplicates, 180,000 samples: data-set pass [25] | 50,000 samples/s | 5,000 a second |\n"
        "| dbscan | 10,000 × 384 [16] | 0.27 s | scikit-learn, brute, 2 jobs | 1.1 s | 4.16 |  |  |  |\n"
        "| dbscan | 50,001 × 400 [18] | 5 s | scikit-learn, brute, 2 jobs | 23.7 s | 3.92 | ≥ 3 | yes |  |\n",
        "| pass | 50,000 | 500,000 | 5,000,000 | power | of the last in no file |\n"
        "|---|---|---|---|---|---|\n"
        "| `duplicates`, with text vectors | 430 MB | 500 MB | 2,300 MB | 0.57 | 2,256 MB |\n",
    )
    assert found["passes"] == {"duplicates": 2e-5}
    assert found["row_bytes"] == {"duplicates": 400}
    assert found["pair_flops"] == 50_001 * 50_000 * 400 / 5 / 2
    whole = module("rates")
    real = whole.dataset_metrics(
        whole.RESULTS.read_text(encoding="utf-8"), whole.PERFORMANCE.read_text(encoding="utf-8")
    )
    assert real["passes"].keys() == real["row_bytes"].keys()
    assert len(real["passes"]) == 10
    # The rates that are stored are those of the files as they are now; else run rates.py again.
    stored = json.loads((FOLDER / "rates.json").read_text(encoding="utf-8"))
    assert stored["passes"].pop("summaries") > 0
    assert {name: stored[name] for name in real} == real


def test_start_up_is_no_part_of_a_rate(module: Any) -> None:
    few = {"models": {"a": 10.0}, "decode": {"busy": 1.0}, "metrics": {"x": 0.1, "y": 0.1}, "stages": {}}
    many = {
        "models": {"a": 14.0, "b": 2.0},
        "decode": {"busy": 3.0},
        "metrics": {"x": 0.3, "y": 0.3},
        "stages": {"compare with what is finished": 0.4},
    }
    difference = module("rates").difference
    assert difference(few, many, 4) == {
        "models": {"a": 1.0, "b": 0.5},
        "decode": 0.5,
        "metrics": 0.1,
        "compare": 0.1,
    }
    with pytest.raises(ValueError, match="models a: more records took less time"):
        difference(many, few, 4)
    steady = module("place").steady_rate
    # The second of two workers is warm at 12 s; what is finished later took 3 s.
    assert steady([(15.0, 20), (10.0, 100), (12.0, 100), (14.0, 40)], 2) == pytest.approx(20.0)
    with pytest.raises(ValueError, match="2 shards tell no rate of 2 workers"):
        steady([(1.0, 1), (2.0, 1)], 2)


def test_shards_of_rows_and_records_that_are_always_the_same(module: Any) -> None:
    shard_of = module("equal").shard_of
    ends = [sum(shard_size(i) for i in range(k + 1)) for k in range(30)]
    assert [shard_of(end - 1) for end in ends] == list(range(30))
    assert [shard_of(end) for end in ends] == list(range(1, 31))
    records = module("records")
    lines = [records.line(i) for i in range(1_500)]
    assert lines == [records.line(i) for i in range(1_500)]
    broken = [i for i, line in enumerate(lines) if not line.endswith("}")]
    assert broken == [1_250]
    read = [json.loads(line) for i, line in enumerate(lines) if i not in broken]
    assert sum("image" in record for record in read) == 1_500 // records.EVERY + 2
    assert len({record["conversations"][0]["value"].removeprefix("<image>\n") for record in read}) <= 120
    said = [record["conversations"] for record in read]
    assert said[29] == said[28]


def ran(module: Any, out: Path, **scorecard: Any) -> Any:
    """A finished run of one shard, 100 bytes a file."""
    for name in (
        "shards/00000/done.json",
        "shards/00000/scores.parquet",
        "scores/0.parquet",
        "features/x.npy",
    ):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(bytes(100))
    (out / "issues.parquet").write_bytes(bytes(100))
    told = {"created": str(out), "seconds": len(str(out)), "input": f"{out}/data", "counts": 3}
    (out / "scorecard.json").write_text(json.dumps(told | scorecard), encoding="utf-8")
    return module("place").Ran(out, 1.0)


def test_one_byte_is_a_difference(module: Any, tmp_path: Path) -> None:
    one, other = (ran(module, tmp_path / name) for name in ("one", "another"))
    differences = module("place").differences
    assert differences(one, other) == []
    for name in ("shards/00000/scores.parquet", "scores/0.parquet", "features/x.npy", "issues.parquet"):
        (other.out / name).write_bytes(bytes(99) + b"\1")
        assert differences(one, other) == differences(other, one) == [name]
        (other.out / name).write_bytes(bytes(100))
    (other.out / "shards" / "00000" / "more").touch()
    assert differences(one, other) == ["shards/00000/more"]
    # Also where the second scorecard alone has a field, be it null.
    third = ran(module, tmp_path / "third", counts=4, added=None)
    assert differences(one, third) == ["scorecard: added", "scorecard: counts"]
    assert differences(third, one) == ["scorecard: added", "scorecard: counts"]


class Doomed:
    """Two nodes as ``Loss`` sees them: the second is the process 22."""

    def __init__(self) -> None:
        self.killed = 0

    def processes(self, i: int) -> list[int]:
        return [11] if i == 0 else [22]

    def kill(self, i: int) -> frozenset[int]:
        self.killed += 1
        return frozenset(self.processes(i))


def test_a_node_is_lost_in_the_middle_of_a_shard(module: Any, tmp_path: Path) -> None:
    equal = module("equal")
    place, nodes, out = module("place").Place(tmp_path), Doomed(), tmp_path / "run"
    loss = equal.Loss(place, nodes, 4)
    loss._least = 1
    row = shard_size(0)
    assert not loss._begun(out)
    # The first shard is finished, and the second node has begun none.
    marker = out / "shards" / "00000" / "done.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"n_records": row}), encoding="utf-8")
    place.log.write_text(f"0 22\n{row} 11\n", encoding="utf-8")
    assert not loss._begun(out)
    with place.log.open("a", encoding="utf-8") as log:
        log.write(f"{row + 1} 22\n")
    loss(out)
    assert (nodes.killed, loss.finished) == (1, 1)
    # What it had begun, the first node scores; what it had finished stays.
    with place.log.open("a", encoding="utf-8") as log:
        log.write(f"{row + 1} 11\n")
    for shard, rows in enumerate(([0], [row, row + 1])):
        path = out / "shards" / f"{shard:05d}" / "scores.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"row": rows}), path)
        path.with_name("done.json").write_text(json.dumps({"n_records": len(rows)}), encoding="utf-8")
    assert loss.given_again(module("place").Ran(out, 1.0)) == [1]


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_says_whether_results_were_equal(
    module: Any, met: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    result = module("result")
    for name in ("equal", "overhead", "records", "shared_bands", "place"):
        module(name)
    spec = importlib.util.spec_from_file_location("cluster_main", FOLDER / "__main__.py")
    assert spec is not None and spec.loader is not None
    main: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(main)
    told = () if met else ("synthetic, two nodes: scores/0.parquet differs",)
    found = result.Section("Same results", "As they are.", ("data",), [("synthetic",)], told, met)
    fine = result.Section("Overhead and scaling", "Seconds.", ("what",), [("lite",)])
    monkeypatch.setattr(main, "sections", lambda arguments, place: iter([found, fine]))
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["cluster", "--home", str(tmp_path), "--write", str(tmp_path / "file")])
    assert main.main() == code
    written = (tmp_path / "file").read_text(encoding="utf-8")
    assert "## Same results" in written and "| lite |" in written
    assert ("scores/0.parquet differs" in written) == (not met)
    assert "| synthetic |" in capsys.readouterr().out


def test_a_section_says_what_differs(module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    equal, overhead = module("equal"), module("overhead")
    monkeypatch.setattr(equal, "compare", lambda place, name, *_: ([name], ["it differs"] * (name == "b")))
    sets = [(name, tmp_path, ()) for name in ("a", "b", "c")]
    assert (equal.section(None, sets).met, equal.section(None, sets[:1]).met) == (False, True)
    assert equal.section(None, sets).notes == ["it differs"]

    wrong = {"lite, mixed records"}

    def against(place: Any, work: Any, turns: int, told: list[str], *_: Any) -> list[str]:
        told += ["it differs"] * (work.name in wrong)
        return [work.name]

    monkeypatch.setattr(overhead, "against", against)
    place = module("place").Place(tmp_path / "place")
    sizes = {"mixed": 1, "pictures": 1, "made up": 1}
    for met in (False, True):
        made = overhead.section(place, {"mixed": tmp_path, "pictures": tmp_path}, sizes, 1)
        assert (made.met, len(made.rows)) == (met, 6)
        wrong.clear()


def test_the_document_has_the_tables_of_the_stored_rates(module: Any) -> None:
    model = module("cost_model")
    document = (ROOT / "docs" / "cost_model.md").read_text(encoding="utf-8")
    assert model.renewed(document, model.tables(model.load())) == document
    with pytest.raises(ValueError, match="no place for the table 'cores'"):
        model.renewed("nothing", {"cores": ""})
    assert [model.duration(s) for s in (3.0, 150.0, 7_200.0, 2e5)] == ["3 s", "2.5 min", "2 h", "2.31 days"]
    assert [model.rounded(n) for n in (7, 123, 987_654)] == ["7", "120", "990,000"]
