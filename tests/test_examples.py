"""The examples, run as a reader would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas as pd
import pytest
from partition import assert_divided

import vlitqc

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(home: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script with no network and with a cache of its own."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "data"
    made = run(out.parent, "make_demo_data.py", out)
    assert made.returncode == 0, made.stderr
    return out / "data.jsonl"


def test_a_hugging_face_data_set_is_filtered(demo: Path, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    where = "image_readability >= p20"
    done = run(tmp_path, "filter_hf_dataset.py", demo, out, "--profile", tiny, "--where", where)
    assert done.returncode == 0, done.stderr
    scored = vlitqc.Run.open(demo)
    decisions = pd.read_parquet(out / "data.decisions.parquet")
    assert_divided(
        demo, decisions["fate"], {fate: out / f"data.{fate}.jsonl" for fate in set(decisions["fate"])}
    )

    ours = datasets.load_from_disk(str(out / "dataset"))
    worst = scored.scores["image_readability"].quantile(0.2)
    good = decisions["kept"] & ~(scored.scores["image_readability"] < worst)
    assert list(ours["id"]) == scored.scores.loc[good, "id"].tolist()
    pd.testing.assert_series_equal(
        ours.to_pandas()["image_readability"],
        scored.scores.loc[good, "image_readability"].reset_index(drop=True),
    )
    counts = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert counts == [len(decisions), decisions["kept"].sum(), good.sum()]
    assert counts[0] > counts[1] > counts[2] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "image_readibility > 0"], "did you mean image_readability"),
        (["--where", "__import__('os')"], "where"),
        (["--recipe", "cleen", "--where", "text_only"], "did you mean clean"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    make_data: Callable[..., Path], tiny: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    data = make_data(2)
    vlitqc.score(data, tiny, report=False)
    done = run(tmp_path, "filter_hf_dataset.py", data, tmp_path / "out", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("filter_hf_dataset: ") and message in done.stderr
    assert "Traceback" not in done.stderr
