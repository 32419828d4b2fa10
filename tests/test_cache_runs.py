"""Runs with a cache of features: the same bytes as without, and no model asked for what is known."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vlitqc
from vlitqc.engine.plan import Planned, versions, viewers
from vlitqc.engine.run import Run
from vlitqc.media import loader, pictures
from vlitqc.media.files import MediaFault, TooSlow
from vlitqc.models.conse import ConSE
from vlitqc.models.efficientnet_lite import EfficientNetLite
from vlitqc.models.feature_cache import FILE_NAME, FeatureCache
from vlitqc.models.ngram_lm import BigramLM
from vlitqc.models.sentence_transformers import SentenceEncoder
from vlitqc.models.spacy_parser import SpacyParser
from vlitqc.models.zero_shot_tagger import ZeroShotTagger
from vlitqc.profiles import MetricEntry
from vlitqc.testing import MemoryCache
from vlitqc.types import Batch, Image, MetricSpec, ModelRef, Principle, Score
from vlitqc_metrics._algorithms.batch_embeddings import match_vectors, response_features
from vlitqc_metrics._algorithms.languages import KnownLanguages
from vlitqc_metrics._algorithms.pictures import no_picture, pixels_of
from vlitqc_metrics.object_categories import ObjectCategories
from vlitqc_metrics.object_diversity import ObjectDiversity
from vlitqc_reports.explorer.samples import Samples

ROOT = Path(__file__).resolve().parents[1]
LOADING = (
    (EfficientNetLite, "_load"),
    (SentenceEncoder, "_load"),
    (ConSE, "_load"),
    (BigramLM, "load"),
    (SpacyParser, "load"),
    (ZeroShotTagger, "load"),
)


@pytest.fixture
def cache_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own; its file."""
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "100M")
    return tmp_path / "cache" / FILE_NAME


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bytes of every picture that is decoded from now on."""
    seen: list[bytes] = []
    decode = pictures.decode

    def counted(data: bytes, *limits: int) -> pictures.Picture:
        seen.append(data)
        return decode(data, *limits)

    monkeypatch.setattr(pictures, "decode", counted)
    return seen


def scores(run: Run) -> list[bytes]:
    return [path.read_bytes() for path in sorted((run.path / "scores").glob("*.parquet"))]


def features(run: Run) -> dict[str, bytes]:
    files = (run.path / "shards").glob("*/features/*")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


# ---------------------------------------------------------------- a whole profile


class Asked:
    """How many pictures and texts the encoders of lite are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pictures = 0
        self.texts: list[str] = []
        forward, encode = EfficientNetLite.forward, SentenceEncoder.encode_texts

        def counted_forward(model: EfficientNetLite, images: Sequence[Any]) -> Any:
            self.pictures += len(images)
            return forward(model, images)

        def counted_encode(model: SentenceEncoder, texts: Sequence[str]) -> Any:
            self.texts += texts
            return encode(model, texts)

        monkeypatch.setattr(EfficientNetLite, "forward", counted_forward)
        monkeypatch.setattr(SentenceEncoder, "encode_texts", counted_encode)


def test_the_same_bytes_with_and_without_and_only_what_is_new_is_computed(
    tmp_path: Path, cache_on: Path, decodes: list[bytes]
) -> None:
    home = tmp_path / "demo"
    script = ROOT / "examples" / "make_demo_data.py"
    subprocess.run([sys.executable, str(script), str(home)], check=True, capture_output=True)

    def score(limit: int, name: str, **options: Any) -> Run:
        # All in one batch: what else is in it moves a model's last bits.
        return vlitqc.score(home / "data.jsonl", limit=limit, out=tmp_path / name, report=False, **options)

    bare = score(24, "bare", cache=False)
    assert not cache_on.exists() and bare.info["cache"] is None
    with pytest.MonkeyPatch.context() as patch:
        asked = Asked(patch)
        cold = score(24, "cold")
    assert asked.pictures > 10 and cold.info["cache"]["kept"] > 100
    assert scores(cold) == scores(bare) and features(cold) == features(bare)

    decodes.clear()
    with pytest.MonkeyPatch.context() as patch:
        for model, method in LOADING:
            patch.setattr(model, method, _no_loading)
        warm = score(24, "warm")
    assert scores(warm) == scores(bare) and features(warm) == features(bare)
    tried = {hashlib.sha256(data).hexdigest() for data in decodes}
    assert warm.info["cache"]["kept"] == 0 and warm.info["cache"]["fault"] is None

    with pytest.MonkeyPatch.context() as patch:
        fewer = Asked(patch)
        longer = score(30, "longer")
    decoded = set(decodes)
    both, first = longer.scores["row"], warm.scores["row"]
    assert len(both) == 30 and both[: len(first)].equals(first)
    seen = {image.sha256 for row in range(24) for image in images(warm, row)}
    assert not tried & seen, "only what cannot be decoded is tried again"
    fresh = {image.sha256 for row in range(24, 30) for image in images(longer, row)} - seen
    assert fewer.pictures == len(fresh)
    assert {hashlib.sha256(data).hexdigest() for data in decoded} >= fresh and len(decoded) <= len(fresh) + 6
    # What ConSE, the tagger and its taxonomy need of the encoder is asked again; no response is.
    old = {turn.response for row in range(24) for turn in getattr(warm.record(row), "turns", ())}
    assert not old.intersection(fewer.texts)


