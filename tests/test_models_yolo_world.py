"""YOLO-World against ultralytics' own predictor; hostile checkpoints; vocabularies; an import that leaves no mark."""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints.ultralytics import settle, tiny_world, write_yolo_world

from vlitqc.errors import ModelUnavailable
from vlitqc.models.yolo_world import YoloWorld
from vlitqc.registry import MODELS, find
from vlitqc.types import Box, FloatArray, ModelRef, Rgb

REF = ModelRef("Detector", "yolo-world", "local", "0" * 64)
SIDE = 160


class Words:
    """Text features drawn from a seed that the text itself gives; ``chunks`` are the sizes of the calls."""

    ref = ModelRef("ImageText", "words", "1", "1" * 64)

    def __init__(self, width: int = 512, factor: float = 1.0) -> None:
        self.width = width
        self.factor = factor
        self.chunks: list[int] = []

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        self.chunks.append(len(texts))
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") for text in texts]
        rows = np.stack([np.random.default_rng(seed).normal(size=self.width) for seed in seeds])
        found: FloatArray = (self.factor * rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(
            np.float32
        )
        return found

    def sentences(self, text: str) -> list[str]:
        return [text]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo_world(tmp_path_factory.mktemp("yolo"))


@pytest.fixture(scope="module")
def pictures() -> list[Rgb]:
    """Of several proportions, two alike; noise over large blocks."""
    made = []
    for seed, (height, width) in enumerate([(120, 160), (160, 90), (200, 200), (120, 160), (33, 150)]):
        rng = np.random.default_rng(seed)
        blocks = np.kron(rng.integers(0, 200, (height // 16 + 1, width // 16 + 1, 3)), np.ones((16, 16, 1)))
        noisy = blocks[:height, :width] + rng.normal(0, 30, (height, width, 3))
        made.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> YoloWorld:
    return make(checkpoint)


def make(checkpoint: Path, text: Words | None = None, **options: Any) -> YoloWorld:
    files = {"checkpoint": checkpoint} | options.pop("files", {})
    return YoloWorld(REF, files, text=text or Words(), device="cpu", **({"image_size": SIDE} | options))


def assert_alike(found: Sequence[Sequence[Box]], expected: Sequence[Sequence[Box]]) -> None:
    """Equal but for rounding: torch adds up in another order when its threads are busy."""
    assert [[box.category for box in row] for row in found] == [[b.category for b in row] for row in expected]
    for row, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(numbers(row), numbers(other), atol=2e-5)


def numbers(boxes: Sequence[Box]) -> list[list[float]]:
    return [[b.left, b.top, b.right, b.bottom, b.confidence] for b in boxes]


# ---------------------------------------------------------------- equality


def test_detections_equal_those_of_ultralytics(
    checkpoint: Path, detector: YoloWorld, pictures: list[Rgb], equals: Callable[..., None]
) -> None:
    ours = detector.detect(pictures)
    from ultralytics.models import YOLOWorld

    names = detector.load().names
    theirs, categories = [], []
    for picture in pictures:
        model = YOLOWorld(str(checkpoint))
        model.model.txt_feats = torch.from_numpy(Words().encode_texts(names))[None]
        model.model.model[-1].nc = len(names)
        model.model.names = dict(enumerate(names))
        bgr = np.ascontiguousarray(picture[..., ::-1])
        (found,) = model.predict(bgr, imgsz=SIDE, verbose=False, save=False, device="cpu")
        theirs += torch.cat([found.boxes.xyxyn, found.boxes.conf[:, None]], 1).tolist()
        categories.append([found.names[int(k)] for k in found.boxes.cls])
    assert [[box.category for box in boxes] for boxes in ours] == categories
    assert min(map(len, ours)) >= 3
    assert len({box.category for boxes in ours for box in boxes}) > 10
    flat = [row for boxes in ours for row in numbers(boxes)]
    equals(flat, theirs, backend="YOLO-World v2, boxes", reference="ultralytics.YOLOWorld.predict")


def test_boxes_lie_in_the_picture_and_the_most_confident_comes_first(
    detector: YoloWorld, pictures: list[Rgb]
) -> None:
    for boxes in detector.detect(pictures):
        confidences = [box.confidence for box in boxes]
        assert confidences == sorted(confidences, reverse=True)
        assert all(0.25 < c <= 1 for c in confidences)
        for b in boxes:
            assert 0 <= b.left <= b.right <= 1
            assert 0 <= b.top <= b.bottom <= 1


def test_sub_batches_change_nothing_but_rounding(checkpoint: Path, pictures: list[Rgb]) -> None:
    many = pictures * 2
    whole = make(checkpoint, batch_size=8).detect(many)
    alone = make(checkpoint, batch_size=1).detect(many)
    for a, b in zip(whole, alone, strict=True):
        assert [box.category for box in a] == [box.category for box in b]
        # Random weights amplify rounding: trained ones do not spread it over so many orders of size.
        np.testing.assert_allclose(numbers(a), numbers(b), atol=2e-5, rtol=0)
    again = make(checkpoint, batch_size=8).detect(many)
    assert again == whole


def test_options_reach_the_suppression(checkpoint: Path, detector: YoloWorld, pictures: list[Rgb]) -> None:
    full = detector.detect(pictures[:1])[0]
    assert make(checkpoint, max_det=2).detect(pictures[:1])[0] == full[:2]
    sure = make(checkpoint, confidence=0.8).detect(pictures[:1])[0]
    assert sure == [box for box in full if box.confidence > 0.8]
    assert 0 < len(sure) < len(full)
    assert len(make(checkpoint, iou=0.1).detect(pictures[:1])[0]) < len(full)


def test_pictures_of_extreme_proportions_and_none(detector: YoloWorld) -> None:
    shapes = [(1, 1), (1, 3000), (3000, 1)]
    found = detector.detect([np.full((*shape, 3), 90, np.uint8) for shape in shapes])
    assert len(found) == 3
    assert detector.detect([]) == []


def test_it_travels_without_its_weights(detector: YoloWorld, pictures: list[Rgb]) -> None:
    before = detector.detect(pictures[:1])
    packed = pickle.dumps(detector)
    assert len(packed) < 4000
    assert_alike(pickle.loads(packed).detect(pictures[:1]), before)
    assert find(MODELS, "yolo_world").load() is YoloWorld


# ---------------------------------------------------------------- hostile and wrong checkpoints


class Runs:
    """A pickle that runs a command where it is read without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


class Calls:
    """A pickle that calls a class of ultralytics, which is let in, with arguments of its own."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        from ultralytics.nn.tasks import WorldModel

        return WorldModel, self.arguments


@pytest.mark.parametrize("place", ["model", "train_args", "deep"])
def test_a_pickle_that_runs_something_is_refused(tmp_path: Path, place: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    model = tiny_world()
    if place == "deep":
        model.model[0].conv.padding_mode = Runs(mark)
    stored = {"model": model, "train_args": {}}
    torch.save(stored if place == "deep" else stored | {place: Runs(mark)}, path)
    with pytest.raises(ModelUnavailable, match=r"asks for (posix|nt|os)\.system"):
        make(path).detect([np.zeros((8, 8, 3), np.uint8)])
    assert not mark.exists()


def test_a_class_that_is_let_in_is_never_called(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    tiny_world()
    # The library evaluates this text when it builds a model from a description.
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    torch.save({"model": Calls({"activation": code, "backbone": [], "head": []})}, path)
    with pytest.raises(ModelUnavailable, match="no detection head"):
        make(path).load()
    assert not mark.exists()


def test_other_names_are_told(tmp_path: Path) -> None:
    path = tmp_path / "hook.pt"
    model = tiny_world()
    model.register_forward_hook(subprocess.getoutput)
    torch.save({"model": model}, path)
    with pytest.raises(ModelUnavailable, match=r"asks for \w+\.getoutput, which a checkpoint of YOLO-World"):
        make(path).load()


def test_what_a_file_attaches_to_a_module_has_no_effect(
    tmp_path: Path, detector: YoloWorld, pictures: list[Rgb]
) -> None:
    path = tmp_path / "odd.pt"
    model = tiny_world()
    model.model[0]._forward_hooks[1] = torch.nn.SiLU()
    vars(model.model[0])["forward"] = "a word where a method should be"
    vars(model.model[1])["named"] = "os.system"
    model.args = {"imgsz": 640}
    model.model[-1].shape = torch.Size([1, 16, 20, 20])
    torch.save({"ema": model.half(), "model": None, "train_metrics": {"fitness": np.float64(0.5)}}, path)
    assert_alike(make(path).detect(pictures[:2]), detector.detect(pictures[:2]))


def test_files_that_are_something_else(tmp_path: Path, checkpoint: Path) -> None:
    text = tmp_path / "words.pt"
    text.write_text("these are words\n")
    with pytest.raises(ModelUnavailable, match="cannot be read as a checkpoint of YOLO-World"):
        make(text).load()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        make(cut).load()
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        make(tmp_path / "gone.pt").load()
    number = tmp_path / "number.pt"
    torch.save({"epoch": 3}, number)
    with pytest.raises(ModelUnavailable, match="neither a model of YOLO-World nor a state dict"):
        make(number).load()
    layer = tmp_path / "layer.pt"
    torch.save({"model": torch.nn.Linear(2, 2)}, layer)
    with pytest.raises(ModelUnavailable, match=r"holds a torch\.nn\.modules\.linear\.Linear, not a model"):
        make(layer).load()
    with pytest.raises(ModelUnavailable, match="role 'checkpoint'"):
        YoloWorld(REF, {}, text=Words())


def sparse(module: torch.nn.Module) -> None:
    module.register_parameter("weight", torch.nn.Parameter(module.weight.detach().to_sparse()))


def test_broken_models_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    for spoil, said in (
        (lambda model: model.model[0].conv.weight.fill_(float("nan")), "not finite"),
        (lambda model: sparse(model.model[0].conv), r"sparse.*model\.0\.conv\.weight"),
        (lambda model: vars(model.model[11]).update(f=[-1, 99]), "does not run"),
        (lambda model: model.model.__delitem__(-1), "no detection head"),
        (lambda model: model._modules.update(model=torch.nn.Sequential()), "no detection head"),
    ):
        model = tiny_world()
        with torch.no_grad():
            spoil(model)
        torch.save({"model": model}, path)
        with pytest.raises(ModelUnavailable, match=said):
            make(path).load()


# ---------------------------------------------------------------- state dicts


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One model in the smallest published shape, saved whole and as a state dict."""
    tiny_world()
    from ultralytics.nn.tasks import WorldModel

    folder = tmp_path_factory.mktemp("small")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = WorldModel("yolov8n-worldv2.yaml", verbose=False)
        model.model[9].cv1.act = torch.nn.SiLU()
        settle(model)
    torch.save({"model": model}, folder / "whole.pt")
    torch.save(model.state_dict(), folder / "state.pt")
    return folder / "whole.pt", folder / "state.pt"


def test_a_state_dict_gives_what_the_whole_model_gives(
    small: tuple[Path, Path], pictures: list[Rgb], checkpoint: Path
) -> None:
    whole, state = small
    expected = make(whole).detect(pictures[:1])
    drawn = torch.random.get_rng_state()
    assert_alike(make(state, architecture="yolov8n-worldv2.yaml").detect(pictures[:1]), expected)
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert len(expected[0]) > 10
    bare = make(state, architecture="yolov8n-worldv2.yaml", sppf_activation=False)
    assert bare.detect(pictures[:1]) != expected
    with pytest.raises(ModelUnavailable, match="say which model it is of by the option architecture"):
        make(state).load()
    with pytest.raises(ModelUnavailable, match="do not fit"):
        make(state, architecture="yolov8n-world.yaml").load()


# ---------------------------------------------------------------- vocabularies and text


def test_vocabularies(checkpoint: Path, tmp_path: Path, pictures: list[Rgb]) -> None:
    text = Words()
    coco = make(checkpoint, text).load().names
    assert (len(coco), coco[0], coco[-1]) == (80, "person", "toothbrush")
    assert text.chunks == [80]
    lvis = make(checkpoint, text, vocabulary="lvis")
    names = lvis.load().names
    assert (len(names), len(set(names)), names[0]) == (1198, 1198, "aerosol can")
    assert max(text.chunks) == 80 and sum(text.chunks) == 80 + 1198
    assert {box.category for box in lvis.detect(pictures[:1])[0]} <= set(names)
    path = tmp_path / "names.txt"
    path.write_text("heron\n\n  grey seal \nπλοίο\n", encoding="utf-8")
    own = make(checkpoint, vocabulary="file", files={"vocabulary": path})
    assert own.load().names == ("heron", "grey seal", "πλοίο")
    one = tmp_path / "one.txt"
    one.write_text("heron\n")
    found = make(checkpoint, vocabulary="file", files={"vocabulary": one}, confidence=0.01).detect(pictures)
    assert {box.category for boxes in found for box in boxes} == {"heron"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds 0 names"),
        (b"\n \n", "holds 0 names"),
        (b"a\nb\na\n", "'a' twice"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_vocabulary_that_cannot_serve(checkpoint: Path, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ModelUnavailable, match=said):
        make(checkpoint, vocabulary="file", files={"vocabulary": path}).load()


def test_text_features_must_fit(checkpoint: Path, tmp_path: Path, pictures: list[Rgb]) -> None:
    with pytest.raises(ModelUnavailable, match="needs text features of width 512, and words gives 384"):
        make(checkpoint, Words(384)).load()
    with pytest.raises(ModelUnavailable, match="not finite or all zero"):
        make(checkpoint, Words(factor=0.0)).load()
    longer = make(checkpoint, Words(factor=7.0))
    length = np.linalg.norm(longer.load().network.txt_feats[0].numpy(), axis=1)
    np.testing.assert_allclose(length, 1.0, atol=1e-6)
    narrow = write_yolo_world(tmp_path, text_width=32)
    assert make(narrow, Words(32)).detect(pictures[:1])[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocabulary": "imagenet"}, "one of coco, lvis, file"),
        ({"vocabulary": "file"}, "goes with a file"),
        ({"files": {"vocabulary": Path("x")}}, "goes with a file"),
        ({"architecture": "../own.yaml"}, "must be like"),
        ({"image_size": 100}, "multiple of 32"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"max_det": True}, "max_det must be a whole number"),
        ({"confidence": 1.5}, "confidence must lie between"),
        ({"iou": "high"}, "iou must lie between"),
    ],
)
def test_options_are_checked_at_once(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make(Path("nowhere.pt"), **options)


@pytest.mark.parametrize("absent", ["ultralytics", "torchvision"])
def test_a_missing_library_is_named(absent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vlitqc.models.libraries.find_spec", lambda name: None if name == absent else object()
    )
    with pytest.raises(ModelUnavailable, match=rf"the library {absent} is not installed"):
        make(Path("nowhere.pt"))


# ---------------------------------------------------------------- no mark


def test_no_socket_is_opened(checkpoint: Path, pictures: list[Rgb], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert make(checkpoint).detect(pictures[:1])[0]


FRESH = """
import os, socket, sys
def refuse(*_, **__):
    raise AssertionError("a socket was opened")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import cv2, numpy as np, PIL.Image, torch
shown = lambda: (dict(os.environ), np.get_printoptions(), str(torch._tensor_str.PRINT_OPTS), torch.save, PIL.Image.open)
before = shown()
from test_models_yolo_world import make
from pathlib import Path
detector = make(Path(sys.argv[1]))
assert "ultralytics" not in sys.modules
assert detector.detect([np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)])[0]
assert shown() == before
from ultralytics.utils import AUTOINSTALL, ONLINE, SETTINGS, VERBOSE
assert not (AUTOINSTALL or ONLINE or VERBOSE or SETTINGS["sync"])
assert not Path(SETTINGS.file).parent.exists()
"""


def test_the_import_leaves_no_mark(checkpoint: Path, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("YOLO", "XDG", "ULTRALYTICS"))}
    done = subprocess.run(
        [sys.executable, "-B", "-c", FRESH, str(checkpoint)],
        env=environment | {"HOME": str(home), "PYTHONPATH": path},
        cwd=work,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [*home.rglob("*"), *work.rglob("*")] == []
