"""Metrics over some of a run's records: the scorecard again for all of them, and that of a file with just these."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from vlitqc import profiles
from vlitqc.engine import dataset
from vlitqc.engine.features import ShardFeatures
from vlitqc.engine.run import Run, score
from vlitqc.engine.shards import folder, read_done
from vlitqc.engine.subset import LIMIT, PartFeatures, summaries
from vlitqc.errors import RunError, UsageError
from vlitqc.types import (
    Batch,
    Cost,
    DatasetScore,
    Features,
    FeatureStore,
    MetricSpec,
    Principle,
    Sample,
)

N = 40
"""More records than the first shard holds."""


def light(name: str = "light") -> str:
    """Metrics of both levels that need no weights, with options of their own."""
    return f"""
name = "{name}"
title = "Light"
summary = "No weights."
[metrics.image_readability]
[metrics.composition]
[metrics.duplicates]
options = {{ max_pictures = 1000 }}
[metrics.correctness]
unavailable = "needs a judge"
"""


@pytest.fixture
def run(
    make_data: Callable[..., Path], record: Callable[..., dict[str, Any]], tmp_path: Path
) -> Callable[..., Run]:
    """Scores records, with exact duplicates, text-only ones and unreadable lines among them, or some of them."""

    def start(keep: NDArray[np.bool_] | None = None, folder: str = "set") -> Run:
        profile = tmp_path / "light.toml"
        profile.write_text(light(), encoding="utf-8")
        make_data(4, folder=folder)
        kinds = [i % 30 for i in range(N)]
        lines: list[Any] = [record(k, None if k % 5 == 0 else f"{k % 4}.png") for k in kinds]
        lines[3] = lines[35] = b'{"id": "broken'
        if keep is not None:
            lines = [line for line, kept in zip(lines, keep, strict=True) if kept]
        return score(make_data(lines=lines, folder=folder), str(profile), report=False, seed=3)

    return start


def plain(sections: dict[str, dict[str, Any]]) -> Any:
    return json.loads(json.dumps(sections, allow_nan=False))


def mask_of(seed: int, share: float = 0.6) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(N) < share


def test_over_everything_it_is_the_scorecard_to_the_last_digit(run: Callable[..., Run]) -> None:
    finished = run()
    assert plain(summaries(finished, np.ones(N, np.bool_))) == finished.metrics()


def test_with_the_models_of_lite_too(
    make_data: Callable[..., Path], record: Callable[..., dict[str, Any]]
) -> None:
    metrics = [
        *("matching_degree", "matching_percentile", "task_diversity", "instruction_diversity"),
        *("response_diversity", "task_balance", "composition", "duplicates"),
    ]
    words = ["a red lighthouse", "two dogs", "a bowl of soup", "a blue bus"]

    def lines() -> list[dict[str, Any]]:
        made = [record(i, f"{i}.png") for i in range(27)]
        for i, line in enumerate(made):
            line["conversations"][0]["value"] += f" Is it {words[i % 4]}?"
            line["conversations"][1]["value"] += (
                f" There is {words[i % 3]} too, and {words[i % 4]} beside it."
            )
        return made

    make_data(27)
    finished = score(make_data(lines=lines()), metrics=metrics, report=False)
    whole = plain(summaries(finished, np.ones(27, np.bool_)))
    assert whole == finished.metrics()
    assert {name for name, section in whole.items() if section["value"] is None} == set()
    kept = np.arange(27) % 5 != 1
    ours = summaries(finished, kept)
    make_data(27, folder="part")
    some = [line for line, k in zip(lines(), kept, strict=True) if k]
    theirs = score(make_data(lines=some, folder="part"), metrics=metrics, report=False).metrics()
    for name, section in theirs.items():
        assert ours[name]["reason"] == section["reason"], name
        assert ours[name]["n_scored"] == section["n_scored"], name
        # Texts that a model sees in another batch get vectors that differ by rounding.
        assert ours[name]["value"] == pytest.approx(section["value"], rel=1e-5), name


def test_unreadable_records_count_for_nothing(run: Callable[..., Run]) -> None:
    finished = run()
    readable = (finished.scores["state"] != "unreadable").to_numpy()
    assert readable.sum() == N - 2
    assert plain(summaries(finished, readable)) == finished.metrics()


@pytest.mark.parametrize("seed", range(2))
def test_over_some_it_is_the_scorecard_of_a_file_with_just_these(run: Callable[..., Run], seed: int) -> None:
    kept = mask_of(seed)
    finished = run()
    ours = plain(summaries(finished, kept))
    theirs = run(kept, folder="part").metrics()
    assert list(ours) == list(theirs)
    assert ours == theirs
    # What the two are alike in is not what all records have.
    for name in ("image_readability", "composition", "duplicates"):
        assert ours[name]["value"] != finished.metrics()[name]["value"]


def test_over_nothing_every_value_is_null_with_a_reason(run: Callable[..., Run]) -> None:
    for section in summaries(run(), np.zeros(N, np.bool_)).values():
        assert section["value"] is None
        assert section["reason"]
        assert (section["n_scored"], section["n_total"]) == (0, 0)


def test_a_mask_of_another_length_is_refused(run: Callable[..., Run]) -> None:
    with pytest.raises(UsageError, match=f"the mask has 7 values for the {N} records"):
        summaries(run(), np.ones(7, np.bool_))


def test_above_the_limit_only_sample_metrics_have_a_value(run: Callable[..., Run]) -> None:
    finished = run()
    at = summaries(finished, np.ones(N, np.bool_), limit=N - 2)
    assert at["composition"]["value"] is not None
    above = summaries(finished, np.ones(N, np.bool_), limit=N - 3)
    for name in ("composition", "duplicates"):
        assert above[name]["value"] is None
        assert above[name]["reason"] == "not resolved for 38 records: at most 37"
    assert above["image_readability"] == at["image_readability"]
    assert above["image_readability"]["value"] is not None
    assert plain(summaries(finished, np.ones(N, np.bool_), limit=None)) == finished.metrics()
    assert LIMIT > N


def test_the_run_is_only_read(run: Callable[..., Run]) -> None:
    finished = run()

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in finished.path.rglob("*")}

    before = state()
    summaries(finished, mask_of(0))
    assert state() == before


# ---------------------------------------------------------------- what can be missing


def reasons(finished: Run) -> set[str]:
    found = summaries(Run.open(finished.path), mask_of(1))
    assert found["image_readability"]["value"] is not None
    assert found["composition"]["value"] is None
    return {found[name]["reason"] for name in ("composition", "duplicates")}


def test_a_run_without_its_profile_has_sample_metrics_only(run: Callable[..., Run]) -> None:
    finished = run()
    (finished.path / "profile.json").unlink()
    assert reasons(finished) == {
        f"{finished.path} holds no profile.json, as runs of earlier versions; score the data again"
    }


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metrics": {"a": 1}, "sha256": "", "where": ""}'])
def test_a_profile_that_is_none_is_a_reason(run: Callable[..., Run], text: str) -> None:
    finished = run()
    (finished.path / "profile.json").write_text(text)
    (reason,) = reasons(finished)
    assert "profile.json" in reason
    assert reason.endswith("score the data again")


def test_another_runs_profile_is_a_reason(run: Callable[..., Run]) -> None:
    finished = run()
    other = profiles.dump(profiles.parse(light("other").encode(), "other.toml"))
    (finished.path / "profile.json").write_text(json.dumps(other))
    with pytest.raises(RunError, match="is not the profile of this run"):
        _ = Run.open(finished.path).profile
    assert "is not the profile of this run" in reasons(finished).pop()


def test_a_run_without_its_shards_has_sample_metrics_only(run: Callable[..., Run]) -> None:
    finished = run()
    shutil.rmtree(finished.path / "shards" / "00001")
    assert reasons(finished) == {
        f"{finished.path / 'shards'} is not that of the run any more; score the data again"
    }


class Whole:
    """A data-set metric that counts its samples, and may ask a judge."""

    spec = MetricSpec(
        "whole", "Whole", Principle.BEYOND, "dataset", "s", "", (0, 100), None, "r", "1", "here"
    )

    def features(self, batch: Batch) -> dict[str, Features]:
        return {}

    def resolve(self, store: FeatureStore) -> DatasetScore:
        return DatasetScore(float(store.n_samples), n_scored=store.n_samples, n_total=store.n_samples)


def test_another_version_of_a_metric_is_a_reason(
    make_data: Callable[..., Path], register: Callable[..., None], tiny: str
) -> None:
    register("whole", Whole)
    finished = score(make_data(4), tiny, metrics=["whole"], report=False)
    half = np.array([True, False, True, False])
    assert summaries(finished, half)["whole"]["value"] == 2.0

    class Newer(Whole):
        spec = MetricSpec(
            "whole", "Whole", Principle.BEYOND, "dataset", "s", "", (0, 100), None, "r", "2", "here"
        )

    register("whole", Newer)
    found = summaries(finished, half)["whole"]
    assert (found["value"], found["reason"]) == (None, "version 2 of the metric is here, and the run had 1")


def test_a_metric_that_is_gone_is_a_reason(
    make_data: Callable[..., Path], register: Callable[..., None], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as while_it_lasts:
        from vlitqc import registry

        register("whole", Whole)
        finished = score(make_data(4), tiny, metrics=["whole"], report=False)
        while_it_lasts.delitem(registry.entries(registry.METRICS), "whole")
        found = summaries(finished, np.ones(4, np.bool_))["whole"]
    assert found["value"] is None
    assert "no metric is called 'whole'" in found["reason"]


def test_no_judge_is_asked_again(
    make_data: Callable[..., Path], register: Callable[..., None], tiny: str
) -> None:
    resolved = []

    class Asking(Whole):
        def cost(self, sample: Sample) -> Cost:
            return Cost(1, 1, 0)

        def resolve(self, store: FeatureStore) -> DatasetScore:
            resolved.append(store.n_samples)
            return super().resolve(store)

    register("whole", Asking)
    finished = score(make_data(4), tiny, metrics=["whole"], report=False)
    found = summaries(finished, np.ones(4, np.bool_))["whole"]
    assert (found["value"], found["reason"]) == (
        None,
        "not resolved for a part: a judge would be asked again",
    )
    assert resolved == [4]


def test_another_model_is_a_reason(
    make_data: Callable[..., Path], profile_file: Callable[[str], str]
) -> None:
    body = (
        """
