"""How likely a text is under a causal language model: a transformers folder or a GGUF file, from local disk.

For the N tokens t of a text, natural logarithm:

* ``mean_logp = (1/N) Σ log P(tᵢ | t₍<i₎)``; the negative log-likelihood is ``NLL = −mean_logp``.
* ``value = 1/NLL``, the readability of the paper (section 4.2.3); ``exp(mean_logp)`` is the bounded form, the
  geometric mean probability of a token, and ``exp(NLL)`` is the perplexity.
"""

from __future__ import annotations

import math
import pickle
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.models.libraries import need
from vlitqc.models.state_dict import why_unreadable
from vlitqc.models.torch_device import check_precision, compute_dtype, torch_device
from vlitqc.types import ModelRef, Scale, TextLikelihood

MIN_TOKENS = 2
"""Below this many counted tokens there is no mean to speak of."""

# 64 MiB of float32 logits at a time, whatever the vocabulary.
_LOGITS = 1 << 24
_BATCH_TOKENS = {"cpu": 512, "cuda": 8192}
# A tokenizer without a bound of its own names 10^30.
_UNBOUNDED = 10**9


@dataclass(frozen=True, slots=True)
class _Item:
    """Token ids, of which those from ``first`` on are counted."""

    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class _Window:
    """What goes through the model at once; the log-probabilities of ``ids[first:]`` belong to ``owner``."""

    owner: int
    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    model: Any
    tokenizer: Any
    device: str
    start: int | None
    context: int
    in_slices: bool
    """Whether hidden states and output layer, apart, give the model's own logits."""


