"""Sentence vectors from plain transformers folders and from sentence-transformers folders: pooling and prompts."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.transformers_text import write_bert, write_causal
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.models.sentence_transformers import SentenceEncoder
from vlitqc.types import ModelRef

REF = ModelRef("TextEncoder", "tiny", "1", "0" * 64)
TEXTS = [
    "The dog runs along the beach.",
    "a cat",
    "what does the man look at?",
    "A small woman holds a stick in the red picture.",
    "it is",
]

Equals = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "model")


def states(folder: Path, texts: Sequence[str]) -> list[NDArray[np.float64]]:
    """transformers' own last hidden state of each text alone, ``[tokens, 32]``."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        return [
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
            for text in texts
        ]


def unit(rows: Any) -> NDArray[np.float64]:
    found = np.asarray(rows, np.float64)
    normed: NDArray[np.float64] = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return normed


def sentence_transformers_folder(folder: Path, place: str = "", **config: Any) -> Path:
    """Makes a folder with a plain one at ``place`` one of sentence-transformers, with mean pooling."""
    modules = [(place, "Transformer"), ("1_Pooling", "Pooling")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate(modules)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True})
    )
    if config:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


# ---------------------------------------------------------------- pooling


def test_cls_is_the_first_token_before_the_pooler(folder: Path, equals: Equals) -> None:
    """How SimCSE without supervision is read."""
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu", batch_size=2)
    expected = unit([rows[0] for rows in states(folder, TEXTS)])
    equals(
        encoder.encode_texts(TEXTS),
        expected,
        backend="sentence encoder, BERT, cls",
        reference="transformers last_hidden_state[:, 0]",
        within=1e-5,
    )


@pytest.mark.parametrize(
    ("pooling", "reduce"),
    [
        ("mean", lambda rows: rows.mean(axis=0)),
        ("max", lambda rows: rows.max(axis=0)),
        ("mean_sqrt_len_tokens", lambda rows: rows.sum(axis=0) / np.sqrt(len(rows))),
        ("weightedmean", lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1))),
        ("lasttoken", lambda rows: rows[-1]),
    ],
)
def test_every_pooling_is_that_of_the_hidden_states(
    folder: Path, pooling: str, reduce: Callable[[Any], Any], equals: Equals
) -> None:
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling=pooling, device="cpu")
    expected = unit([reduce(rows) for rows in states(folder, TEXTS)])
    equals(
        encoder.encode_texts(TEXTS),
        expected,
        backend=f"sentence encoder, BERT, {pooling}",
        reference="transformers last_hidden_state, pooled",
        within=1e-5,
    )


def test_a_decoder_without_a_padding_token_serves_as_well(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_causal(tmp_path / "llama")
    expected = unit([rows[-1] for rows in states(folder, TEXTS)])
    capfd.readouterr()
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="lasttoken", device="cpu")
    assert np.allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    assert capfd.readouterr().err == ""


def test_no_row_depends_on_the_batches(folder: Path) -> None:
    whole = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu").encode_texts(TEXTS)
    for size in (1, 3):
        cut = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu", batch_size=size)
        assert np.allclose(cut.encode_texts(TEXTS[::-1])[::-1], whole, atol=1e-5)


def test_model_is_what_modules_json_says(tmp_path: Path) -> None:
    folder = sentence_transformers_folder(write_bert(tmp_path / "st"))
    own = SentenceEncoder(REF, {"folder": folder}, device="cpu").encode_texts(TEXTS)
    assert np.allclose(own, unit([rows.mean(axis=0) for rows in states(folder, TEXTS)]), atol=1e-5)
    other = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu").encode_texts(TEXTS)
    assert np.allclose(other, unit([rows[0] for rows in states(folder, TEXTS)]), atol=1e-5)


# ---------------------------------------------------------------- prompts and long texts


def test_a_prompt_stands_before_each_text(folder: Path) -> None:
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", prompt="question: ", device="cpu")
    plain = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu")
    expected = plain.encode_texts([f"question: {text}" for text in TEXTS])
    assert np.allclose(encoder.encode_texts(TEXTS), expected, atol=1e-5)
    assert not np.allclose(plain.encode_texts(TEXTS), expected, atol=1e-2)