def page(run: Run) -> bytes:
    """The page of a run with as little in it as can be of when it was scored and where it lies."""
    text = (run.path / "report.html").read_text(encoding="utf-8")
    for told in (run.info["command"], run.path.name, f"{run.scorecard['seconds']:.1f} s"):
        text = text.replace(told, "")
    return re.sub(r"<time>[^<]*</time>", "", text).encode()


def test_a_page_has_the_same_bytes_with_and_without_and_decodes_what_is_new(
    make_data: Callable[..., Path], tmp_path: Path, tiny: str, cache_on: Path, decodes: list[bytes]
) -> None:
    data = make_data(12)

    def score(name: str, **options: Any) -> Run:
        return vlitqc.score(data, tiny, out=tmp_path / f"run-{name}", command="vlitqc score", **options)

    bare = score("bare", cache=False)
    assert bare.cache is None and not cache_on.exists()
    cold = score("cold")
    decodes.clear()
    warm = score("warm")
    again = Run(cold.path).report()
    assert not decodes and again.read_bytes().count(b"\n") == (bare.path / "report.html").read_bytes().count(
        b"\n"
    )
    assert page(bare) == page(cold) == page(warm)
    # Larger pictures are made of new ones, at one decoding each, and then known as well.
    folders = [Run(warm.path).report(tmp_path / name, folder=True).parent for name in ("one", "two")]
    assert len(decodes) == 12
    one, two = ({p.name: p.read_bytes() for p in (f / "pictures").iterdir()} for f in folders)
    assert one == two and len(one) == 12
    decodes.clear()
    Run(bare.path).report()
    assert len(decodes) == 12, "a run that was scored without the cache has its page without it"


