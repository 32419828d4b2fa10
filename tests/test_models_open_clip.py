"""CLIP and SigLIP of open_clip: tiny random models in the real layouts, against open_clip's own direct calls."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from checkpoints.open_clip import CLIP, SIGLIP, write_open_clip, write_siglip, write_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

from vlitqc import profiles
from vlitqc.errors import ModelUnavailable
from vlitqc.media import MediaLoader
from vlitqc.models import open_clip as backend
from vlitqc.models import open_clip_tokens
from vlitqc.models.open_clip import OpenClip
from vlitqc.models.sentence_pieces import LONGEST_WORD, fit, fits, split_sentences
from vlitqc.models.store import ModelStore
from vlitqc.types import Batch, FloatArray, Image, Media, ModelRef, Origin, Rgb, Sample, Turn
from vlitqc_metrics.matching_degree import MatchingDegree
from vlitqc_metrics.matching_percentile import MatchingPercentile
from vlitqc_metrics.visual_semantic_diversity import VisualSemanticDiversity

REF = ModelRef("ImageText", "tiny", "1", "a" * 64)
TEXTS = [
    "a cat",
    "The picture of a dog, and of 2 birds.",
    "",
    "Größe &amp; Maß",
    "猫が寝ている。",
    "a cat",
    "<image>\nA cat's tail.",
]
Equals = Callable[..., None]


def pictures(*sizes: tuple[int, int]) -> list[Rgb]:
    """Gradients with noise, one of each (height, width)."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in sizes or ((64, 64), (90, 70), (30, 200), (17, 64), (200, 33), (64, 64), (5, 5)):
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        base = np.stack([255 * x, 255 * y, 255 * (1 - x) * rng.random()], axis=-1)
        made.append(np.clip(base + rng.normal(0, 60 * rng.random(), base.shape), 0, 255).astype(np.uint8))
    return made


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("siglip") / "tiny")


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> OpenClip:
    return OpenClip(REF, {"folder": clip_folder}, device="cpu")


@pytest.fixture(scope="module")
def siglip(siglip_folder: Path) -> OpenClip:
    return OpenClip(REF, {"folder": siglip_folder}, device="cpu")


class Direct:
    """open_clip's own calls on a folder."""

    def __init__(self, folder: Path) -> None:
        self.network, _, self.transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        self.tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        self.network.eval()

    def images(self, images: Sequence[Rgb]) -> FloatArray:
        with torch.no_grad():
            stack = torch.stack([self.transform(Pillow.fromarray(image)) for image in images])
            rows: FloatArray = self.network.encode_image(stack, normalize=True).numpy()
        return rows

    def texts(self, texts: Sequence[str]) -> FloatArray:
        with torch.no_grad():
            rows: FloatArray = self.network.encode_text(self.tokenizer(list(texts)), normalize=True).numpy()
        return rows

    def logits(self, images: Sequence[Rgb], texts: Sequence[str]) -> FloatArray:
        with torch.no_grad():
            stack = torch.stack([self.transform(Pillow.fromarray(image)) for image in images])
            rows: FloatArray = self.network.get_logits(stack, self.tokenizer(list(texts)))[0].numpy()
        return rows


def model(folder: Path, **options: Any) -> OpenClip:
    return OpenClip(REF, {"folder": folder}, device="cpu", **options)


# ---------------------------------------------------------------- equality


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_rows_are_those_of_open_clip(name: str, equals: Equals, request: pytest.FixtureRequest) -> None:
    ours: OpenClip = request.getfixturevalue(name)
    direct = Direct(request.getfixturevalue(f"{name}_folder"))
    images, title = pictures(), {"clip": "CLIP", "siglip": "SigLIP"}[name]
    rows = ours.encode_images(images)
    assert rows.dtype == np.float32
    assert np.ptp(rows @ rows.T) > 1e-3
    equals(
        rows,
        direct.images(images),
        backend=f"open_clip {title}, image",
        reference="open_clip.encode_image",
        within=1e-5,
    )
    texts = [text.replace("<image>\n", "") for text in TEXTS]
    rows = ours.encode_texts(TEXTS)
    assert rows.dtype == np.float32
    equals(
        rows,
        direct.texts(texts),
        backend=f"open_clip {title}, text",
        reference="open_clip.encode_text",
        within=1e-5,
    )
    assert np.array_equal(rows[0], rows[5])


def test_the_logit_of_siglip_is_its_own(siglip: OpenClip, siglip_folder: Path, equals: Equals) -> None:
    images, texts = pictures(), ["a cat", "the picture of a dog"]
    cosines = siglip.encode_images(images) @ siglip.encode_texts(texts).T
    ours = [[siglip.match(float(cosine)) for cosine in row] for row in cosines]
    equals(
        ours,
        Direct(siglip_folder).logits(images, texts),
        backend="open_clip SigLIP, logit",
        reference="open_clip.get_logits",
    )