def test_the_folders_own_prompt_is_taken_and_can_be_left_out(tmp_path: Path) -> None:
    folder = sentence_transformers_folder(
        write_bert(tmp_path / "st"), prompts={"ask": "question: "}, default_prompt_name="ask"
    )
    own = SentenceEncoder(REF, {"folder": folder}, device="cpu").encode_texts(TEXTS)
    none = SentenceEncoder(REF, {"folder": folder}, prompt="", device="cpu")
    assert np.allclose(none.encode_texts([f"question: {t}" for t in TEXTS]), own, atol=1e-5)
    assert not np.allclose(none.encode_texts(TEXTS), own, atol=1e-2)


def test_control_tokens_in_a_text_are_plain_text(folder: Path) -> None:
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu")
    text = "a dog [SEP] a [PAD] cat"
    seen = encoder._load().preprocess([text])["input_ids"][0].tolist()
    assert seen[1:-1] == encoder._tokenize([text])["input_ids"][0]
    control = set(encoder._load().tokenizer.all_special_ids) - {encoder._load().tokenizer.unk_token_id}
    assert not set(seen[1:-1]) & control and (seen[0], seen[-1]) == (2, 3)
    rows = encoder.encode_texts(["a dog", "a dog [PAD] [PAD]"])
    assert not np.allclose(rows[0], rows[1], atol=1e-2)


@pytest.mark.parametrize(
    "text",
    [
        "狗在草地上跑" * 60,
        "https://example.org/" + "dogrunsalong" * 40,
        "A dog. " + "狗在草地上跑" * 30 + "。 The cat sleeps under the table.",
        "😀" * 100,
        "the dog runs along the beach with a stick and " * 30,
        "The dog. A cat. Qqq zzz. " * 20,
    ],
    ids=["chinese", "address", "mixed", "emoji", "one sentence", "sentences"],
)
def test_long_words_are_cut_between_characters_and_counted_again(tmp_path: Path, text: str) -> None:
    """Byte-level tokens: one letter has up to four, and a run without spaces is one word."""
    folder = write_causal(tmp_path / "llama")
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="mean", device="cpu")
    tokenizer, limit = encoder._load().tokenizer, encoder._limit()
    (windows,) = encoder._windows([text])
    parts = [part for part, _ in windows]
    assert [n for _, n in windows] == [len(tokenizer.tokenize(part)) for part in parts]
    assert len(windows) > 1 and max(n for _, n in windows) <= limit
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part in " ".join(text.split()) for part in parts)
    # Nothing is cut off, so that every part of the text counts.
    at = len(text) // 3
    changed = f"{text[:at]}{'z' * 9}{text[at + 9 :]}"
    rows = encoder.encode_texts([text, changed])
    assert np.isfinite(rows).all() and not np.allclose(rows[0], rows[1], atol=1e-4)
    assert all(len(tokenizer.tokenize(piece)) <= limit for piece in encoder.sentences(text))


@pytest.mark.parametrize("prompt", [None, "what is "])
def test_a_text_longer_than_the_context_is_windows_of_whole_sentences(
    folder: Path, prompt: str | None
) -> None:
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", prompt=prompt, device="cpu")
    parts = [
        "The dog runs along the beach with a stick and a cat sleeps on the table.",
        "A small woman holds the red picture in the image of a child and looks at it.",
    ]
    assert encoder._limit() == 32 - 2 - (3 if prompt else 0)
    counts = [len(p) for p in encoder._tokenize(parts)["input_ids"]]
    assert max(counts) <= encoder._limit() < sum(counts)
    weighted = np.asarray(counts)[:, None] * encoder.encode_texts(parts)
    assert np.allclose(encoder.encode_texts([" ".join(parts)])[0], unit(weighted.sum(axis=0)), atol=1e-5)


def test_a_prompt_that_fills_the_context_is_named(folder: Path) -> None:
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", prompt="the " * 30, device="cpu")
    with pytest.raises(ModelUnavailable, match="fills the context of 32 tokens"):
        encoder.encode_texts(TEXTS)


# ---------------------------------------------------------------- loading


def test_no_socket_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu").encode_texts(TEXTS).any()


