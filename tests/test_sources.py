"""Where a record comes from within a mixture, and the columns that every table of scores has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlitqc.engine.run import score
from vlitqc.engine.scorer import BASE_COLUMNS
from vlitqc.engine.sources import LONGEST, source_of
from vlitqc.errors import UsageError
from vlitqc.formats.conversation import read_conversation
from vlitqc.testing import MemoryFeatures
from vlitqc.types import (
    Batch,
    DatasetScore,
    Features,
    FeatureStore,
    Issue,
    Media,
    MetricSpec,
    Origin,
    Principle,
    Sample,
    Score,
    Turn,
    Unreadable,
)

HERE = Origin("/data/llava_mix.jsonl.gz", 0, 1, 0, 9, "0" * 64)


def sample(*references: str, data: bytes | None = None, **meta: Any) -> Sample:
    media = tuple(Media("image", reference, data) for reference in references)
    return Sample("1", (Turn("What?", "That."),), media, meta, HERE)


@pytest.mark.parametrize(
    ("reference", "source"),
    [
        ("coco/train2017/000000033471.jpg", "coco"),
        ("gqa/images/2354786.jpg", "gqa"),
        ("ocr_vqa/images/140031996.jpg", "ocr_vqa"),
        ("textvqa/train_images/054c91d05f8b4e3f.jpg", "textvqa"),
        ("vg/VG_100K/1.jpg", "vg"),
        ("./coco/1.jpg", "coco"),
        ("images/coco/1.jpg", "coco"),
        ("Images/train/chartqa/png/1.png", "chartqa"),
        ("images/1.jpg", "llava_mix"),
        ("data/train/images/1.jpg", "llava_mix"),
        ("1.jpg", "llava_mix"),
        # LLaVA's pre-training pictures: folders that only number their files.
        ("00453/004539375.jpg", "llava_mix"),
        ("2024-01/1.jpg", "llava_mix"),
        ("数据集/1.jpg", "数据集"),
        ("../coco/1.jpg", "llava_mix"),
        ("coco/../gqa/1.jpg", "llava_mix"),
        ("/home/me/coco/1.jpg", "llava_mix"),
        ("https://images.org/coco/1.jpg", "llava_mix"),
        ("s3://bucket/coco/1.jpg", "llava_mix"),
        ("data:image/png;base64,iVBORw0KGgo/coco/…", "llava_mix"),
        ("x" * (LONGEST + 1) + "/1.jpg", "llava_mix"),
    ],
)
def test_the_source_is_the_first_folder_with_a_name_of_its_own(reference: str, source: str) -> None:
    assert source_of(sample(reference)) == source


def test_only_the_first_medium_tells() -> None:
    assert source_of(sample("1.jpg", "coco/1.jpg")) == "llava_mix"
    assert source_of(sample("gqa/1.jpg", "coco/1.jpg")) == "gqa"
    assert source_of(sample()) == "llava_mix"


@pytest.mark.parametrize(
    ("meta", "source"),
    [
        ({"source": "sharegpt"}, "sharegpt"),
        ({"dataset": "vqav2", "source": "okvqa"}, "okvqa"),
        ({"data_source": "d", "dataset_name": "c", "dataset": "b"}, "b"),
        ({"data_source": "d", "dataset_name": "c"}, "c"),
        ({"data_source": "d"}, "d"),
        ({"source": " \n", "dataset": " b "}, "b"),
        ({"source": 7, "dataset": ["b"], "dataset_name": None}, "coco"),
        ({"source": "x" * LONGEST}, "x" * LONGEST),
        ({"source": "x" * (LONGEST + 1)}, "coco"),
    ],
)
def test_the_records_own_field_comes_first(meta: dict[str, Any], source: str) -> None:
    assert source_of(sample("coco/1.jpg", **meta)) == source


def test_the_field_is_found_in_a_record_as_it_is_read() -> None:
    value = {
        "id": "1",
        "source": "vg",
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
    }
    assert source_of(read_conversation(value, HERE)) == "vg"


def test_an_unreadable_record_has_the_stem_of_its_file() -> None:
    assert source_of(Unreadable(HERE, (Issue.at(HERE, "malformed_record", "error", "x"),))) == "llava_mix"


def test_names_that_are_no_text_become_text() -> None:
    lone = "\udcff"
    assert source_of(sample(source=f"a{lone}")) == "a\\udcff"
    assert source_of(sample(f"coco{lone}/1.jpg")) == "coco\\udcff"


def test_the_table_says_of_every_record_how_many_media_and_whence(
    make_data: Callable[..., Path], record: Callable[..., dict[str, Any]], tiny: str
) -> None:
    home = make_data(2).parent
    (home / "coco").mkdir()
    (home / "0.png").rename(home / "coco" / "0.png")
    lines = [
        record(0, "coco/0.png"),
        record(1, ["1.png", "1.png"]),
        record(2, source="alpaca"),
        record(3, video="gone.mp4"),
        b'{"id": ',
    ]
    table = pq.read_table(score(make_data(lines=lines), tiny).path / "scores")
    assert table.column_names[: len(BASE_COLUMNS)] == list(BASE_COLUMNS)
    assert [table.schema.field(name).type for name in BASE_COLUMNS] == list(BASE_COLUMNS.values())
    assert table["n_media"].to_pylist() == [1, 2, 0, 1, 0]
    assert table["n_images"].to_pylist() == [1, 2, 0, 0, 0]
    assert table["source"].to_pylist() == ["coco", "data", "alpaca", "data", "data"]


def test_the_test_bench_of_metrics_has_the_same_columns() -> None:
    store = MemoryFeatures([sample("1.jpg")], {})
    assert {name: len(store.column(name)) for name in BASE_COLUMNS} == dict.fromkeys(BASE_COLUMNS, 1)


def a_metric(name: str, **more: Any) -> type:
    class Made:
        spec = MetricSpec(
            name, name, Principle.BEYOND, "sample", "s", "", (0, 1), None, "r", "1", "here", **more
        )

        def score(self, batch: Batch) -> list[Score]:
            return [Score(0.5)] * len(batch)

    return Made


@pytest.mark.parametrize(
    ("name", "more", "column"),
    [
        ("source", {}, "source"),
        ("n_media", {}, "n_media"),
        ("n", {"parts": ("media",)}, "n_media"),
        ("n", {"notes": ("turns",)}, "n_turns"),
    ],
)
def test_a_metric_may_not_write_a_column_that_every_table_has(
    name: str,
    more: dict[str, Any],
    column: str,
    make_data: Callable[..., Path],
    register: Callable[..., None],
) -> None:
    register(name, a_metric(name, **more))
    data = make_data(1)
    with pytest.raises(UsageError, match=f"metric {name} writes the column '{column}', which every table"):
        score(data, "lite", metrics=[name])
    assert not (data.parent / "data.vlitqc" / "shards").exists()


def test_two_metrics_may_not_write_the_same_column(
    make_data: Callable[..., Path], register: Callable[..., None]
) -> None:
    class Whole:
        spec = MetricSpec(
            "whole", "whole", Principle.BEYOND, "dataset", "s", "", (0, 1), None, "r", "1", "here",
            columns=("part_left",),
        )  # fmt: skip

        def features(self, batch: Batch) -> dict[str, Features]:
            return {}

        def resolve(self, store: FeatureStore) -> DatasetScore:
            return DatasetScore(reason="nothing", n_total=store.n_samples)

    register("whole", Whole)
    register("part", a_metric("part", parts=("left",)))
    with pytest.raises(UsageError, match=r"writes the column 'part_left', which metric (part|whole) has"):
        score(make_data(1), "lite", metrics=["whole", "part"])
    assert "part_left" in score(make_data(1), "lite", metrics=["part"], report=False).scores
