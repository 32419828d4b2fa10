"""The Python API as its docstring tells it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vlitqc
from vlitqc.errors import InputError, RunError, UsageError, VlitqcError
from vlitqc.types import Sample, Unreadable

Make = Callable[..., Path]


def test_score_a_file_then_filter_it(make_data: Make, tiny: str) -> None:
    path = make_data(30)
    run = vlitqc.score(path, tiny)
    assert isinstance(run, vlitqc.Run)
    assert run.path == path.parent / "data.vlitqc"
    assert isinstance(run.scores, pd.DataFrame)
    assert len(run.scores) == 30
    assert run.scorecard["counts"]["records"] == 30
    assert list(run.issues.columns) == ["kind", "severity", "detail", "file", "line", "row", "id"]
    assert (run.path / "report.html").stat().st_size > 1000
    pd.testing.assert_frame_equal(pd.read_parquet(run.path / "scores"), run.scores)

    result = vlitqc.filter(run, drop_below={"image_readability": "p10"})
    assert result.counts == {"kept": 27, "dropped": 3, "unreadable": 0}
    assert len(result.decisions) == 30
    assert list(result.decisions.columns) == ["row", "id", "file", "line", "kept", "rules_failed"]
    assert result.written["kept"] == path.parent / "data.kept.jsonl"
    assert len(result.written["kept"].read_text().splitlines()) == 27
    again = vlitqc.filter(str(run.path), drop_below={"image_readability": "p10"}, dry_run=True)
    assert again.counts == result.counts
    pd.testing.assert_frame_equal(again.decisions, result.decisions)


def test_score_takes_texts_and_paths(make_data: Make, tiny: str, tmp_path: Path) -> None:
    path = make_data(2)
    run = vlitqc.score(str(path), tiny, out=str(tmp_path / "run"), image_root=str(path.parent), report=False)
    assert run.metrics()["image_readability"]["n_scored"] == 2


def test_score_records_from_memory(make_data: Make, record: Any, tiny: str, tmp_path: Path) -> None:
    root = make_data(3).parent
    records = [record(i, f"{i}.png", note="schön 漢字 \ud800") for i in range(3)]
    run = vlitqc.score(records, tiny, out=tmp_path / "run", image_root=root, report=False)
    assert run.scores["id"].tolist() == ["r0", "r1", "r2"]
    assert run.metrics()["image_readability"]["n_scored"] == 3
    assert set(run.issues["kind"]) <= {"broken_character", "small_image"}
    assert "schön 漢字" in (tmp_path / "run" / "input.jsonl").read_text(encoding="utf-8")
    again = vlitqc.score(records[:2], tiny, out=tmp_path / "run", image_root=root, report=False)
    assert len(again.scores) == 2


def test_records_from_memory_that_will_not_do(record: Any, tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="records without a file need out=DIR"):
        vlitqc.score([record(0)], tiny)
    with pytest.raises(UsageError, match=r"cannot be written as JSON: .*ndarray"):
        vlitqc.score([record(0, image=np.zeros(3))], tiny, out=tmp_path / "a")
    with pytest.raises(UsageError, match="no records"):
        vlitqc.score([], tiny, out=tmp_path / "b")


def test_records_may_come_from_a_generator_and_one_name_as_a_text(
    record: Any, tiny: str, tmp_path: Path
) -> None:
    run = vlitqc.score((record(i) for i in range(3)), tiny, metrics="composition", out=tmp_path / "run")
    assert run.scores["id"].tolist() == ["r0", "r1", "r2"]
    assert set(run.metrics()) == {"composition"}
    assert vlitqc.filter(run, drop_issues="error", dry_run=True).counts["kept"] == 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"id": "1"}, "is a single record; pass a list of records"),
        (5, "is of type int; pass a path"),
        (None, "is of type NoneType; pass a path"),
        (b"data.jsonl", "is of type bytes; pass a path"),
        (
            pd.DataFrame({"id": ["1"]}),
            r"is a table in memory; pass its records, as in df.to_dict\('records'\)",
        ),
        ([{"id": "1"}, 5], "a record is of type int; pass dicts"),
        (iter(()), "there are no records"),
    ],
)
def test_what_is_no_data_is_said(data: Any, message: str, tiny: str, tmp_path: Path) -> None:
    for call in (vlitqc.score, vlitqc.inspect):
        with pytest.raises(UsageError, match=message):
            call(data, **({"profile": tiny, "out": tmp_path / "run"} if call is vlitqc.score else {}))
    assert not (tmp_path / "run").exists()


def test_levels_are_told_by_metric(make_data: Make, tiny: str) -> None:
    run = vlitqc.score(make_data(1), tiny, report=False)
    levels: Any = "image_readability=p10"
    with pytest.raises(UsageError, match="drop_above='image_readability=p10': expected levels by metric"):
        vlitqc.filter(run, drop_above=levels)


def test_a_run_gives_back_its_records_and_pictures(messy: Path, tiny: str) -> None:
    run = vlitqc.Run.open(vlitqc.score(messy, tiny, report=False).path)
    many = run.record(6)
    assert isinstance(many, Sample)
    assert (many.id, [m.reference for m in many.media]) == ("r6", ["1.png", "2.png"])
    shapes = [image.pixels.shape for image in run.images(many) if image.pixels is not None]
    assert shapes == [(48, 48, 3)] * 2
    assert isinstance(run.record(1), Unreadable)
    embedded, missing = run.record(7), run.record(2)
    assert isinstance(embedded, Sample)
    assert isinstance(missing, Sample)
    assert run.images(embedded)[0].pixels is not None
    assert str(run.images(missing)[0].fault).startswith("missing")
    for row in (-1, len(run.scores)):
        with pytest.raises(RunError, match=f"has no row {row}; its rows are 0 to {len(run.scores) - 1}"):
            run.record(row)


def test_a_changed_input_is_not_read(make_data: Make, tiny: str) -> None:
    path = make_data(3)
    run = vlitqc.score(path, tiny, report=False)
    path.write_bytes(path.read_bytes().replace(b"grey", b"gray"))
    with pytest.raises(InputError, match="has changed since it was scored; run again"):
        run.record(0)
    path.unlink()
    with pytest.raises(InputError, match="is no longer there"):
        vlitqc.Run.open(run.path).record(0)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "run.json").unlink(), "is not a run directory; make one with: vlitqc score DATA"),
        (lambda p: (p / "scorecard.json").unlink(), "did not finish"),
        (lambda p: (p / "run.json").write_text("{"), "cannot be read"),
        (lambda p: (p / "run.json").write_text("[]"), "was not written by vlitqc"),
        (lambda p: (p / "run.json").write_text("{}"), "was not written by vlitqc"),
        (lambda p: (p / "scorecard.json").write_text("{}"), "was not written by vlitqc"),
        (lambda p: (p / "scores" / "part-00000.parquet").write_bytes(b"PAR1"), "scores cannot be read"),
        (lambda p: (p / "issues.parquet").unlink(), "issues.parquet cannot be read"),
    ],
)
def test_a_damaged_run_is_a_run_error(
    make_data: Make, tiny: str, spoil: Callable[[Path], Any], message: str
) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    spoil(run.path)
    with pytest.raises(RunError, match=message):
        _ = vlitqc.Run.open(run.path).scores, vlitqc.Run.open(run.path).issues


def test_errors_of_ours_share_a_base(tmp_path: Path, tiny: str) -> None:
    for wrong in (
        lambda: vlitqc.score(tmp_path / "absent.jsonl", tiny),
        lambda: vlitqc.score(tmp_path, tiny),
        lambda: vlitqc.Run.open(tmp_path),
        lambda: vlitqc.filter(tmp_path, recommended=True),
    ):
        with pytest.raises(VlitqcError):
            wrong()


def test_progress_is_told(make_data: Make, tiny: str) -> None:
    class Told:
        def __init__(self) -> None:
            self.done: list[tuple[int, float | None]] = []
            self.stages: list[str] = []

        def records(self, done: int, share: float | None) -> None:
            self.done.append((done, share))

        def stage(self, name: str) -> None:
            self.stages.append(name)

    told = Told()
    path = make_data(40)
    vlitqc.score(path, tiny, progress=told, report=False)
    size = path.stat().st_size
    assert [done for done, _ in told.done] == [32, 40]
    assert told.done[-1] == (40, (size - 1) / size)
    assert told.stages == ["Image readability", "Correctness", "Text-only share"]


def test_a_report_can_be_written_elsewhere(make_data: Make, tiny: str, tmp_path: Path) -> None:
    run = vlitqc.score(make_data(2), tiny, report=False)
    assert not (run.path / "report.html").exists()
    assert run.report(tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!")


def test_import_is_cheap_and_names_are_listed() -> None:
    code = (
        "import json, sys, vlitqc; heavy = [m for m in ('numpy', 'pandas', 'torch') if m in sys.modules];"
        "print(json.dumps([heavy, vlitqc.__all__, vlitqc.score.__name__, vlitqc.Run.__name__]))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) == [[], ["Run", "filter", "inspect", "score"], "score", "Run"]
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        _ = vlitqc.scores
