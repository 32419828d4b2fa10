"""Models that other processes hold: what stands for them, how they share GPUs, and what a worker's death tells.

No cluster is started here; ``test_ray`` has what needs one.
"""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.open_clip import write_open_clip, write_siglip
from checkpoints.transformers_vlm import write_chat_llama

from vlitqc import profiles, types
from vlitqc.engine.plan import BATCH, BATCH_CUDA, Plan, batch_size
from vlitqc.engine.scorer import ShardScorer
from vlitqc.engine.shards import Shard, cut
from vlitqc.errors import NameCollision, RunError, UnknownName, UsageError, VlitqcError, as_reason
from vlitqc.executors.deadly import MAX_DEATHS, DeadlySearch
from vlitqc.formats import open_input
from vlitqc.models.open_clip import OpenClip
from vlitqc.models.store import ModelStore
from vlitqc.models.transformers_judge import TransformersJudge
from vlitqc.registry import MODELS, entries, find
from vlitqc.types import ModelRef, Origin, Question, Unreadable

pytest.importorskip("ray")

from vlitqc.executors import ray as ray_executor
from vlitqc.executors import ray_models
from vlitqc.executors.ray import FOLDERS, RayExecutor
from vlitqc.executors.ray_models import COMPUTED, Layout, at_home, layout, portable, stand_in

REF = ModelRef("Model", "tiny", "test", "00")
PICTURES = [np.random.default_rng(i).integers(0, 256, (40 + i, 60, 3), np.uint8) for i in range(5)]
TEXTS = ["A dog runs.", "<image>\nWhat is it?", "word " * 700, "", "Two. Sentences here."]
TAKE_A_DEVICE = {
    "causal_lm": {"likelihood", "conditional"},
    "efficientnet_lite": {"forward", "encode_images"},
    "hanlp_parser": {"elements"},
    "icnet": {"score_images"},
    "open_clip": {"encode_images", "encode_texts", "line"},
    "pyiqa_quality": {"score_images"},
    "sentence_transformers": {"encode_texts", "cutting"},
    "transformers_judge": {"ask", "weigh", "usage"},
    "yolo_world": {"detect"},
}
"""The backends that live in pools, and what of them is asked there."""