class CausalLM:
    """Any causal language model that transformers reads.

    A text is tokenised by itself, without the tokenizer's own marks; what looks like a control token in it
    (``</s>``, ``<|im_end|>``) is read as plain text. One start token stands before it, the tokenizer's BOS, and
    all N tokens are counted; where the tokenizer has none (or ``start_token`` is ``""``) the first token is not
    counted, since nothing stands before it. ``n_tokens`` is what was counted.

    A text longer than the context is read in windows that overlap by half, each opened by the start token:
    every token is counted once, and from the second window on with at least half a context before it.

    ``conditional`` gives the text's tokens a prompt: start token, prompt, text. Prompt and text are tokenised
    apart and joined, with nothing between them, so that the counted tokens are those of ``likelihood``, the
    first one without BOS left out again. A pair that does not fit the context has no value: with a part of the
    prompt gone it would measure something else.

    ``value`` is None, with the reason, for empty text, for fewer than 2 counted tokens, and where the model
    gives no finite log-probability. The model cannot tell a language: ``language`` is ``""``.

    Equal texts are computed once. Windows are sorted by length into batches of at most ``batch_tokens`` tokens,
    padding included (one window always goes); padding never enters a sum, and no number depends on the batches
    beyond rounding. The output layer is applied to 2^24 logits at a time, in float32 from there on; a model that
    does more to its logits than its output layer gives them whole, ``batch_tokens`` rows of them.

    Weights are safetensors, GGUF (dequantised), or ``.bin`` read with ``weights_only``; no code that a folder
    carries is run, and nothing is fetched. float32 on the CPU. Run here with SmolLM2-135M (GGUF) and tiny random
    Llama and Granite folders; CUDA was not run.

    Args:
        ref: what the model is.
        files: ``folder``, a transformers folder (config, tokenizer, weights), or ``checkpoint``, a ``.gguf``
            file, which holds all three and needs the packages ``gguf`` and ``accelerate``.
        start_token: the token before each text; None: the tokenizer's BOS, if it has one; ``""``: none.
        context: the longest window in tokens; the model's own limit where that is lower.
        batch_tokens: bounds the memory of a batch; None: 512 on the CPU, where larger batches are slower, and
            8192 on CUDA; changes no number beyond rounding.
        precision: on CUDA ``auto`` loads the weights as bfloat16, or as float16 where the GPU has no bfloat16;
            ``fp32`` as float32.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TypeError: an option or the files' roles do not fit.
        ModelUnavailable: a library that the file needs is not installed.
    """

    RUNTIME_OPTIONS = ("batch_tokens",)

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        start_token: str | None = None,
        context: int = 4096,
        batch_tokens: int | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        if ("folder" in files) == ("checkpoint" in files):
            raise TypeError(
                "a causal language model is one file of role 'folder' (transformers) or 'checkpoint' (.gguf); "
                f"got {', '.join(sorted(files)) or 'none'}"
            )
        if start_token is not None and not isinstance(start_token, str):
            raise TypeError(f"start_token must be a text; got {start_token!r}")
        for name, value, least in (("context", context, 4), ("batch_tokens", batch_tokens, 1)):
            if name == "batch_tokens" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TypeError(f"{name} must be a whole number from {least}; got {value!r}")
        check_precision(precision)
        if "checkpoint" in files:
            need("gguf", "gguf>=0.10")
            need("accelerate", "accelerate")
        need("transformers", "transformers>=5.23")
        self.ref = ref
        self._files = dict(files)
        self._start_token = start_token
        self._context = context
        self._batch_tokens = batch_tokens
        self._precision = precision
        self._device_name = device
        self._lock = threading.RLock()
        self._loaded: _Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": self._files,
            "start_token": self._start_token,
            "context": self._context,
            "batch_tokens": self._batch_tokens,
            "precision": self._precision,
            "device": self._device_name,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @property
    def scale(self) -> Scale:
        """1/NLL: above 0, higher is better; prose has about 0.2 to 1 under models of some size."""
        return Scale(
            "1/NLL",
            (0.0, math.inf),
            True,
            "section 4.2.3 of the paper; NLL is the mean of −log P of a token under a causal language model",
        )

    def load(self) -> None:
        """Read tokenizer and weights. Raises ModelUnavailable where they cannot be read or are not causal."""
        self._ready()

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        """One answer a text, in order; see the class. Raises what :meth:`load` raises."""
        at = self._ready()
        distinct = list(dict.fromkeys(texts))
        items = [_Item(ids, 0 if at.start is not None else 1) for ids in self._tokenize(distinct)]
        answers = dict(zip(distinct, self._answers(at, distinct, items), strict=True))
        return [answers[text] for text in texts]

    def conditional(self, prompts: Sequence[str], texts: Sequence[str]) -> list[TextLikelihood]:
        """The likelihood of ``texts[i]``'s own tokens after ``prompts[i]``, in order; see the class.

        Raises ValueError where the two are not equally many, and what :meth:`load` raises.
        """
        if len(prompts) != len(texts):
            raise ValueError(f"{len(prompts)} prompts but {len(texts)} texts")
        at = self._ready()
        pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
        sides = list(dict.fromkeys(chain.from_iterable(pairs)))
        ids = dict(zip(sides, self._tokenize(sides), strict=True))
        skipped = 0 if at.start is not None else 1
        items = [_Item(ids[p] + ids[t], len(ids[p]) + skipped) for p, t in pairs]
        room = _room(at)
        too_long = {
            i: f"prompt and text together are {len(item.ids)} tokens, more than the {room} of the context"
            for i, item in enumerate(items)
            if len(item.ids) > room
        }
        found = self._answers(at, [text for _, text in pairs], items, too_long)
        answers = dict(zip(pairs, found, strict=True))
        return [answers[pair] for pair in zip(prompts, texts, strict=True)]

    def _answers(
        self,
        at: _Loaded,
        texts: Sequence[str],
        items: Sequence[_Item],
        reasons: Mapping[int, str] | None = None,
    ) -> list[TextLikelihood]:
        """What to say of each item; those with a reason, or too short to be counted, are not computed."""
        why = dict(reasons or {})
        for i, (text, item) in enumerate(zip(texts, items, strict=True)):
            if not text.strip():
                why[i] = "empty text"
            elif len(item.ids) - item.first < MIN_TOKENS:
                why[i] = f"fewer than {MIN_TOKENS} tokens"
        asked = [i for i in range(len(items)) if i not in why]
        sums = dict(zip(asked, self._sums(at, [items[i] for i in asked]), strict=True))
        answers = []
        for i, item in enumerate(items):
            n = max(len(item.ids) - item.first, 0)
            if i in why:
                answers.append(TextLikelihood(None, why[i], self.ref.name, "", n))
                continue
            mean = float(sums[i]) / n
            if not math.isfinite(mean):
                reason = "the model gives no finite probability"
            elif mean >= 0:
                reason = "every token has probability 1"
            else:
                answers.append(TextLikelihood(-1 / mean, None, self.ref.name, "", n, mean_logp=mean))
                continue
            answers.append(TextLikelihood(None, reason, self.ref.name, "", n))
        return answers

    def _sums(self, at: _Loaded, items: Sequence[_Item]) -> NDArray[np.float64]:
        """Σ log P over the counted tokens of each item, ``float64[n]``."""
        sums = np.zeros(len(items))
        windows = list(chain.from_iterable(_windows(i, item, at) for i, item in enumerate(items)))
        windows.sort(key=lambda window: (len(window.ids), window.owner))
        with self._lock:
            for batch in _batches(windows, self._batch_tokens or _BATCH_TOKENS[at.device]):
                for window, total in zip(batch, _log_probabilities(at, batch), strict=True):
                    sums[window.owner] += total
        return sums

    def _tokenize(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if not texts:
            return []
        tokenizer = self._ready().tokenizer
        # Half a surrogate pair, which JSON can spell, is no text to a tokenizer.
        whole = [text.encode(errors="replace").decode() for text in texts]
        with self._lock:  # a tokenizer keeps its settings between calls
            found = tokenizer(
                whole,
                add_special_tokens=False,
                split_special_tokens=True,
                truncation=False,
                return_attention_mask=False,
                verbose=False,
            )
        return [tuple(ids) for ids in found["input_ids"]]

    def _ready(self) -> _Loaded:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> _Loaded:
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = torch_device(self._device_name)
        dtype = compute_dtype(device, self._precision)
        path = self._files.get("folder") or self._files["checkpoint"]
        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        if "checkpoint" in self._files:
            where["gguf_file"] = path.name
        folder = str(path if "folder" in self._files else path.parent)
        try:
            with _quiet():
                tokenizer: Any = AutoTokenizer.from_pretrained(folder, **where)
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, weights_only=True, output_loading_info=True, **where
                )
            model, found = loaded
            model = model.to(device).eval()
        except (
            *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError),
            *(SafetensorError, pickle.UnpicklingError, struct.error),
        ) as error:
            raise ModelUnavailable(
                f"{path} cannot be read as a causal language model: expected a transformers folder with config, "
                "tokenizer and safetensors, or a .gguf file of an architecture that transformers knows "
                f"({why_unreadable(error)}); point the profile to a whole copy"
            ) from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise ModelUnavailable(
                f"{path} is not a whole causal language model: {len(missing)} weights are missing, such as "
                f"{missing[0]}; point the profile to a whole copy of one"
            )
        start = self._start(tokenizer, path)
        _check_vocabulary(model, tokenizer, start, path)
        return _Loaded(
            model,
            tokenizer,
            device,
            start,
            self._longest(model, tokenizer),
            _slices_agree(model, device, path),
        )

    def _start(self, tokenizer: Any, path: Path) -> int | None:
        if self._start_token is None:
            return None if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
        if self._start_token == "":
            return None
        found: int | None = tokenizer.get_vocab().get(self._start_token)
        if found is None:
            raise ModelUnavailable(
                f"start_token {self._start_token!r} is no token of {path}; name one of "
                f"{', '.join(tokenizer.all_special_tokens) or 'its vocabulary'}, or leave the option out"
            )
        return found

    def _longest(self, model: Any, tokenizer: Any) -> int:
        own = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if not isinstance(own, int) or own < 1:
            own = tokenizer.model_max_length if tokenizer.model_max_length < _UNBOUNDED else self._context
        return int(min(own, self._context))


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars while a model is read, in the middle of the run's own; no report either on weights that
    the architecture does not use: absent ones are looked for by the caller."""
    import transformers
    from transformers import modeling_gguf_pytorch_utils as reader

    bars: Any = transformers.logging
    files: Any = reader
    had_bar, bar, level = bars.is_progress_bar_enabled(), files.tqdm, bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity_error()
    # The bar over a GGUF file's tensors does not ask that setting.
    files.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        files.tqdm = bar
        bars.set_verbosity(level)
        if had_bar:
            bars.enable_progress_bar()


def _room(at: _Loaded) -> int:
    """Tokens that fit beside the start token."""
    return at.context - (at.start is not None)


def _windows(owner: int, item: _Item, at: _Loaded) -> list[_Window]:
    """Windows in which every counted token of the item is counted once."""
    room = _room(at)
    before = () if at.start is None else (at.start,)
    step = max(room // 2, 1)
    windows = []
    counted = item.first
    end = min(room, len(item.ids))
    while True:
        begin = max(end - room, 0)
        windows.append(_Window(owner, before + item.ids[begin:end], len(before) + counted - begin))
        if end == len(item.ids):
            return windows
        counted, end = end, min(end + step, len(item.ids))


def _batches(windows: Sequence[_Window], most: int) -> Iterator[list[_Window]]:
    """The windows, sorted by length, in batches of at most ``most`` tokens with padding; never an empty one."""
    batch: list[_Window] = []
    for window in windows:
        if batch and (len(batch) + 1) * len(window.ids) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _log_probabilities(at: _Loaded, batch: Sequence[_Window]) -> list[float]:
    """Σ log P over the counted tokens of each window."""
    import torch

    longest = max(len(window.ids) for window in batch)
    ids = np.zeros((len(batch), longest), np.int64)
    mask = np.zeros_like(ids)
    rows: list[int] = []
    places: list[int] = []
    for row, window in enumerate(batch):
        ids[row, : len(window.ids)] = window.ids
        mask[row, : len(window.ids)] = 1
        counted = range(window.first, len(window.ids))
        rows += [row] * len(counted)
        places += counted
    tokens = torch.from_numpy(ids).to(at.device)
    row_of = torch.tensor(rows, device=at.device)
    place_of = torch.tensor(places, device=at.device)
    wanted = tokens[row_of, place_of]
    size = max(1, _LOGITS // int(at.model.config.get_text_config().vocab_size))
    found = []
    with torch.inference_mode():
        body = at.model.base_model if at.in_slices else at.model
        out = body(input_ids=tokens, attention_mask=torch.from_numpy(mask).to(at.device), use_cache=False)
        # The output at a place speaks of the token after it.
        states = (out.last_hidden_state if at.in_slices else out.logits)[row_of, place_of - 1]
        head = at.model.get_output_embeddings()
        for begin in range(0, len(rows), size):
            part = states[begin : begin + size]
            logits = (head(part) if at.in_slices else part).float()
            chosen = logits.gather(1, wanted[begin : begin + size, None])[:, 0] - logits.logsumexp(dim=1)
            found.append(chosen.double().cpu().numpy())
    sums: list[float] = np.bincount(rows, weights=np.concatenate(found), minlength=len(batch)).tolist()
    return sums


def _check_vocabulary(model: Any, tokenizer: Any, start: int | None, path: Path) -> None:
    """Raises ModelUnavailable for a tokenizer that gives tokens which the model has no row for."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    # Text is never read as one of these, and some models have none of their padding token.
    control = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special} - {start}
    largest = max(set(tokenizer.get_vocab().values()) - control, default=0)
    if largest >= rows:
        raise ModelUnavailable(
            f"{path} holds a tokenizer with token ids up to {largest}, but a model of {rows} tokens: they belong "
            "to different models; point the profile to a whole copy of one"
        )