[models.tagger]
backend = "zero_shot_tagger"
kind = "Tagger"
name = "a taxonomy"
licence = "MIT"
uses = { encoder = "minilm" }
"""
        + _minilm()
        + """
[metrics.task_diversity]
models = { tagger = "tagger" }
"""
    )
    finished = score(make_data(4), profile_file(body), report=False)
    assert summaries(finished, np.ones(4, np.bool_))["task_diversity"]["value"] is not None
    for model in finished.info["models"]:
        model["sha256"] = "0" * 64
    found = summaries(finished, np.ones(4, np.bool_))["task_diversity"]
    assert found["reason"] == "the model in slot tagger is not the one of the run"


def _minilm() -> str:
    """The slot of the sentence encoder, as the profile lite has it."""
    text = (Path(profiles.__file__).parent / "lite.toml").read_text(encoding="utf-8")
    start = text.index("[models.minilm]")
    ends = [text.find(head, start + 1) for head in ("\n[models.", "\n[metrics.")]
    found = text[start : min(end for end in ends if end > 0)]
    assert "[[models.minilm.files]]" in found
    return found


# ---------------------------------------------------------------- the store


def test_the_store_of_a_part_shows_what_the_whole_store_shows_of_it(
    run: Callable[..., Run], tmp_path: Path
) -> None:
    finished = run()
    shards = [folder(finished.path / "shards", i) for i in range(2)]
    sizes = [done.n_samples for shard in shards if (done := read_done(shard))]
    whole = ShardFeatures(shards, sizes, tmp_path, seed=5)
    kept = mask_of(4)[: sum(sizes)]
    part = PartFeatures(list(zip(shards, np.split(kept, [sizes[0]]), strict=True)), seed=5)
    place = np.cumsum(kept) - 1
    assert (part.n_samples, part.seed) == (int(kept.sum()), 5)
    assert part.column("id") == [name for name, k in zip(whole.column("id"), kept, strict=True) if k]
    for name in ("conversation_sha256", "picture_sha256", "no_such_feature"):
        texts, index = whole.strings(name)
        ours, places = part.strings(name)
        assert ours == [text for text, i in zip(texts, index.tolist(), strict=True) if kept[i]]
        assert places.tolist() == place[index[kept[index]]].tolist()
    for name in ("lengths", "shape"):
        rows, index = whole.vectors(name)
        found, places = part.vectors(name)
        assert len(found)
        assert found.dtype == np.float32
        assert found.tolist() == rows[kept[index]].tolist()
        assert places.tolist() == place[index[kept[index]]].tolist()
    empty, nowhere = part.vectors("no_such_feature")
    assert (empty.shape, nowhere.shape) == ((0, 0), (0,))
    assert part.memo("a", lambda: 1) == part.memo("a", lambda: 2) == 1


def test_a_shard_without_a_kept_sample_is_not_opened(run: Callable[..., Run]) -> None:
    finished = run()
    shards = [folder(finished.path / "shards", i) for i in range(2)]
    sizes = [done.n_samples for shard in shards if (done := read_done(shard))]
    (shards[0] / "scores.parquet").unlink()
    part = PartFeatures(
        [(shards[0], np.zeros(sizes[0], np.bool_)), (shards[1], np.ones(sizes[1], np.bool_))], seed=0
    )
    assert part.column("id") == finished.scores.query("state != 'unreadable'")["id"].tolist()[sizes[0] :]


# ---------------------------------------------------------------- the profile of a run


@pytest.mark.parametrize("name", profiles.names())
def test_a_profile_comes_back_as_it_was(name: str) -> None:
    profile = profiles.load(name)
    judge = profiles.ModelEntry(
        "judge", "openai_judge", "Judge", "m", "l", (), {"url": "http://x", "votes": 3}
    )
    for one in (profile, profiles.rebind(profile, "judge", judge)):
        told = json.loads(json.dumps(profiles.dump(one)))
        before = json.dumps(told)
        assert profiles.restore(told, "profile.json") == one
        assert json.dumps(told) == before


def test_infinite_options_come_back(make_data: Callable[..., Path], tiny: str, tmp_path: Path) -> None:
    own = tmp_path / "inf.toml"
    own.write_text(Path(tiny).read_text() + "\n[metrics.duplicates]\noptions = { max_pictures = inf }\n")
    finished = score(make_data(3), str(own), report=False)
    assert finished.profile.metrics["duplicates"].options == {"max_pictures": float("inf")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": 1}, "sha256 = 1: expected a text"),
        ({"where": None}, "where = None: expected a text"),
        ({"title": 1}, "title = 1: expected a text"),
        ({"models": []}, "a key that does not fit"),
        ({"metrics": {"composition": {"level": 9}}}, "a key that does not fit"),
        ({"metrics": {"a": {"models": {"x": "nowhere"}}}}, "which is not defined"),
        (
            {"models": {"m": {"backend": "b", "kind": "k", "name": "n", "licence": "l", "files": {}}}},
            "a list",
        ),
    ],
)
def test_a_damaged_profile_is_refused(change: dict[str, Any], message: str) -> None:
    table = profiles.dump(profiles.parse(light().encode(), "x.toml"))
    with pytest.raises(UsageError, match="profile p.json.*" + message):
        profiles.restore(table | change, "p.json")


def test_no_secret_can_be_in_a_profile(
    make_data: Callable[..., Path], tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-never-written")
    finished = score(
        make_data(1),
        tiny,
        report=False,
        judge={"model": "m", "url": "http://127.0.0.1:9/v1", "key_env": "MY_KEY"},
    )
    for path in finished.path.rglob("*.json"):
        assert "sk-never-written" not in path.read_text()


def test_tables_of_a_part_keep_the_order_of_the_parts(
    run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "PART_ROWS", 1)
    finished = run()
    parts = sorted((finished.path / "scores").glob("part-*.parquet"))
    assert len(parts) > 1
    rows = pa.concat_tables([pq.read_table(part, columns=["row"]) for part in parts])["row"]
    assert rows.to_pylist() == finished.table(["row"])["row"].to_pylist() == list(range(N))