def test_the_metric_is_the_mean_logit_of_the_sentences(siglip: OpenClip, siglip_folder: Path) -> None:
    (image,) = pictures((40, 60))
    text = "A cat. The dog in a picture! B"
    sample = Sample(
        "s", (Turn("?", text),), (Media("image", "a.png"),), {}, Origin("f.json", 0, 1, 0, 0, "0")
    )
    batch = Batch([sample], [[Image("a.png", image, None, "sha")]])
    metric = MatchingDegree(siglip)
    expected = Direct(siglip_folder).logits([image], ["A cat.", "The dog in a picture!", "B"]).mean()
    assert metric.score(batch)[0].value == pytest.approx(expected, abs=1e-4)
    assert (metric.spec.unit, metric.spec.bounds) == ("logit", (-math.inf, math.inf))
    assert (MatchingDegree.spec.unit, MatchingDegree.spec.bounds) == ("100·cosine", (-100.0, 100.0))


# ---------------------------------------------------------------- scale


def test_scales(clip: OpenClip, siglip: OpenClip) -> None:
    assert (clip.scale.unit, clip.scale.bounds, clip.scale.higher_is_better) == (
        "100·cosine",
        (-100.0, 100.0),
        True,
    )
    assert [clip.match(cosine) for cosine in (-1.0, 0.0, 0.25, 1.0)] == [-100.0, 0.0, 25.0, 100.0]
    assert (siglip.scale.unit, siglip.scale.bounds) == ("logit", (-math.inf, math.inf))
    # Fresh weights: logit_scale = log(1/0.07), logit_bias = -10.
    assert siglip.match(0.0) == -10.0
    assert siglip.match(0.7) == pytest.approx(0.0, abs=1e-4)


def test_the_scale_comes_from_the_configuration_alone(tmp_path: Path) -> None:
    for table, unit in ((CLIP, "100·cosine"), (SIGLIP, "logit")):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": table}), encoding="utf-8")
        assert model(tmp_path).scale.unit == unit
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from vlitqc.models.open_clip import OpenClip\nfrom vlitqc.types import ModelRef\n"
        "ref = ModelRef('ImageText', 'x', '1', '0' * 64)\n"
        "made = OpenClip(ref, {'checkpoint': Path('no.pt')}, architecture='ViT-B-16-SigLIP2-256')\n"
        "assert made.scale.unit == 'logit'\n"
        "made = OpenClip(ref, {'checkpoint': Path('no.pt')}, architecture='ViT-B-32', pretrained='openai')\n"
        "assert made.scale.unit == '100·cosine'\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'torchvision', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- batches


def test_rows_do_not_depend_on_the_cut_into_passes(clip_folder: Path, siglip_folder: Path) -> None:
    images, texts = pictures(), [*TEXTS, "a long text " * 40]
    for folder in (clip_folder, siglip_folder):
        one, many = model(folder, batch_size=1, threads=1), model(folder, batch_size=4, threads=3)
        assert np.allclose(one.encode_images(images), many.encode_images(images), atol=1e-5)
        assert np.allclose(one.encode_texts(texts), many.encode_texts(texts), atol=1e-5)
        assert np.allclose(many.encode_texts(texts[::-1])[::-1], many.encode_texts(texts), atol=1e-5)