def _slices_agree(model: Any, device: str, path: Path) -> bool:
    """Whether the output layer over the hidden states gives the model's own logits.

    Some models scale or cap their logits afterwards. Raises ModelUnavailable for weights that give no number, and
    for a model in which a later token changes what comes before it: BERT and its like are read without complaint.
    """
    import torch

    tokens = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]], device=device)
    with torch.inference_mode():
        own = model(input_ids=tokens, use_cache=False).logits.float()
        if not own.logsumexp(dim=-1).isfinite().all():
            cure = "" if model.dtype == torch.float32 else ", or try precision = 'fp32'"
            raise ModelUnavailable(
                f"{path} gives no finite probability to any token: its weights are broken, or too large for "
                f"{model.dtype}; point the profile to a whole copy{cure}"
            )
        near = 1e-4 if model.dtype == torch.float32 else 1e-2
        if not torch.allclose(own[0, :3], own[1, :3], rtol=near, atol=near):
            raise ModelUnavailable(
                f"{path} holds no causal language model: a later token changes the probability of those before "
                "it; name a decoder such as Llama, Qwen or GPT-2"
            )
        head = model.get_output_embeddings()
        if head is None or model.base_model is model:
            return False
        states = getattr(model.base_model(input_ids=tokens, use_cache=False), "last_hidden_state", None)
        if states is None or states.shape[:2] != tokens.shape:
            return False
        logits = head(states).float()
        return logits.shape == own.shape and bool(torch.allclose(logits, own, rtol=1e-5, atol=1e-5))