def test_a_picture_that_cannot_be_decoded_for_its_thumbnail_has_its_fault(
    make_data: Callable[..., Path],
    tmp_path: Path,
    tiny: str,
    cache_on: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = vlitqc.score(make_data(3), tiny, out=tmp_path / "run")

    def gone(*_: object) -> pictures.Picture:
        raise MediaFault("unreadable: no memory was left to decode it", retry=True)

    monkeypatch.setattr(pictures, "decode", gone)
    # The thumbnails of the file are known, those of the folder would be new.
    assert Samples(Run(run.path)).card(0)["pictures"][0]["fault"] is None
    (picture,) = Samples(Run(run.path), side=320).card(0)["pictures"]
    assert picture["thumb"] is None and picture["fault"].startswith("unreadable: no memory was left")
    (image,) = Run(run.path).images(Run(run.path).record(0))  # type: ignore[arg-type]
    assert image.pixels is None


def images(run: Run, row: int) -> list[Image]:
    record = run.record(row)
    found = run.images(record) if isinstance(record, vlitqc.types.Sample) else []
    return [image for image in found if image.fault is None]


def _no_loading(*_: Any) -> None:
    raise AssertionError("a model was loaded")


# ---------------------------------------------------------------- pictures


def test_a_known_picture_is_not_decoded(
    make_data: Callable[..., Path], tmp_path: Path, tiny: str, cache_on: Path, decodes: list[bytes]
) -> None:
    data = make_data(12)
    cold = vlitqc.score(data, tiny, out=tmp_path / "cold", report=False)
    assert len(decodes) == 12
    warm = vlitqc.score(data, tiny, out=tmp_path / "warm", report=False)
    assert len(decodes) == 12 and scores(warm) == scores(cold)
    fewer = vlitqc.score(data, tiny, out=tmp_path / "few", metrics="composition", report=False)
    assert fewer.scores.shape[0] == 12
    # Whoever looks at pixels for the first time gets them decoded ahead.
    assert len(decodes) == 24


def test_a_picture_that_comes_again_is_not_decoded_again(
    make_data: Callable[..., Path],
    record: Callable[..., dict[str, Any]],
    tmp_path: Path,
    tiny: str,
    cache_on: Path,
    decodes: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_data(4)
    data = make_data(lines=[record(i, f"{i % 4}.png") for i in range(64)])
    run = vlitqc.score(data, tiny, out=tmp_path / "run", batch_size=4, report=False)
    # Batches are read two at a time.
    assert 4 <= len(decodes) <= 8
    assert run.scores["image_readability"].nunique() == 4
    assert set(run.scores["image_readability"][:4]) == set(run.scores["image_readability"][60:])


def test_what_is_said_of_media_is_the_same(
    messy: Path, tmp_path: Path, tiny: str, cache_on: Path, decodes: list[bytes]
) -> None:
    bare = vlitqc.score(messy, tiny, out=tmp_path / "bare", report=False, cache=False)
    cold = vlitqc.score(messy, tiny, out=tmp_path / "cold", report=False)
    decodes.clear()
    warm = vlitqc.score(messy, tiny, out=tmp_path / "warm", report=False)
    broken = {(messy.parent / name).read_bytes() for name in ("cut.png", "words.png")}
    assert set(decodes) == broken, "a fault is not kept: with another codec, or more memory, it might be none"
    for run in (cold, warm):
        assert scores(run) == scores(bare)
        assert (run.path / "issues.parquet").read_bytes() == (bare.path / "issues.parquet").read_bytes()
    assert "truncated_image" in set(warm.issues["kind"])


class Looks:
    """Looks at every picture, and remembers nothing."""

    spec = MetricSpec(
        name="looks",
        title="Looks",
        principle=Principle.BEYOND,
        level="sample",
        summary="The mean of all pixels.",
        unit="",
        bounds=(0.0, 255.0),
        higher_is_better=None,
        reduction="mean",
        version="1",
        source="made up",
        image_side=64,
    )

    def score(self, batch: Batch) -> list[Score]:
        return [
            no_picture(sample, row) if row[0].fault else self.mean(row[0])
            for sample, row in zip(batch.samples, batch.images, strict=True)
        ]

    def mean(self, image: Image) -> Score:
        """The score of a readable picture."""
        return Score(float(np.mean(pixels_of([image]))))


class HidesFaults(Looks):
    """Says in words of its own what went wrong."""

    def mean(self, image: Image) -> Score:
        """The score of a readable picture."""
        try:
            return super().mean(image)
        except MediaFault:
            return Score(reason="something went wrong")


def only_headers(self: FeatureCache, space: str, contents: Sequence[str]) -> dict[str, Any]:
    """What a cache finds that knows the pictures' headers and has lost everything else."""
    return FIND(self, space, contents) if space.startswith("picture header") else {}


FIND = FeatureCache.find


@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize(
    "fault",
    [MediaFault("unreadable: no memory was left to decode it", retry=True), TooSlow("unreadable: slow")],
)
def test_a_picture_that_cannot_be_decoded_late_ends_as_without_a_cache(
    make_data: Callable[..., Path],
    profile_file: Callable[[str], str],
    register: Callable[..., None],
    tmp_path: Path,
    cache_on: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: MediaFault,
    hides: bool,
) -> None:
    data = make_data(8)
    register("looks", HidesFaults if hides else Looks)
    profile = profile_file("[metrics.image_readability]\n[metrics.composition]\n[metrics.looks]\n")
    vlitqc.score(data, profile, out=tmp_path / "first", report=False)
    culprit, decode = (data.parent / "3.png").read_bytes(), pictures.decode

    def starved(data: bytes, *limits: int) -> pictures.Picture:
        if data == culprit:
            raise fault
        return decode(data, *limits)

    with monkeypatch.context() as patch:
        patch.setattr(pictures, "decode", starved)
        patch.setattr(FeatureCache, "find", only_headers)
        bare = vlitqc.score(data, profile, out=tmp_path / "bare", report=False, cache=False)
        late = vlitqc.score(data, profile, out=tmp_path / "late", report=False)
    assert scores(late) == scores(bare) and features(late) == features(bare)
    assert late.issues.equals(bare.issues)
    assert list(late.issues["row"][late.issues["severity"] == "error"]) == [3]
    assert late.scores["image_readability_reason"][3] == f"image unreadable: {fault}"
    again = vlitqc.score(data, profile, out=tmp_path / "late", report=False)
    assert again.scores["image_readability"].notna().all() == fault.retry


def test_a_fault_that_another_machine_might_not_have_is_not_kept(
    make_data: Callable[..., Path],
    tmp_path: Path,
    tiny: str,
    cache_on: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_data(3)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "MAX_SECONDS", -1.0)
        slow = vlitqc.score(data, tiny, out=tmp_path / "slow", report=False)
    assert slow.scores["image_readability"].isna().all()
    assert slow.scores["image_readability_reason"].str.contains("seconds to decode").all()
    again = vlitqc.score(data, tiny, out=tmp_path / "again", report=False)
    assert again.scores["image_readability"].notna().all()


def test_a_metric_that_always_looks_gets_its_pictures(
    make_data: Callable[..., Path],
    profile_file: Callable[[str], str],
    register: Callable[..., None],
    tmp_path: Path,
    cache_on: Path,
    decodes: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loader, "MOST_LOOKS", 4)
    register("looks", Looks)
    profile = profile_file("[metrics.looks]\n")
    data = make_data(40)
    cold = vlitqc.score(data, profile, out=tmp_path / "cold", report=False, batch_size=4)
    before = len(decodes)
    late: Counter[bool] = Counter()
    found = loader.MediaLoader.load_batch

    def watched(self: loader.MediaLoader, samples: Any, **how: bool) -> list[list[Image]]:
        rows = found(self, samples, **how)
        late.update(callable(image.source) for row in rows for image in row)
        return rows

    monkeypatch.setattr(loader.MediaLoader, "load_batch", watched)
    warm = vlitqc.score(data, profile, out=tmp_path / "warm", report=False, batch_size=4)
    assert len(decodes) == before + 40 and scores(warm) == scores(cold)
    assert late[True] and sum(late.values()) == 40


@pytest.mark.parametrize("metric", [ObjectDiversity, ObjectCategories])
def test_a_detector_is_somebody_who_looks(metric: type[ObjectDiversity | ObjectCategories]) -> None:
    spec = metric.spec
    assert spec.image_side >= 640

    def told(sha256: str) -> str:
        model = ModelRef("detector", "d", "1", sha256)
        return viewers([Planned(spec, MetricEntry(spec.name), metric(), None, (("detector", model),))])

    assert told("a") == told("a") != told("b")


def test_the_libraries_that_decide_a_number_are_told() -> None:
    assert versions().keys() >= {"numpy", "scipy", "tokenizers", "thinc", "transformers"}


# ---------------------------------------------------------------- processes, faults, options


def test_workers_share_the_cache(
    make_data: Callable[..., Path], tmp_path: Path, tiny: str, cache_on: Path, decodes: list[bytes]
) -> None:
    data = make_data(70)
    several = vlitqc.score(data, tiny, out=tmp_path / "several", workers=2, report=False)
    assert several.info["cache"]["kept"] >= 140 and not decodes
    one = vlitqc.score(data, tiny, out=tmp_path / "one", report=False)
    assert one.info["cache"]["found"] >= 140 and one.info["cache"]["kept"] == 0 and not decodes
    assert scores(one) == scores(several)


def test_a_damaged_cache_costs_a_note_and_no_run(
    make_data: Callable[..., Path], tmp_path: Path, tiny: str, cache_on: Path
) -> None:
    data = make_data(40)
    bare = vlitqc.score(data, tiny, out=tmp_path / "bare", report=False, cache=False)
    cache_on.parent.mkdir()
    cache_on.write_bytes(b"nothing that SQLite knows " * 1000)
    run = vlitqc.score(data, tiny, out=tmp_path / "run", report=False)
    assert scores(run) == scores(bare)
    assert "is damaged" in run.info["cache"]["fault"] and "vlitqc cache clear" in run.info["cache"]["fault"]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "vlitqc", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, check=False)

    return call


def test_the_command_line(
    make_data: Callable[..., Path],
    tiny: str,
    cache_on: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = make_data(3)
    assert command("score", data, "--profile", tiny, "--no-cache").returncode == 0
    assert not cache_on.exists()
    assert json.loads(command("cache", "--json").stdout)["values"] == 0
    shutil.rmtree(data.with_suffix(".vlitqc"))
    done = command("score", data, "--profile", tiny)
    assert done.returncode == 0 and "cache of features" not in done.stdout
    told = json.loads(command("cache", "--json").stdout)
    assert told == {
        "file": str(cache_on),
        # Of each picture what its metric says and its size; its size for a page, and its thumbnail.
        "values": 12,
        "bytes": told["bytes"],
        "file_bytes": cache_on.stat().st_size,
        "limit": 100 << 20,
    }
    shown = command("cache").stdout
    assert str(cache_on) in shown and "104.9 MB" in shown
    assert "12 values" in command("cache", "clear").stdout
    assert json.loads(command("cache", "--json").stdout)["values"] == 0
    cache_on.write_bytes(b"nothing that SQLite knows " * 1000)
    failed = command("cache")
    assert failed.returncode == 3 and failed.stderr.count("\n") == 1 and "is damaged" in failed.stderr
    shutil.rmtree(data.with_suffix(".vlitqc"))
    noted = command("score", data, "--profile", tiny)
    assert noted.returncode == 0 and noted.stdout.count("is damaged") == 1
    assert "26.0 kB" in command("cache", "clear").stdout
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "plenty")
    assert command("score", data, "--profile", tiny).returncode == 2
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "0")
    assert "off" in command("cache").stdout
    for folder in ("n" * 300, str(data)):
        monkeypatch.setenv("VLITQC_CACHE", folder)
        for words in (["cache"], ["cache", "clear"]):
            failed = command(*words)
            assert failed.returncode == 3 and failed.stderr.count("\n") == 1
            assert "name another folder in VLITQC_CACHE" in failed.stderr


