"""The lite profile's vision and text models, against the libraries that they wrap."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from skimage import data as pictures

from vlitqc import profiles
from vlitqc.errors import ModelUnavailable, UsageError
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.models import efficientnet_lite
from vlitqc.models.conse import CAPTIONS, LABELS, ConSE, data_digest, label_sentence, read_lines
from vlitqc.models.efficientnet_lite import (
    EfficientNetLite,
    ForwardOutputs,
    crop,
    network_input,
    posterior,
)
from vlitqc.models.sentence_transformers import SentenceEncoder, split_sentences
from vlitqc.models.store import ModelStore
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, ModelRef, Rgb, StagedImageEncoder

if TYPE_CHECKING:
    import torch

REF = ModelRef("test", "test", "1", "0" * 64)


@pytest.fixture(scope="module")
def store() -> ModelStore:
    return ModelStore(profiles.load("lite"), device="cpu")


@pytest.fixture(scope="module")
def network(store: ModelStore) -> EfficientNetLite:
    found: EfficientNetLite = store.get("efficientnet")
    return found


@pytest.fixture(scope="module")
def encoder(store: ModelStore) -> SentenceEncoder:
    found: SentenceEncoder = store.get("minilm")
    return found


@pytest.fixture(scope="module")
def conse(store: ModelStore) -> ConSE:
    found: ConSE = store.get("conse")
    return found


# ---------------------------------------------------------------- nothing loads early


def test_importing_and_building_the_models_imports_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from vlitqc.types import ModelRef\n"
        "from vlitqc.models.efficientnet_lite import EfficientNetLite\n"
        "from vlitqc.models.sentence_transformers import SentenceEncoder\n"
        "from vlitqc.models.conse import ConSE\n"
        "ref = ModelRef('k', 'n', '1', '0' * 64)\n"
        "image = EfficientNetLite(ref, {'weights': Path('absent')})\n"
        "text = SentenceEncoder(ref, {'folder': Path('absent')})\n"
        "ConSE(ref, {}, image=image, text=text)\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'torchvision', 'PIL', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_scoring_needs_no_torchvision() -> None:
    # As on a machine without it: it cannot be found, and importing it fails.
    code = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, p=None: None if n.startswith('torchvision') else found(n, p)\n"
        "sys.modules['torchvision'] = None\n"
        "from vlitqc import profiles\n"
        "from vlitqc.models.store import ModelStore\n"
        "import numpy as np\n"
        "store = ModelStore(profiles.load('lite'), device='cpu')\n"
        "rows = store.get('conse').encode_images([np.zeros((64, 64, 3), np.uint8)])\n"
        "assert store.get('minilm').encode_texts(['a cup']).shape[1] == rows.shape[1]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_models_travel_between_processes_without_weights(network: EfficientNetLite, conse: ConSE) -> None:
    network.forward([pictures.coffee()])
    conse.encode_texts(["a cup"])
    sent = pickle.dumps(conse)
    assert len(sent) < 5000
    arrived: ConSE = pickle.loads(sent)
    assert np.allclose(arrived.encode_texts(["a cup"]), conse.encode_texts(["a cup"]), atol=1e-6)


def test_many_threads_load_the_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = ModelStore(profiles.load("lite"), device="cpu").get("efficientnet")
    reads: list[str] = []
    original = EfficientNetLite._read

    def counted(self: EfficientNetLite) -> Any:
        reads.append("read")
        return original(self)

    monkeypatch.setattr(EfficientNetLite, "_read", counted)
    threads = [threading.Thread(target=fresh._load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reads == ["read"]


# ---------------------------------------------------------------- EfficientNet-Lite0


def test_the_posterior_is_the_librarys_own(network: EfficientNetLite, store: ModelStore) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    images = [pictures.chelsea(), pictures.coffee(), pictures.rocket()]
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(network._weights)).eval()
    inputs = seen(images).contiguous()
    with torch.no_grad():
        expected = torch.softmax(theirs(inputs), dim=1).numpy()
    assert np.allclose(network.posterior(images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("chelsea", "cat"), ("coffee", "espresso"), ("rocket", "missile")]
)
def test_known_pictures_are_recognised(network: EfficientNetLite, name: str, expected: str) -> None:
    labels = read_lines(LABELS)
    best = int(network.posterior([getattr(pictures, name)()])[0].argmax())
    assert expected in labels[best]


def test_features_are_unit_rows_and_share_one_forward_pass(network: EfficientNetLite) -> None:
    images = [pictures.chelsea(), pictures.coffee()]
    outputs = network.forward(images)
    features = network.encode_images(images)
    assert features.shape == (2, 1280) and features.dtype == np.float32
    assert np.allclose(np.linalg.norm(features, axis=1), 1.0, atol=1e-5)
    assert np.allclose(network.encode_forward(outputs), features, atol=1e-5)
    assert np.allclose(posterior(outputs.logits), network.posterior(images), atol=1e-6)
    assert isinstance(network, StagedImageEncoder) and network.stage is network


def test_a_picture_does_not_depend_on_its_batch(network: EfficientNetLite) -> None:
    images = [pictures.chelsea(), pictures.coffee(), pictures.rocket()] * 4
    together = network.encode_images(images)
    alone = network.encode_images(images[2:3])
    assert np.allclose(together[2], alone[0], atol=1e-5)
    assert np.allclose(together[2], together[11], atol=1e-5)


def test_no_pictures_give_no_rows(network: EfficientNetLite, conse: ConSE) -> None:
    assert network.encode_images([]).shape == (0, 1280)
    assert network.posterior([]).shape == (0, 1000)
    assert conse.encode_images([]).shape == (0, 384)


def test_folding_the_normalisation_changes_rounding_alone(network: EfficientNetLite) -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(network._weights)).eval()
    images = [pictures.astronaut(), pictures.coffee(), np.zeros((9, 30, 3), np.uint8)]
    with torch.inference_mode():
        expected = theirs.extract_features(seen(images)).mean(dim=(2, 3)).numpy()
    found = network.forward(images).features
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network._load()[0].modules())


def test_the_largest_activations_of_a_chunk_stay_below_what_the_c_library_gives_back() -> None:
    # 96 channels of 112 × 112 float32, after the second block's expansion.
    assert efficientnet_lite.CHUNK * 96 * 112 * 112 * 4 < 32 << 20


def seen(images: Sequence[Rgb]) -> torch.Tensor:
    """What the network gets of pictures."""
    import torch

    return network_input(torch.from_numpy(np.stack([crop(image) for image in images])))


def test_the_network_sees_the_centre_scaled_as_its_weights_expect() -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    # The filter sees a little beyond the crop.
    assert np.allclose(seen([wide])[:, :, :, 40:-40], 1.0)
    assert np.allclose(seen([np.full((500, 300, 3), 127, np.uint8)]), 0.0)
    assert seen([np.zeros((1, 1, 3), np.uint8)]).shape == (1, 3, 224, 224)


def test_posterior_by_hand() -> None:
    logits = np.array([[0.0, np.log(3.0)]], np.float32)
    assert np.allclose(posterior(logits), [[0.25, 0.75]])
    assert np.allclose(posterior(logits, 2.0), [[1 / (1 + np.sqrt(3)), np.sqrt(3) / (1 + np.sqrt(3))]])
    assert np.allclose(posterior(np.array([[1e4, 0.0]], np.float32)), [[1.0, 0.0]])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        posterior(logits, 0.0)


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps({"a": 1}, 2), pickle.dumps(print, 2)])
def test_weights_that_are_none_are_refused_and_never_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    model = EfficientNetLite(REF, {"weights": path}, device="cpu")
    with pytest.raises(ModelUnavailable, match="does not hold EfficientNet-Lite0 weights"):
        model.encode_images([np.zeros((4, 4, 3), np.uint8)])


def test_devices() -> None:
    assert torch_device("cpu") == "cpu"
    assert torch_device("auto") in ("cpu", "cuda")
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        torch_device("tpu")


# ---------------------------------------------------------------- MiniLM


def test_embeddings_are_the_librarys_own(encoder: SentenceEncoder) -> None:
    texts = [
        "a cat",
        "Two dogs run over a field of snow.",
        "",
        "Eine Katze schläft.",
        "猫が寝ている。",
        "a cat",
    ]
    expected = encoder._load().encode(texts, normalize_embeddings=True, show_progress_bar=False)
    found = encoder.encode_texts(texts)
    assert found.dtype == np.float32 and np.allclose(found, expected, atol=1e-5)
    assert np.array_equal(found[0], found[5])
    assert np.array_equal(encoder.encode_texts(texts[::-1])[::-1], found)


def test_no_texts_give_no_rows(encoder: SentenceEncoder) -> None:
    assert encoder.encode_texts([]).shape == (0, 384)


def test_media_tokens_do_not_count(encoder: SentenceEncoder) -> None:
    rows = encoder.encode_texts(["<image>\nWhat is this?", "What is this?"])
    assert np.array_equal(rows[0], rows[1])


def test_the_end_of_a_long_text_counts(encoder: SentenceEncoder) -> None:
    filler = "The harbour is quiet and the boats lie still. " * 40
    cats, trains = encoder.encode_texts([filler + "A cat sleeps. " * 40, filler + "A train arrives. " * 40])
    cat = encoder.encode_texts(["A cat sleeps."])[0]
    assert np.isclose(np.linalg.norm(cats), 1.0, atol=1e-5)
    assert cats @ cat > trains @ cat + 0.1


def test_a_long_text_is_the_weighted_mean_of_its_windows(encoder: SentenceEncoder) -> None:
    sentence = "One two three four five six seven eight nine."  # 10 tokens
    long_text = " ".join([sentence] * 30)  # 300 tokens: 25 sentences fit into 254, 5 remain
    parts = encoder.encode_texts([" ".join([sentence] * 25), " ".join([sentence] * 5)])
    expected = 250 * parts[0] + 50 * parts[1]
    assert np.allclose(encoder.encode_texts([long_text])[0], expected / np.linalg.norm(expected), atol=1e-5)


@pytest.mark.parametrize("text", ["word " * 1000, "字" * 600, "x" * 3000, "ab" * 60 + " " + "y " * 400])
def test_pieces_fit_the_context_and_lose_nothing(encoder: SentenceEncoder, text: str) -> None:
    pieces = encoder.sentences(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    tokenizer = encoder._load().tokenizer
    assert max(len(tokenizer(piece)["input_ids"]) for piece in pieces) <= 256
    assert np.isfinite(encoder.encode_texts([text])).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat. A dog!  A bird?", ["A cat.", "A dog!", "A bird?"]),
        ("Mr. Smith met J. Doe, e.g. here.", ["Mr. Smith met J. Doe, e.g. here."]),
        ("It costs 3.50 in all. version 2.1 is out.", ["It costs 3.50 in all. version 2.1 is out."]),
        ("1. Wash it. 2. Dry it.", ["1. Wash it.", "2. Dry it."]),
        ('"Stop!" He ran.', ['"Stop!"', "He ran."]),
        ("first line\nsecond line\r\n\n third", ["first line", "second line", "third"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("هل هذا قط؟ نعم.", ["هل هذا قط؟", "نعم."]),
        ("Done. :)", ["Done. :)"]),
        ("2", ["2"]),
        ("yes", ["yes"]),
        ("...", []),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


def test_splitting_stays_linear_on_hostile_text() -> None:
    for text in ("A. " * 60_000, "1. " * 60_000, " " * 200_000, ".\n" * 100_000, '"' * 200_000 + " "):
        split_sentences(text)
        strip_media_tokens(text)
    strip_media_tokens("<img>" * 40_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<image>\nWhat?", "What?"),
        ("<ImageHere><ImageHere>Compare", "Compare"),
        ("<img>https://host/x.jpg</img> Look", "Look"),
        ("<|vision_start|><|image_pad|><|vision_end|>Go", "Go"),
        ("left<image>right", "left right"),
        ("<video> <audio> <image_1> x", "x"),
        ("a < b and <b>bold</b> <imagine>", "a < b and <b>bold</b> <imagine>"),
    ],
)
def test_media_tokens(text: str, expected: str) -> None:
    assert strip_media_tokens(text) == expected


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    model = SentenceEncoder(REF, {"folder": tmp_path}, device="cpu")
    with pytest.raises(ModelUnavailable, match=r"no modules\.json"):
        model.encode_texts(["x"])
    (tmp_path / "modules.json").write_text("[]x", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        model.encode_texts(["x"])


# ---------------------------------------------------------------- ConSE


def test_pictures_match_their_own_captions(conse: ConSE) -> None:
    images = [pictures.chelsea(), pictures.coffee(), pictures.rocket()]
    captions = [
        "A cat with green eyes looks to the side.",
        "A cup of coffee on a saucer with a spoon.",
        "A rocket stands on its launch pad.",
        "Two men play tennis.",
        "A slice of bread with butter.",
    ]
    cosines = conse.encode_images(images) @ conse.encode_texts(captions).T
    assert cosines.argmax(axis=1).tolist() == [0, 1, 2]
    assert all(cosines[i, i] > 0.2 + cosines[i, 3] for i in range(3))


class FakeText:
    """Embeds label sentences as 1,000 unit vectors on two axes, and everything else on the third."""

    ref = REF

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        rows = np.zeros((len(texts), 3), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[0 if text == label_sentence("tench") else 1 if text.startswith("there is") else 2] = 1.0
        return rows

    def sentences(self, text: str) -> list[str]:
        return [text]


class FakeClassifier:
    """Is sure that every picture shows a tench."""

    ref = REF

    def forward(self, images: Sequence[Rgb]) -> ForwardOutputs:
        logits = np.zeros((len(images), 1000), np.float32)
        logits[:, 0] = 200.0
        return ForwardOutputs(np.ones((len(images), 4), np.float32), logits)


def test_conse_by_hand() -> None:
    model = ConSE(REF, {}, image=FakeClassifier(), text=FakeText())
    # Label mean (0.001, 0.999, 0); caption mean (0, 0, 1); text mean (0.0005, 0.4995, 0.5).
    image = np.array([1 - 0.001, -0.999, 0.0])
    text = np.array([1 - 0.0005, -0.4995, -0.5])
    blank = np.zeros((4, 4, 3), np.uint8)
    assert np.allclose(model.encode_images([blank]), image / np.linalg.norm(image), atol=1e-6)
    assert np.allclose(model.encode_texts(["there is a tench"]), text / np.linalg.norm(text), atol=1e-6)
    assert model.sentences("x") == ["x"]
    assert isinstance(model, StagedImageEncoder)


def test_conse_checks_its_word_lists(tmp_path: Path) -> None:
    short = tmp_path / "labels.txt"
    short.write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(ModelUnavailable, match="1000 labels"):
        ConSE(REF, {"labels": short}, image=FakeClassifier(), text=FakeText()).encode_texts(["x"])
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        ConSE(REF, {"captions": tmp_path / "no"}, image=FakeClassifier(), text=FakeText()).encode_texts(["x"])
    with pytest.raises(ModelUnavailable, match="the profile names"):
        ConSE(REF, {}, image=FakeClassifier(), text=FakeText(), data_sha256="0" * 64).encode_texts(["x"])
    named = ConSE(REF, {}, image=FakeClassifier(), text=FakeText(), data_sha256=data_digest())
    assert named.encode_texts(["x"]).shape == (1, 3)


def test_word_lists_are_whole() -> None:
    labels, captions = read_lines(LABELS), read_lines(CAPTIONS)
    assert len(labels) == efficientnet_lite.N_CLASSES
    assert len(captions) == len(set(captions)) >= 150
    joined = hashlib.sha256(LABELS.read_bytes()).digest() + hashlib.sha256(CAPTIONS.read_bytes()).digest()
    assert data_digest() == hashlib.sha256(joined).hexdigest()
    assert label_sentence("ambulance") == "there is an ambulance"
    assert label_sentence("tench") == "there is a tench"


def test_bf16_is_another_model_with_nearby_unit_rows(encoder: SentenceEncoder) -> None:
    texts = [
        "A dog runs along the beach.",
        "Two men sit on a bench.",
        "What is it?",
        "A dog is at the sea. " * 90,
    ]
    halved = SentenceEncoder(encoder.ref, {"folder": encoder._folder}, device="cpu", precision="bf16")
    rows, exact = halved.encode_texts(texts), encoder.encode_texts(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert 0 < np.abs(rows @ rows.T - exact @ exact.T).max() < 0.02
    with pytest.raises(TypeError, match="precision must be one of fp32, bf16"):
        SentenceEncoder(encoder.ref, {"folder": encoder._folder}, precision="fp16")


def test_a_whole_folder_is_read_once(encoder: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    read: Any = transformers.BertModel.from_pretrained
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return read(*args, **options)

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", counted)
    SentenceEncoder(encoder.ref, {"folder": encoder._folder}, device="cpu").encode_texts(["a dog"])
    assert len(calls) == 1