def test_weights_in_the_older_format_give_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SimCSE is published as ``pytorch_model.bin``, with an entry that BERT no longer has."""
    import torch
    from safetensors.torch import load_file

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    older = write_bert(tmp_path / "older")
    tensors = load_file(older / "model.safetensors")
    (older / "model.safetensors").unlink()
    torch.save({**tensors, "embeddings.position_ids": torch.arange(32)[None]}, older / "pytorch_model.bin")
    rows = SentenceEncoder(REF, {"folder": older}, pooling="cls", device="cpu").encode_texts(TEXTS)
    expected = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu").encode_texts(TEXTS)
    assert np.allclose(rows, expected, atol=1e-6)


def test_options_travel_between_processes(folder: Path) -> None:
    sent = SentenceEncoder(REF, {"folder": folder}, pooling="cls", prompt="the ", device="cpu", batch_size=3)
    arrived: SentenceEncoder = pickle.loads(pickle.dumps(sent))
    assert arrived.__getstate__() == sent.__getstate__()
    assert np.allclose(arrived.encode_texts(TEXTS), sent.encode_texts(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "first"}, "pooling must be one of model, cls, mean, max"),
        ({"prompt": 3}, "prompt must be a text"),
        ({"batch_size": 0}, "batch_size must be a whole number from 1"),
    ],
)
def test_wrong_options_are_named(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        SentenceEncoder(REF, {"folder": folder}, **options)


def test_a_plain_folder_needs_a_pooling(folder: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r'set the option pooling \(SimCSE: pooling = "cls"\)'):
        SentenceEncoder(REF, {"folder": folder}, device="cpu").encode_texts(TEXTS)


@pytest.mark.parametrize(("pooling", "place"), [("cls", ""), ("model", ""), ("model", "0_BERT")])
def test_a_broken_copy_is_refused_rather_than_filled_at_random(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], pooling: str, place: str
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "bert"
    write_bert(folder / place)
    if pooling == "model":
        sentence_transformers_folder(folder, place=place)
    encoder = lambda: SentenceEncoder(REF, {"folder": folder}, pooling=pooling, device="cpu")  # noqa: E731
    weights = folder / place / "model.safetensors"
    tensors = load_file(weights)
    without_pooler = {key: value for key, value in tensors.items() if "pooler" not in key}
    save_file(without_pooler, weights, metadata={"format": "pt"})
    capfd.readouterr()
    rows = encoder().encode_texts(TEXTS)
    one = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in tensors.items() if k != one}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=f"1 of its weights are missing, such as {one}"):
        encoder().encode_texts(TEXTS)
    save_file({f"bert.{key}": value for key, value in tensors.items()}, weights, metadata={"format": "pt"})
    assert np.allclose(encoder().encode_texts(TEXTS), rows, atol=1e-6)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelUnavailable, match=r"cannot be read as a (sentence-)?transformers model"):
        encoder().encode_texts(TEXTS)
    assert capfd.readouterr().err == ""


def test_a_transformer_in_a_subfolder_is_found(folder: Path, tmp_path: Path) -> None:
    write_bert(tmp_path / "0_BERT")
    nested = SentenceEncoder(
        REF, {"folder": sentence_transformers_folder(tmp_path, place="0_BERT")}, pooling="cls", device="cpu"
    )
    plain = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu")
    assert np.allclose(nested.encode_texts(TEXTS), plain.encode_texts(TEXTS), atol=1e-6)


@pytest.mark.parametrize("text", ["a cat", "The dog runs along the beach with a stick. " * 9])
def test_weights_that_give_no_number_are_refused(tmp_path: Path, text: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_bert(tmp_path / "bert")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.output.dense.bias"][:] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    encoder = SentenceEncoder(REF, {"folder": folder}, pooling="cls", device="cpu")
    with pytest.raises(ModelUnavailable, match="tiny gives rows that are not finite: the weights in"):
        encoder.encode_texts([text])


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize("pooling", ["model", "cls"])
def test_no_code_of_a_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    folder = sentence_transformers_folder(write_bert(tmp_path / "st"))
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Payload()}, folder / "pytorch_model.bin")
    asks = {"weights_only": False, "trust_remote_code": True, "use_safetensors": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps({"model_args": asks}))
    with pytest.raises(ModelUnavailable, match="damaged, or holds other things than tensors") as refused:
        SentenceEncoder(REF, {"folder": folder}, pooling=pooling, device="cpu").encode_texts(TEXTS)
    assert "weights_only" not in str(refused.value)
    (folder / "own.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "own.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnavailable):
        SentenceEncoder(REF, {"folder": folder}, pooling=pooling, device="cpu").encode_texts(TEXTS)
    assert not (tmp_path / "touched").exists()