# ---------------------------------------------------------------- once


@pytest.fixture
def batch() -> Iterator[Batch]:
    yield Batch([], [], cache=MemoryCache())


def test_each_distinct_content_is_computed_once(batch: Batch) -> None:
    calls: list[list[int]] = []

    def compute(at: list[int]) -> list[float]:
        calls.append(at)
        return [float(i) for i in at]

    assert batch.once("s", ["a", "b", "a", "c"], compute) == [0.0, 1.0, 0.0, 3.0]
    assert batch.once("s", ["c", "d", "a", "d"], compute) == [3.0, 1.0, 0.0, 1.0]
    assert batch.once("t", ["a"], compute) == [0.0]
    assert batch.once("s", [], compute) == []
    later = Batch([], [], cache=batch.cache)
    assert later.once("s", ["d", "a", "e"], compute) == [1.0, 0.0, 2.0]
    assert Batch([], []).once("s", ["a"], compute) == [0.0]
    assert calls == [[0, 1, 3], [1], [0], [2], [0]]


def test_a_fault_is_forgotten_with_the_batch(batch: Batch) -> None:
    def compute(at: list[int]) -> list[float | str]:
        return ["no memory" if i else 1.0 for i in at]

    def is_fault(value: float | str) -> bool:
        return isinstance(value, str)

    assert batch.once("s", ["a", "b"], compute, is_fault=is_fault) == [1.0, "no memory"]
    assert batch.once("s", ["b"], compute, is_fault=is_fault) == ["no memory"]
    later = Batch([], [], cache=batch.cache)
    assert later.once("s", ["b"], compute, is_fault=is_fault) == [1.0]