TEXT = CLIP["text_cfg"]
TOWERS = {
    "CLIP": CLIP,
    "CLIP, quick_gelu": {**CLIP, "quick_gelu": True},
    "custom text": {**CLIP, "custom_text": True},
    "custom text, end mark by name, bias": {
        **CLIP,
        "custom_text": True,
        "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407, "proj_bias": True},
    },
    "no projection": {**CLIP, "text_cfg": {**TEXT, "proj_type": "none"}},
    "last position": {**CLIP, "text_cfg": {**TEXT, "pool_type": "last"}},
    "both ways": {**CLIP, "text_cfg": {**TEXT, "no_causal_mask": True}},
    "CoCa": {
        **CLIP,
        "custom_text": True,
        "vision_cfg": {**CLIP["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 76, "width": 32, "heads": 2, "layers": 1},
    },
    "SigLIP": SIGLIP,
}
CUT = [
    "CLIP",
    "CLIP, quick_gelu",
    "custom text",
    "custom text, end mark by name, bias",
    "no projection",
]
ROOM = {"CoCa": 74, "SigLIP": 47}


@pytest.mark.parametrize("name", TOWERS)
def test_positions_that_cannot_count_are_left_out(name: str, tmp_path: Path, equals: Equals) -> None:
    write = write_siglip if name == "SigLIP" else write_open_clip
    made, direct = model(write(tmp_path / "tiny", model=TOWERS[name])), Direct(tmp_path / "tiny")
    tower = getattr(made._ready().network, "text", made._ready().network)
    lengths: list[int] = []
    tower.transformer.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    room = made._ready().tokens.room
    assert room == ROOM.get(name, 75)
    texts = ["z" * n if name == "SigLIP" else " ".join(["cat"] * n) for n in range(room + 1)]
    texts = [
        text for text, fit in zip(texts, fits(texts, room, made._ready().tokens.count), strict=True) if fit
    ]
    texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
    assert max(made._ready().tokens.count(texts)) == room
    rows = made.encode_texts(texts)
    assert np.ptp(rows @ rows.T) > 1e-3
    equals(
        rows,
        direct.texts(texts),
        backend=f"open_clip {name}, text of 0 to {room} tokens",
        reference="open_clip.encode_text, whole context",
        within=1e-5,
    )
    for i in range(0, len(texts), 10):
        assert np.allclose(made.encode_texts([texts[i]])[0], rows[i], atol=1e-6)
    lengths.clear()
    made.encode_texts(["a cat", "a"])
    whole = TOWERS[name]["text_cfg"]["context_length"] + (name == "CoCa")
    assert max(lengths) == (4 if name in CUT else whole)


def test_texts_of_like_length_pass_together(clip: OpenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def see(_: Any, given: tuple[torch.Tensor]) -> None:
        seen.append((given[0].shape[0], given[0].shape[1]))

    hook = clip._ready().network.transformer.register_forward_pre_hook(see)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    texts = [" ".join(["cat"] * (1 if n % 2 else 60)) + f" {n % 10} {n // 10}" for n in range(16)]
    clip.encode_texts(texts)
    hook.remove()
    assert seen == [(8, 64), (8, 5)]


def test_nothing_gives_no_rows(clip: OpenClip) -> None:
    assert clip.encode_images([]).shape == clip.encode_texts([]).shape == (0, 32)
    assert clip.sentences("") == clip.sentences("...") == []


def test_one_loading_serves_all_threads(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    build = backend._build
    monkeypatch.setattr(backend, "_build", lambda *args: calls.append(1) or build(*args))
    made, found = model(clip_folder), []
    images = pictures()
    threads = [threading.Thread(target=lambda: found.append(made.encode_images(images))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(np.array_equal(rows, found[0]) for rows in found)


def test_a_copy_in_another_process_reads_its_own_weights(clip: OpenClip) -> None:
    clip.load()
    again = pickle.loads(pickle.dumps(clip))
    assert again._loaded is None
    assert np.array_equal(again.encode_texts(TEXTS), clip.encode_texts(TEXTS))


# ---------------------------------------------------------------- pictures


def test_a_narrow_picture_is_cut_before_it_is_resized(clip: OpenClip, clip_folder: Path) -> None:
    # 1 : 60: the direct call resizes all of it and keeps the middle.
    images = pictures((4, 240), (241, 4))
    assert np.allclose(clip.encode_images(images), Direct(clip_folder).images(images), atol=1e-4)
    rows = clip.encode_images([np.zeros((1, 60_000, 3), np.uint8), np.zeros((60_000, 1, 3), np.uint8)])
    assert np.allclose(rows[0], rows[1], atol=1e-6)


def test_a_thin_picture_keeps_a_pixel_where_the_longest_side_is_fitted(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "longest", preprocess={"resize_mode": "longest"})
    made, direct = model(folder), Direct(folder)
    images = pictures((64, 64), (30, 200), (200, 33))
    assert np.allclose(made.encode_images(images), direct.images(images), atol=1e-5)
    # 2048 × 1 of 64 × 64 would be 64 × 0.03; 32 times as thick it is 64 × 1 for open_clip itself.
    for axis, thin in enumerate(pictures((1, 2048), (2048, 1))):
        thick = np.repeat(thin, 32, axis=axis)
        assert np.allclose(made.encode_images([thin]), direct.images([thick]), atol=1e-3)


@pytest.mark.parametrize("metric", [MatchingDegree, MatchingPercentile, VisualSemanticDiversity])
def test_a_long_picture_is_decoded_with_all_that_the_model_sees(
    metric: Any, clip: OpenClip, tmp_path: Path
) -> None:
    (long,) = pictures((64, 2048))
    Pillow.fromarray(long).save(tmp_path / "long.png")
    loader = MediaLoader(tmp_path, longest_side=metric.spec.image_side)
    pixels = loader.load(Media("image", "long.png")).pixels
    assert pixels is not None
    assert np.array_equal(pixels, long)
    assert metric(clip).spec.image_side == metric.spec.image_side


def test_siglip_sees_the_whole_picture_and_clip_its_middle(clip: OpenClip, siglip: OpenClip) -> None:
    edge, none = pictures((64, 192), (64, 192))
    none[:, 70:122] = edge[:, 70:122]
    none[:, 60:132] = edge[:, 60:132]
    rows = clip.encode_images([edge, none])
    assert np.allclose(rows[0], rows[1], atol=1e-5)
    rows = siglip.encode_images([edge, none])
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


# ---------------------------------------------------------------- texts


LONG = [
    "word " * 1000,
    "字" * 600,
    "x" * 3000,
    "ab" * 60 + " " + "y " * 400,
    "One. Two! " * 100,
    "wow " + "🙂" * 100,
    "- * - " + "word " * 100 + "- " * 200,
    "don't &lt;stop&gt; " * 90,
]


@pytest.mark.parametrize("text", LONG, ids=range(len(LONG)))
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_pieces_fit_the_context_and_lose_nothing(
    name: str, text: str, request: pytest.FixtureRequest
) -> None:
    ours: OpenClip = request.getfixturevalue(name)
    pieces = ours.sentences(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    tokens = ours._ready().tokens
    assert max(tokens.count(pieces)) <= tokens.room
    assert np.isfinite(ours.encode_texts([text])).all()


def test_every_token_is_in_one_piece(clip: OpenClip) -> None:
    text = "A man, who isn't tall, holds 2 dogs' leads; the dogs (brown) are pulling - hard! " * 12
    text = text.replace("!", ",")
    encode = open_clip.tokenizer._tokenizer.encode
    assert len(encode(text)) > 200
    pieces = clip.sentences(text)
    assert [token for piece in pieces for token in encode(piece)] == encode(text)
    # As many words as fit: the first word of each piece would not have fitted in the piece before.
    for before, after in pairwise(pieces):
        assert len(encode(f"{before} {after.split()[0]}")) > 75 >= len(encode(before))
    for row in open_clip.tokenize(pieces):
        assert row.argmax() <= 76 and row[row.argmax()] == 49407


def test_a_sentence_that_just_fits_stays_whole(clip: OpenClip) -> None:
    fits, beyond = " ".join(["cat"] * 75), " ".join(["cat"] * 76)
    assert clip.sentences(fits) == [fits]
    assert clip.sentences(beyond) == [fits, "cat"]


def test_a_long_text_is_the_mean_of_its_sentences(clip: OpenClip, siglip: OpenClip) -> None:
    text = "A cat sleeps on the mat. " * 20 + "A dog runs."
    for ours in (clip, siglip):
        pieces = ours.sentences(text)
        assert len(pieces) >= 21
        mean = ours.encode_texts(pieces).mean(axis=0)
        assert np.allclose(ours.encode_texts([text])[0], mean / np.linalg.norm(mean), atol=1e-6)


def test_the_end_of_a_long_text_counts(clip: OpenClip) -> None:
    rows = clip.encode_texts(["word " * 200 + "cat", "word " * 200 + "train"])
    assert np.abs(rows[0] - rows[1]).max() > 1e-4


def test_a_text_cannot_spell_the_mark_that_ends_it(clip: OpenClip) -> None:
    rows = clip.encode_texts(["a cat <end_of_text> and a dog", "a cat and a dog", "a cat"])
    assert np.allclose(rows[0], rows[1], atol=1e-6)
    assert np.abs(rows[1] - rows[2]).max() > 1e-4


def test_what_the_tokenizer_remembers_is_bounded(
    clip_folder: Path, clip: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip_tokens, "WORDS_REMEMBERED", 50)
    made = model(clip_folder)
    texts = [f"qx{i}zw vk{i}jh" for i in range(200)]
    assert np.allclose(made.encode_texts(texts), clip.encode_texts(texts), atol=1e-6)
    assert len(made._ready().tokens._tokenizer.cache) < 60  # type: ignore[attr-defined]


# ---------------------------------------------------------------- cutting


def by_letters(texts: Sequence[str]) -> list[int]:
    return [len(text.replace(" ", "")) for text in texts]


def test_fit_by_hand() -> None:
    assert fit(["ab cd", "abc de f"], 4, by_letters) == [["ab cd"], ["abc", "de f"]]
    assert fit(["a bcdefg h"], 3, by_letters) == [["a", "bcd", "efg", "h"]]
    assert fit(["", " "], 1, by_letters) == [[""], [" "]]
    assert fit([], 1, by_letters) == []
    assert fits(["ab cd", "abc de", ""], 4, by_letters) == [True, False, True]
    assert fits(["x" * LONGEST_WORD, "x" * (LONGEST_WORD + 1)], 1000, by_letters) == [True, False]
    word = "x" * (LONGEST_WORD + 1)
    assert fit([f"a {word} b"], 1000, by_letters) == [["a", word[:-1], "x", "b"]]
    # Words may have no token at all, as marks have none for SigLIP.
    assert fit(["- - abc d"], 3, lambda texts: [sum(map(str.isalpha, text)) for text in texts]) == [
        ["- - abc", "d"]
    ]
    # Joined words that have more tokens than their sum, as where a space is a token too.
    assert fit(["a b c d"], 4, lambda texts: [len(text) for text in texts]) == [["a b", "c d"]]


def test_fit_refuses_what_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        fit(["a"], 0, by_letters)
    with pytest.raises(ValueError, match="'é' has more than 1 tokens"):
        fit(["aé"], 1, lambda texts: [len(text.encode()) for text in texts])


@given(st.lists(st.text("ab 漢\t", max_size=300), max_size=4), st.integers(3, 20))
def test_fit_loses_nothing(texts: list[str], limit: int) -> None:
    def count(pieces: Sequence[str]) -> list[int]:
        return [len(" ".join(piece.split()).encode()) for piece in pieces]

    for text, pieces in zip(texts, fit(texts, limit, count), strict=True):
        assert max(count(pieces)) <= limit
        assert "".join("".join(pieces).split()) == "".join(text.split())
        assert len(pieces) == 1 or count([text])[0] > limit


def test_hostile_words_do_not_hold_the_tokenizer(clip: OpenClip) -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 20_000))
    assert "".join(clip.sentences(text)) == text
    assert clip.encode_texts([text]).shape == (1, 32)
    assert split_sentences(text) == [text]


# ---------------------------------------------------------------- files


def state_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    state: dict[str, Any] = load_file(str(folder / "open_clip_model.safetensors"))
    return state


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The tiny CLIP's configuration in the layout of open_clip's ``model_configs``."""
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(CLIP), encoding="utf-8")
    return path


@pytest.mark.parametrize("wrapped", ["plain", "state_dict", "module"])
def test_state_dicts_as_training_leaves_them(
    wrapped: str, config: Path, clip: OpenClip, clip_folder: Path, tmp_path: Path
) -> None:
    state: Any = state_of(clip_folder)
    if wrapped == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    if wrapped != "plain":
        state = {"epoch": 3, "name": "tiny", "state_dict": state}
    torch.save(state, tmp_path / "epoch_3.pt")
    made = OpenClip(REF, {"checkpoint": tmp_path / "epoch_3.pt", "config": config}, device="cpu")
    assert np.array_equal(made.encode_images(pictures()), clip.encode_images(pictures()))


def test_weights_stored_as_float16_are_computed_with_as_float32(tmp_path: Path, equals: Equals) -> None:
    folder = write_open_clip(tmp_path / "half", half=True, weights="open_clip_pytorch_model.bin")
    made = model(folder)
    equals(
        made.encode_images(pictures()),
        Direct(folder).images(pictures()),
        backend="open_clip CLIP, image, stored as float16",
        reference="open_clip.encode_image",
        within=1e-5,
    )
    assert {p.dtype for p in made._ready().network.parameters()} == {torch.float32}


def test_quick_gelu_is_honoured(tmp_path: Path, clip: OpenClip, clip_folder: Path, equals: Equals) -> None:
    folder = write_open_clip(tmp_path / "quick", {**CLIP, "quick_gelu": True})
    plain = state_of(clip_folder)
    assert all(torch.equal(value, plain[key]) for key, value in state_of(folder).items())
    rows = model(folder).encode_images(pictures())
    equals(
        rows,
        Direct(folder).images(pictures()),
        backend="open_clip CLIP with QuickGELU, image",
        reference="open_clip.encode_image",
        within=1e-5,
    )
    assert np.abs(rows - clip.encode_images(pictures())).max() > 1e-4


@pytest.fixture
def tiny_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's names stand for tiny models; its tags stay as they are."""

    def built_in(architecture: str) -> Any:
        table = SIGLIP if "SigLIP" in architecture else CLIP
        return backend._config(architecture, copy.deepcopy(table))

    monkeypatch.setattr(backend, "_built_in", built_in)


@pytest.mark.usefixtures("tiny_built_ins")
def test_a_tag_says_quick_gelu_and_how_pictures_are_seen(clip_folder: Path, tmp_path: Path) -> None:
    quick = model(write_open_clip(tmp_path / "quick", {**CLIP, "quick_gelu": True}))
    files = {"checkpoint": clip_folder / "open_clip_model.safetensors"}
    openai = OpenClip(REF, files, architecture="ViT-B-32", pretrained="openai", device="cpu")
    assert np.array_equal(openai.encode_images(pictures()), quick.encode_images(pictures()))
    inception = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    other = model(write_open_clip(tmp_path / "other", preprocess=inception))
    laion = OpenClip(REF, files, architecture="ViT-L-14", pretrained="laion2b_s32b_b82k", device="cpu")
    assert np.array_equal(laion.encode_images(pictures()), other.encode_images(pictures()))
    unknown = OpenClip(REF, files, architecture="ViT-B-32", pretrained="opanai", device="cpu")
    with pytest.raises(ModelUnavailable, match="no weights 'opanai' of ViT-B-32; known: openai"):
        unknown.load()


@pytest.mark.usefixtures("tiny_built_ins")
def test_without_a_tag_pictures_are_seen_as_all_tags_agree(
    clip: OpenClip, clip_folder: Path, siglip: OpenClip, siglip_folder: Path
) -> None:
    files = {"checkpoint": siglip_folder / "open_clip_model.safetensors", "tokenizer": siglip_folder}
    made = OpenClip(REF, files, architecture="ViT-B-16-SigLIP2-256", device="cpu")
    assert np.array_equal(made.encode_images(pictures()), siglip.encode_images(pictures()))
    assert np.array_equal(made.encode_texts(TEXTS), siglip.encode_texts(TEXTS))
    files = {"checkpoint": clip_folder / "open_clip_model.safetensors"}
    for architecture in ("ViT-B-32", "ViT-L-14"):
        made = OpenClip(REF, files, architecture=architecture, device="cpu")
        assert np.array_equal(made.encode_images(pictures()), clip.encode_images(pictures()))


@pytest.mark.usefixtures("tiny_built_ins")
def test_the_tokenizer_may_be_named_by_its_file(
    siglip: OpenClip, siglip_folder: Path, tmp_path: Path
) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    files = {
        "checkpoint": siglip_folder / "open_clip_model.safetensors",
        "tokenizer": tokenizer / "tokenizer.json",
        "tokenizer_config": tokenizer / "tokenizer_config.json",
    }
    made = OpenClip(REF, files, architecture="ViT-B-16-SigLIP2-256", device="cpu")
    assert np.array_equal(made.encode_texts(TEXTS), siglip.encode_texts(TEXTS))
    for folder, said in ((None, "add a file of role 'tokenizer'"), (tmp_path, "holds no tokenizer")):
        named = {k: v for k, v in files.items() if k == "checkpoint"} | (
            {"tokenizer": folder} if folder else {}
        )
        with pytest.raises(ModelUnavailable, match=said):
            OpenClip(REF, named, architecture="ViT-B-16-SigLIP2-256", device="cpu").load()


def test_loading_says_nothing(clip_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        model(clip_folder).load()
    assert not [record for record in caplog.records if record.name == "root"]


def test_a_picture_is_embedded_once_for_matching_and_diversity(
    clip: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = clip.encode_images
    monkeypatch.setattr(clip, "encode_images", lambda images: seen.append(len(images)) or encode(images))
    images = [Image(f"{i}.png", picture, None, f"sha{i}") for i, picture in enumerate(pictures())]
    samples = [
        Sample(f"s{i}", (Turn("?", "A cat."),), (Media("image", "x"),), {}, Origin("f.json", i, i, 0, 0, "0"))
        for i in range(4)
    ]
    batch = Batch(samples, [images[:2], images[1:3], images[:1], images[3:5]])
    MatchingDegree(clip).score(batch)
    MatchingPercentile(clip).features(batch)
    VisualSemanticDiversity(clip).features(batch)
    assert seen == [5]


def test_no_socket_is_opened(siglip_folder: Path, clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError(f"a socket to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for folder in (siglip_folder, clip_folder):
        made = model(folder)
        assert made.encode_images(pictures()).shape[0] == 7
        assert made.encode_texts(TEXTS).shape[0] == 7
        assert made.sentences("A cat. A dog.") == ["A cat.", "A dog."]


# ---------------------------------------------------------------- what is refused


def refused(files: dict[str, Path], said: str, **options: Any) -> None:
    with pytest.raises(ModelUnavailable, match=said):
        OpenClip(REF, files, device="cpu", **options).encode_texts(["x"])


@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps({"a": 1}, 2), pickle.dumps(print, 2), pickle.dumps([1], 2)]
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_files_that_hold_no_weights_are_refused_and_never_run(
    name: str, content: bytes, config: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    refused(
        {"checkpoint": tmp_path / name, "config": config}, r"w\.(pt|safetensors) (cannot be read|holds no)"
    )


def test_torchs_advice_to_unpickle_is_not_passed_on(config: Path, tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "w.pt")
    said = r"\(it is damaged, or holds other things than tensors\)"
    refused({"checkpoint": tmp_path / "w.pt", "config": config}, said)


def test_torch_files_that_hold_no_tensors(config: Path, tmp_path: Path) -> None:
    for content in ([1, 2], {}, {"a": 1}, {"state_dict": {}}):
        torch.save(content, tmp_path / "w.pt")
        refused({"checkpoint": tmp_path / "w.pt", "config": config}, "holds no tensors by name")
    refused({"checkpoint": tmp_path / "gone.pt", "config": config}, "No such file")
    refused({"checkpoint": tmp_path / "w.npz", "config": config}, "no file of weights")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_says_what_to_take_instead(config: Path, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "ViT-B-32.pt"))
    refused({"checkpoint": tmp_path / "ViT-B-32.pt", "config": config}, "TorchScript archive.*openai")


def test_weights_of_another_model(clip_folder: Path, siglip_folder: Path, tmp_path: Path) -> None:
    weights = clip_folder / "open_clip_model.safetensors"
    tables = {
        "another width": {**CLIP, "embed_dim": 16},
        "more layers": {**CLIP, "text_cfg": {**CLIP["text_cfg"], "layers": 3}},
    }
    for name, table in tables.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(table), encoding="utf-8")
        refused({"checkpoint": weights, "config": path}, "does not hold the weights of .*RuntimeError")
    # open_clip stretches positions without a word; the rows would be those of no model.
    stretched = {"image": {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], "image_size": 96}}}
    stretched["text"] = {**CLIP, "text_cfg": {**CLIP["text_cfg"], "context_length": 40}}
    for name, table in stretched.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(table), encoding="utf-8")
        refused({"checkpoint": weights, "config": path}, "of another resolution or context")
    state = state_of(siglip_folder)
    del state["logit_bias"]
    torch.save(state, tmp_path / "no_bias.pt")
    (tmp_path / "siglip.json").write_text(json.dumps(SIGLIP), encoding="utf-8")
    refused(
        {"checkpoint": tmp_path / "no_bias.pt", "config": tmp_path / "siglip.json"}, "holds no logit_bias"
    )


def test_folders_that_hold_no_model(clip_folder: Path, tmp_path: Path) -> None:
    refused({"folder": tmp_path}, r"open_clip_config\.json cannot be read")
    path = tmp_path / "open_clip_config.json"
    for content in (
        "{",
        "[]",
        "{}",
        '{"model_cfg": 3}',
        json.dumps({**CLIP, "embed_dim": "x"}),
        "[" * 100_000,
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ModelUnavailable, match="cannot be read as a configuration"):
            _ = model(tmp_path).scale
    path.write_text(json.dumps({"model_cfg": CLIP}), encoding="utf-8")
    refused({"folder": tmp_path}, "holds no weights under a name that open_clip knows")
    for broken in ({"patch_size": 0}, {"layers": "x"}, {"surprise": 1}):
        table = {**CLIP, "vision_cfg": {**CLIP["vision_cfg"], **broken}}
        path.write_text(json.dumps({"model_cfg": table}), encoding="utf-8")
        weights = (clip_folder / "open_clip_model.safetensors").read_bytes()
        (tmp_path / "open_clip_model.safetensors").write_bytes(weights)
        refused({"folder": tmp_path}, "does not hold the weights of")


def test_pictures_that_could_not_be_prepared_and_weights_that_are_broken(
    clip_folder: Path, tmp_path: Path
) -> None:
    for wrong in ({"interpolation": "none"}, {"mean": [0.5, 0.5]}, {"std": "x"}):
        folder = write_open_clip(tmp_path / next(iter(wrong)), preprocess=wrong)
        refused({"folder": folder}, "does not hold the weights of")
    state = state_of(clip_folder)
    state["visual.proj"].fill_(float("nan"))
    torch.save(state, tmp_path / "nan.pt")
    (tmp_path / "clip.json").write_text(json.dumps(CLIP), encoding="utf-8")
    made = OpenClip(REF, {"checkpoint": tmp_path / "nan.pt", "config": tmp_path / "clip.json"}, device="cpu")
    assert made.encode_texts(["a cat"]).shape == (1, 32)
    with pytest.raises(ModelUnavailable, match="not finite"):
        made.encode_images(pictures())


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("text_cfg", "hf_model_name", "xlm-roberta-base"), ("vision_cfg", "timm_model_name", "hf-hub:a/b")],
)
def test_towers_that_would_be_fetched_are_refused(part: str, key: str, value: str, tmp_path: Path) -> None:
    table = copy.deepcopy(CLIP)
    table[part][key] = value
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": table}), encoding="utf-8")
    refused({"folder": tmp_path}, value)


def test_a_folder_cannot_have_its_code_run(tmp_path: Path) -> None:
    table = copy.deepcopy(SIGLIP)
    table["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = True
    folder = write_siglip(tmp_path / "evil", model=table)
    (folder / "own.py").write_text("raise SystemExit('ran')\n", encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"auto_map": {"AutoTokenizer": [None, "own.Own"]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    refused({"folder": folder}, "the tokenizer of evil cannot be read")


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("roles", "options", "said"),
    [
        ([], {}, "needs a file of role"),
        ([], {"architecture": "ViT-B-32"}, "needs a file of role"),
        (["weights"], {}, "no file has the role 'weights'"),
        (["folder", "checkpoint"], {}, "a folder says itself"),
        (["folder"], {"architecture": "ViT-B-32"}, "a folder says itself"),
        (["checkpoint"], {}, "either the option architecture"),
        (["checkpoint", "config"], {"architecture": "ViT-B-32"}, "either the option architecture"),
        (["checkpoint", "config"], {"pretrained": "openai"}, "goes with architecture"),
        (["checkpoint"], {"architecture": "ViT-B-31"}, r"no architecture 'ViT-B-31'; did you mean ViT-B-"),
        (["checkpoint"], {"architecture": "../ViT-B-32"}, "no architecture"),
        (["checkpoint"], {"architecture": "xlm-roberta-base-ViT-B-32"}, "text tower is 'xlm-roberta-base'"),
        (["folder"], {"precision": "fp8"}, "auto, fp32, bf16, fp16"),
        (["folder"], {"batch_size": 0}, "batch_size must be a whole number from 1"),
        (["folder"], {"threads": True}, "threads must be a whole number from 1"),
    ],
)
def test_options_that_do_not_fit(roles: list[str], options: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        OpenClip(REF, {role: Path("x") for role in roles}, **options)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in ("open_clip", "torchvision"):
        monkeypatch.setattr(
            "vlitqc.models.libraries.find_spec", lambda name, absent=absent: None if name == absent else name
        )
        said = f"the library {absent} is not installed; run: pip install 'vlitqc[models]'"
        with pytest.raises(ModelUnavailable, match=re.escape(said)):
            OpenClip(REF, {"folder": Path("x")})
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert OpenClip.sources(architecture="ViT-B-32", pretrained="openai") == []


def test_sources_are_those_of_open_clips_table() -> None:
    timm = "timm/vit_base_patch32_clip_224.openai"
    assert OpenClip.sources(architecture="ViT-B-32", pretrained="openai", batch_size=8) == [
        {"role": "checkpoint", "hub": timm, "path": "open_clip_model.safetensors", "revision": "main"}
    ]
    found = OpenClip.sources(architecture="ViT-B-16-SigLIP2-256", pretrained="webli")
    assert {row["role"]: row["path"] for row in found} == {
        "checkpoint": "open_clip_model.safetensors",
        "tokenizer": "tokenizer.json",
        "tokenizer_config": "tokenizer_config.json",
    }
    assert {row["hub"] for row in found} == {"timm/ViT-B-16-SigLIP2-256"}
    (named,) = OpenClip.sources(architecture="ViTamin-S", pretrained="datacomp1b")
    assert (named["hub"], named["path"]) == ("jienengchen/ViTamin-S", "pytorch_model.bin")
    (plain,) = OpenClip.sources(architecture="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert plain["path"] == "open_clip_pytorch_model.bin"
    (folder,) = OpenClip.sources(architecture="hf-hub:org/name")
    assert (folder["role"], folder["hub"]) == ("folder", "org/name")
    assert "*.json" in folder["patterns"]
    for options, said in (
        ({}, "name the files"),
        ({"architecture": "ViT-B-32"}, "name the files"),
        ({"architecture": "ViT-B-32", "pretrained": "x"}, "known: openai"),
        ({"architecture": "x", "pretrained": "openai"}, "no architecture 'x'"),
    ):
        with pytest.raises(TypeError, match=said):
            OpenClip.sources(**options)


def test_every_tag_of_the_table_has_a_source_or_a_reason() -> None:
    for architecture, tag in open_clip.list_pretrained():
        try:
            rows = OpenClip.sources(architecture=architecture, pretrained=tag)
        except TypeError as error:
            assert "text tower" in str(error)
            continue
        assert all(row["hub"].count("/") <= 1 and row["hub"] and row["path"] for row in rows)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_bf16_on_a_cpu_is_another_model_with_nearby_unit_rows(
    name: str, request: pytest.FixtureRequest
) -> None:
    exact: OpenClip = request.getfixturevalue(name)
    folder: Path = request.getfixturevalue(f"{name}_folder")
    halved = model(folder, precision="bf16")
    for rows, expected in (
        (halved.encode_images(pictures()), exact.encode_images(pictures())),
        (halved.encode_texts(TEXTS), exact.encode_texts(TEXTS)),
    ):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
        assert not np.array_equal(rows, expected)
        assert (rows * expected).sum(axis=1).min() > 0.9999
    assert halved.match(0.25) == pytest.approx(exact.match(0.25))
    # The other precisions are float32 there.
    for precision in ("auto", "fp16", "fp32"):
        assert np.array_equal(
            model(folder, precision=precision).encode_texts(TEXTS), exact.encode_texts(TEXTS)
        )


def test_bf16_has_an_identity_of_its_own(tmp_path: Path) -> None:
    text = """
        name = "p"
        title = "P"
        summary = "."
        [models.clip]
        backend = "open_clip"
        kind = "ImageText"
        name = "c"
        licence = "MIT"
        options = { architecture = "ViT-B-32", precision = "PRECISION" }
        [[models.clip.files]]
        role = "checkpoint"
        path = "w.pt"
        [metrics.matching_degree]
        models = { model = "clip" }
    """
    (tmp_path / "w.pt").write_bytes(b"weights")
    refs = []
    for precision in ("fp32", "bf16"):
        path = tmp_path / f"{precision}.toml"
        path.write_text(text.replace("PRECISION", precision), encoding="utf-8")
        refs.append(ModelStore(profiles.load(str(path))).ref("clip"))
    assert refs[0] != refs[1]


def test_autocast_types(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert backend._half("auto", "cuda") is expected
    assert backend._half("bf16", "cuda") is torch.bfloat16
    assert backend._half("fp16", "cuda") is torch.float16
    assert backend._half("fp32", "cuda") is None
    assert backend._half("bf16", "cpu") is torch.bfloat16
    assert all(backend._half(precision, "cpu") is None for precision in ("auto", "fp32", "fp16"))
