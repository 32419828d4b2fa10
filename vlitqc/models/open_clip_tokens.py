"""Tokenizers of open_clip's models: how many tokens a text has, and the rows that the network reads."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

# What is remembered of words by open_clip's tokenizer, and of texts by ours: longer texts are not.
WORDS_REMEMBERED = 1 << 18
TEXTS_REMEMBERED = 1 << 14
LONGEST_REMEMBERED = 1000


class Tokens(Protocol):
    """A model's tokenizer. ``room`` is how many tokens of text fit beside the marks that it adds."""

    room: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without marks."""
        ...

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """``int64[n, context]``, as open_clip's tokenizer gives them."""
        ...


class BytePairs:
    """open_clip's own tokenizer. Marks that a text spells out are left out: they would end it for the model."""

    def __init__(self, context: int, kwargs: Mapping[str, Any]) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        self._tokenizer = SimpleTokenizer(context_length=context, **kwargs)
        self._marks = set(self._tokenizer.all_special_ids)
        self._known_words = dict(self._tokenizer.cache)
        self._context = context
        self.room = context - 2
        # A sentence is counted when it is cut and encoded a moment later.
        self._remembered = lru_cache(TEXTS_REMEMBERED)(self._encode)

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without marks."""
        return [len(self._ids(text)) for text in texts]

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """``int64[n, context]``; each text has at most ``room`` tokens."""
        import torch

        rows = np.zeros((len(texts), self._context), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = self._ids(text)
            row[: len(ids) + 2] = [self._tokenizer.sot_token_id, *ids, self._tokenizer.eot_token_id]
        return torch.from_numpy(rows)

    def _ids(self, text: str) -> tuple[int, ...]:
        return (self._remembered if len(text) <= LONGEST_REMEMBERED else self._encode)(text)

    def _encode(self, text: str) -> tuple[int, ...]:
        if len(self._tokenizer.cache) > WORDS_REMEMBERED:
            self._tokenizer.cache = dict(self._known_words)
        return tuple(i for i in self._tokenizer.encode(text) if i not in self._marks)


class HubTokens:
    """A tokenizer of transformers, wrapped by open_clip, from a local folder."""

    def __init__(self, folder: Path, context: int, mode: str | None, kwargs: Mapping[str, Any]) -> None:
        from open_clip.tokenizer import HFTokenizer

        # The folder's settings are not trusted: they may ask for code, or for a hub.
        safe = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = HFTokenizer(
            str(folder), context_length=context, tokenizer_mode=mode, **{**kwargs, **safe}
        )
        self._lock = threading.Lock()
        marks = 3 if mode == "clips" else len(self._ids([""], marks=True)[0])
        self.room = context - marks
        if self.room < 1:
            raise ValueError(f"a context of {context} tokens has no room for text beside {marks} marks")

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without marks."""
        return [len(ids) for ids in self._ids(texts)] if texts else []

    def rows(self, texts: Sequence[str]) -> torch.Tensor:
        """``int64[n, context]``; each text has at most ``room`` tokens."""
        with self._lock:  # a tokenizer keeps its truncation and padding between calls
            rows: torch.Tensor = self._tokenizer(list(texts))
        return rows

    def _ids(self, texts: Sequence[str], *, marks: bool = False) -> list[list[int]]:
        cleaned = [self._tokenizer.clean_fn(text) for text in texts]
        with self._lock:
            found: list[list[int]] = self._tokenizer.tokenizer(
                cleaned, add_special_tokens=marks, padding=False, truncation=False, verbose=False
            )["input_ids"]
        return found