@dataclass
class Elsewhere:
    """Another process as far as a stand-in can see: what travels there and back is pickled."""

    holder: Any
    calls: list[str] = field(default_factory=list)
    used: Mapping[str, int] = field(default_factory=dict)

    def call(
        self, name: str, given: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[Any, Mapping[str, int]]:
        self.calls.append(name)
        given, options = pickle.loads(pickle.dumps((given, options)))
        answer = getattr(self.holder, name)(*given, **options)
        return pickle.loads(pickle.dumps(answer)), self.used


# ---------------------------------------------------------------- stand-ins


def test_what_each_backend_asks_elsewhere() -> None:
    found = {}
    for name in entries(MODELS):
        backend = find(MODELS, name).load()
        if "device" in inspect.signature(backend).parameters:
            made = stand_in(backend, lambda *_: (None, {}))
            found[name] = {key for key in vars(made) if not key.startswith("__")}
            assert issubclass(made, backend)
            assert inspect.signature(made) == inspect.signature(backend)
    assert found == TAKE_A_DEVICE


def test_every_method_of_a_protocol_that_computes_is_asked_elsewhere() -> None:
    # "settle" is asked by the driver alone, of models of its own.
    cheap = {"sentences", "match", "encode_forward", "from_text_stage", "settle"}
    kinds = [kind for kind in vars(types).values() if inspect.isclass(kind) and types.Model in kind.__mro__]
    methods = {
        name
        for kind in kinds
        for name, member in vars(kind).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert methods - cheap == set(COMPUTED)


@pytest.mark.parametrize("write", [write_open_clip, write_siglip])
def test_a_stand_in_of_open_clip_says_the_same_without_weights(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    files = {"folder": write(tmp_path / "tiny")}
    whole = OpenClip(REF, files, device="cpu")
    elsewhere = Elsewhere(whole)
    made = stand_in(OpenClip, elsewhere.call)(REF, files, device="cpu")
    assert np.array_equal(made.encode_images(PICTURES), whole.encode_images(PICTURES))
    assert np.array_equal(made.encode_texts(TEXTS), whole.encode_texts(TEXTS))
    assert [made.sentences(text) for text in TEXTS] == [whole.sentences(text) for text in TEXTS]
    assert [made.match(cosine) for cosine in (-0.5, 0.25)] == [whole.match(-0.5), whole.match(0.25)]
    assert (made.scale, made.ref) == (whole.scale, whole.ref)
    # The line of a SigLIP stands in its weights, and is asked for once.
    assert elsewhere.calls == ["encode_images", "encode_texts", *(["line"] if write is write_siglip else [])]
    assert made._loaded is None


def test_a_judge_is_counted_once(tmp_path: Path) -> None:
    files = {"folder": write_chat_llama(tmp_path / "tiny")}
    options: dict[str, Any] = {"cache": str(tmp_path / "cache"), "device": "cpu"}
    elsewhere = Elsewhere(TransformersJudge(REF, files, **options), used={"calls": 2, "cached": 1})
    made = stand_in(TransformersJudge, elsewhere.call)(REF, files, **options)
    assert made.usage == {}
    question = Question("test@1", "Answer.", "Yes or no?", choices=("yes", "no"))
    first, second = made.weigh([question]), made.ask([question], 3)
    assert first[0].probabilities is not None
    assert len(second[0].texts) == 3
    assert made.usage == {"calls": 4, "cached": 2}
    assert made._chat is None


class Together:
    """Stand-ins for every model that takes a device, whose models are in this process."""

    device = "a device"

    def __init__(self, models: ModelStore) -> None:
        self.models = models
        self.calls: dict[str, list[str]] = {}

    def stand_in(self, slot: str, backend: Any) -> Any:
        if "device" not in inspect.signature(backend).parameters:
            return backend
        elsewhere = Elsewhere(self.models.get(slot), self.calls.setdefault(slot, []))
        return stand_in(backend, elsewhere.call)


def test_a_worker_of_lite_loads_no_network(
    make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "100M")
    data = make_data(12)
    profile = profiles.load("lite")
    names = (
        "matching_degree",
        "task_diversity",
        "response_diversity",
        "visual_semantic_diversity",
        "duplicates",
    )
    plan = Plan(profile, names, data.parent, "cpu", cache=True)
    held = ModelStore(profile, device="cpu")
    together = Together(held)
    models = ModelStore(profile, device="cpu", elsewhere=together)
    shards = list(cut(open_input(data).records()))
    alone = ShardScorer(plan, tmp_path / "alone", held)
    apart = ShardScorer(plan, tmp_path / "apart", models)
    assert alone.fingerprint == apart.fingerprint
    for scorer in (alone, apart):
        list(scorer.run(shards))
    found = [
        {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}
        for place in (alone.shards, apart.shards)
    ]
    assert found[0] == found[1]
    assert models.get("efficientnet")._loaded is None
    assert models.get("minilm")._model is None
    # What was computed elsewhere is none of this processor's.
    assert apart.cache is not None
    assert apart.cache.take()["found"] == 0
    # What cuts texts travels once; pictures once a batch.
    assert together.calls["minilm"].count("cutting") == 1
    assert together.calls["efficientnet"] == ["forward"] * len(shards)


# ---------------------------------------------------------------- shares


def test_one_of_each_on_every_gpu() -> None:
    assert layout(["a", "b", "c"], [2.0, 1.0], 3.0, None, "auto") == Layout(("a", "b", "c"), 0.3333, 3)
    assert layout(["a"], [4.0], 4.0, None, "auto") == Layout(("a",), 1.0, 4)
    assert layout(["a", "b"], [1.0], 1.0, 0.25, "auto") == Layout(("a", "b"), 0.25, 2)
    # Two of 0.4 fit on each GPU, and not five on two.
    assert layout(["a", "b"], [2.0], 2.0, 0.4, "auto") == Layout(("a", "b"), 0.4, 2)
    assert layout(["a", "b"], [8.0, 8.0], 12.0, 2.0, "cuda") == Layout(("a", "b"), 2.0, 3)
    # Of GPUs that others use in part.
    assert layout(["a", "b"], [1.0, 1.0], 1.5, None, "auto") == Layout(("a", "b"), 0.5, 1)


def test_workers_hold_the_models_where_there_is_no_gpu() -> None:
    for gpus, asked, device in (
        ([], None, "auto"),
        ([4.0], None, "cpu"),
        ([4.0], 0.0, "auto"),
        ([4.0], 1, "cpu"),
    ):
        assert layout(["a"], gpus, sum(gpus), asked, device) == Layout()
    assert layout([], [4.0], 4.0, 0.5, "cuda") == Layout()
    # A cluster that grows may have none yet.
    assert layout(["a", "b"], [], 0.0, None, "cuda") == Layout(("a", "b"), 0.5, 1)


@pytest.mark.parametrize(
    ("free", "asked", "told"),
    [
        (1.0, 0.6, r"gpus_per_worker=0.6: 2 models \(a, b\) .* the 1 free GPU has room for 1; 0.5 would fit"),
        (3.0, 2.0, r"the 3 free GPUs have room for 1; 1 would fit"),
        (0.0, 0.25, r"the 0 free GPUs have room for 0; 0 leaves them to processors"),
    ],
)
def test_a_share_that_leaves_a_model_without_any(free: float, asked: float, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        layout(["a", "b"], [free], free, asked, "auto")


def test_a_batch_suits_the_gpus_of_the_workers() -> None:
    assert batch_size("auto", "auto", True) == batch_size("auto", "cuda", True) == BATCH_CUDA
    assert batch_size("auto", "cpu", True) == batch_size("auto", "auto", False) == BATCH
    assert batch_size(7, "auto", True) == 7


# ---------------------------------------------------------------- records that kill


def test_a_worker_that_dies_once_over_a_record_proves_nothing(tmp_path: Path) -> None:
    records = tuple(Unreadable(Origin("data.jsonl", row, row + 1, 0, 0, ""), ()) for row in range(9))
    search = DeadlySearch(Shard(0, records), tmp_path / "shards", "somehow", times=2)
    search.journal.parent.mkdir()
    found = []
    for row in ("3", "5", "", "5"):  # 3: its node was lost; "": so was another's, before it began
        search.begin()
        search.journal.write_text(row)
        search.died()
        found.append(set(search.deadly))
    assert found == [set(), set(), set(), {5}]
    search.begin()
    with pytest.raises(RunError, match="worker processes die again and again, last over rows 0 to 8"):
        search.died()
    for again in range(2 * MAX_DEATHS - 5):
        search.begin()
        search.journal.write_text(str(again))
        search.died()
    with pytest.raises(RunError, match="the same command goes on, somehow"):
        search.died()


# ---------------------------------------------------------------- errors that travel


class Refused(Exception):
    """Takes what is not its message, as many libraries' errors do, so that no pickle of it can be read."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")


class OutOfMemoryError(RuntimeError):
    """As that of torch."""


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (Refused(3, "no"), Exception),
        (OutOfMemoryError("much"), RuntimeError),
        (MemoryError(), MemoryError),
        (KeyError("x"), KeyError),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), UnicodeDecodeError),
        (FileNotFoundError(2, "none", "a"), FileNotFoundError),
        (ExceptionGroup("two", [Refused(3, "no")]), Exception),
    ],
)
def test_an_error_keeps_its_name_and_message_on_its_way(error: Exception, base: type[Exception]) -> None:
    with pytest.raises(base) as caught, portable():
        raise error
    arrived = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(caught.value))))
    assert isinstance(arrived, base)
    assert as_reason(arrived) == as_reason(error)


@pytest.mark.parametrize(
    "error",
    [UnknownName("metric", "a", ["b"]), NameCollision("metric", "a", ["b", "c"]), RunError("it is gone")],
)
def test_errors_of_our_own_stay_what_they_are(error: VlitqcError) -> None:
    with pytest.raises(type(error)) as caught, portable():
        raise error
    arrived = pickle.loads(pickle.dumps(caught.value))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


# ---------------------------------------------------------------- what a driver leaves and asks


def test_a_share_is_one_that_ray_can_count() -> None:
    for share in (0.00004, 1e-9, -0.5, 1.5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"gpus_per_worker=.*: expected a share of a GPU"):
            RayExecutor(gpus_per_worker=share)
    shares = [RayExecutor(gpus_per_worker=share)._gpus_asked for share in (0.33339, 0.0001, 2.0, 0.0, None)]
    assert shares == [0.3334, 0.0001, 2.0, 0.0, None]


def test_threads_are_those_of_the_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(ray_models, "processors", lambda: 4)
    plan = Plan(profiles.load("lite"), (), tmp_path, "cpu", decode_threads=64)
    assert at_home(plan, {}).decode_threads == 4
    assert os.environ["OMP_NUM_THREADS"] == "4"
    # Torch takes no more than the driver's own, by which the last bits of a score may differ.
    for asked, given in (("1", "1"), ("64", "4"), ("0", "4"), ("2,1", "4")):
        assert at_home(plan, {"OMP_NUM_THREADS": asked}).decode_threads == 4
        assert os.environ["OMP_NUM_THREADS"] == given


def test_a_finished_shard_holds_no_records_back(make_data: Callable[..., Path]) -> None:
    [shard] = cut(open_input(make_data(12)).records())
    task = ray_executor._Task(shard)
    done: Any = object()
    task.finish(done)
    [last] = task.shard.records
    assert isinstance(last, Unreadable)
    assert (last.origin, task.shard.index, task.done) == (shard.records[-1].origin, 0, done)


def test_folders_of_killed_commands_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = [f"{FOLDERS}left", f"{FOLDERS}held", f"{FOLDERS}new", "another"]
    for name in names:
        (tmp_path / name / "session").mkdir(parents=True)
        if "new" not in name:
            os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / f"{FOLDERS}link").symlink_to(tmp_path / "another")
    lock = ray_executor._held(str(tmp_path / names[1]))
    ray_executor._remove_left()
    os.close(lock)
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:], f"{FOLDERS}link"}


def test_a_signal_means_what_it_meant_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ray_executor._same_end():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "CHECK_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        address = f"127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"what listens at {address} is no Ray cluster; .*8265.*10001"):
            ray_executor._check_address(address, "cure")