def test_too_few_values_are_an_error(batch: Batch) -> None:
    with pytest.raises(ValueError, match="zip"):
        batch.once("s", ["a", "b"], lambda at: [1.0])


class Staged:
    """A text encoder that reads another's rows."""

    def __init__(self, stage: Any) -> None:
        self.ref = vlitqc.types.ModelRef("TextEncoder", "staged", "1", "s")
        self.text_stage = stage

    def encode_texts(self, texts: Sequence[str]) -> Any:
        return self.from_text_stage(self.text_stage.encode_texts(texts))

    def from_text_stage(self, rows: Any) -> Any:
        return -rows

    def sentences(self, text: str) -> list[str]:
        return [part for part in text.split(". ") if part]


class Counting:
    """A text encoder that remembers what it is asked."""

    ref = vlitqc.types.ModelRef("TextEncoder", "counting", "1", "c")

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_texts(self, texts: Sequence[str]) -> Any:
        self.texts += texts
        return np.array([[len(text), 1.0] for text in texts], np.float32)


def test_one_pass_of_the_text_encoder_serves_matching_and_responses() -> None:
    said = ["one", "one", "two. three", "two", ". "]
    turns = tuple(vlitqc.types.Turn("?", text) for text in said)
    origin = vlitqc.types.Origin("f", 0, 1, 0, 0, "")
    sample = vlitqc.types.Sample("r", turns, (), {}, origin)
    encoder = Counting()
    model: Any = Staged(encoder)
    cache = MemoryCache()
    for _ in range(2):
        batch = Batch([sample], [()], cache=cache)
        [matched] = match_vectors(batch, model, KnownLanguages(None, ()))
        [found] = response_features(batch, encoder).values()  # type: ignore[arg-type]
        assert matched.tolist() == [[-3, -1], [-3, -1], [-4, -1], [-3, -1]]
        assert isinstance(found.values, np.ndarray) and found.values.shape == (5, 2)
    assert sorted(encoder.texts) == sorted(["one", "two", "three", "two. three", ". "])
