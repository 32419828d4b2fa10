"""Languages: what is told apart, and what a model that knows only some of them says of the others."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import wordsegment
from PIL import Image as Pillow

import vlitqc
from vlitqc.language import LANGUAGES, UNKNOWN, language_name, not_known
from vlitqc.models import ngram_lm, word_tables
from vlitqc.models.ngram_lm import BigramLM
from vlitqc.testing import MemoryFeatures
from vlitqc.types import Batch, Features, FloatArray, ModelRef, Origin, Sample, Tag, Turn
from vlitqc_metrics._algorithms.languages import KnownLanguages, turn_languages
from vlitqc_metrics.composition import Composition
from vlitqc_metrics.response_diversity import ResponseDiversity
from vlitqc_metrics.task_diversity import TaskDiversity
from vlitqc_metrics.text_readability import TextReadability

SENTENCES = [
    tuple(line.split("\t"))
    for line in (Path(__file__).parent / "data" / "languages.tsv")
    .read_text(encoding="utf-8")
    .splitlines()[1:]
]
UNLISTED = [
    "Mtu anatembea barabarani na mbwa wake.",  # Swahili
    "Kuna watoto wangapi katika picha hii?",
    "Nin ayaa eygiisa la socda waddada.",  # Somali
    "Immisa carruur ah ayaa sawirka ku jira?",
    "Gizon bat kalean dabil bere txakurrarekin.",  # Basque
    "Zenbat haur daude irudi honetan?",
    "Një burrë po ecën në rrugë me qenin e tij.",  # Albanian
    "Përshkruaje foton me hollësi.",
    "Mees jalutab tänaval oma koeraga.",  # Estonian
    "Punane auto seisab maja ees.",
    "Indoda ihamba emgwaqweni nenja yayo.",  # Zulu
    "Abesifazane ababili bathengisa izithelo emakethe.",
    "Kucing ireng turu ing dhuwur meja.",  # Javanese
    "Jlentrehna gambar iki kanthi rinci.",
    "Qora mushuk stol ustida uxlayapti.",  # Uzbek
    "Ikki ayol bozorda meva sotmoqda.",
    "Wani mutum yana tafiya a titi tare da karensa.",  # Hausa
    "Bakar kyanwa tana barci a kan tebur.",
    "Liang ge nüren zai shichang mai shuiguo.",  # Chinese in Latin letters
    "Do auratein bazaar mein phal bech rahi hain.",  # Hindi in Latin letters
]
MALAY = "English-only model; the text is in Malay (ms)"


@pytest.fixture(scope="module")
def model() -> BigramLM:
    folder = Path(wordsegment.__file__).parent
    files = {"unigrams": folder / "unigrams.txt", "bigrams": folder / "bigrams.txt"}
    return BigramLM(ModelRef("LanguageModel", "bigrams", "1", "0" * 64), files)


def of(language: str) -> list[str]:
    return [text for code, text in SENTENCES if code == language]


def sample(*turns: tuple[str, str], id: str = "a") -> Sample:
    return Sample(id, tuple(Turn(*turn) for turn in turns), (), {}, Origin("f.json", 0, 1, 0, 1, ""))


def batch(*samples: Sample) -> Batch:
    return Batch(samples, [[] for _ in samples])


class Hashed:
    """An encoder that gives every text a direction of its own."""

    ref = ModelRef("TextEncoder", "hashed", "1", "0" * 64)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        rows = [np.random.default_rng(list(text.encode())).normal(size=8) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


class OneTask:
    ref = ModelRef("Tagger", "one", "1", "0" * 64)

    def propose(self, instructions: Sequence[str], n_images: Sequence[int]) -> list[str]:
        return ["count"] * len(instructions)

    def settle(self, proposals: Sequence[str]) -> list[Tag]:
        return [Tag(task) for task in proposals]


# ---------------------------------------------------------------- detection


class TestDetection:
    def test_short_instructions(self, model: BigramLM) -> None:
        found = [text.language for text in model.likelihood([text for _, text in SENTENCES])]
        pairs = Counter((code, got) for (code, _), got in zip(SENTENCES, found, strict=True) if code != got)
        assert {code for code, n in Counter(code for code, _ in SENTENCES).items() if n < 12} == set()
        assert sum(pairs.values()) <= 0.05 * len(SENTENCES)
        # Malay and Indonesian share whole sentences; nothing else of the set is mistaken for a language but English.
        assert {pair for pair in pairs if pair[1] != "en"} <= {("ms", "id"), ("id", "ms")}
        assert not any("en" in pair for pair in pairs if pair[0] in ("en", "ms", "id"))
        assert sum(n for pair, n in pairs.items() if pair[0] == "ms") <= 3

    def test_every_language_that_is_told_has_a_name(self) -> None:
        told = {*word_tables.load_word_lists().languages.tolist(), *ngram_lm._UNSUPPORTED_SCRIPT.values()}
        assert told | set(ngram_lm._SCRIPT_LANGUAGE.values()) == set(LANGUAGES)

    def test_words_of_one_or_two_take_the_other_side_s_language(self, model: BigramLM) -> None:
        turns = [("Adakah kucing itu di atas meja?", "Ya."), ("Is the cat there?", "Yes."), ("12", "Ya.")]
        assert turn_languages(batch(sample(*turns)), model) == [("ms", "ms"), ("en", "en"), ("en", "en")]

    def test_a_text_in_a_language_without_a_list_is_no_english(self, model: BigramLM) -> None:
        found = model.likelihood(UNLISTED)
        assert [text.language for text in found].count(UNKNOWN) >= 0.7 * len(UNLISTED)
        assert not any(text.value is not None and text.value > 0 for text in found)

    def test_letter_noise_stays_english_that_reads_badly(self, model: BigramLM) -> None:
        rng = random.Random(1)
        strings = [
            " ".join("".join(rng.choices(keys, k=rng.randint(2, 9))) for _ in range(rng.randint(3, 14)))
            for keys in (string.ascii_lowercase, "asdfghjkl")
            for _ in range(100)
        ]
        assert {text.language for text in model.likelihood(strings)} == {"en"}
        shuffled = ["beach the along a runs dog", "of front in building a bench large on two men"]
        assert [text.language for text in model.likelihood(shuffled)] == ["en", "en"]

    @pytest.mark.parametrize("short", ["Cawan, pinggan, sudu", "Motosikal dan basikal", "Sebiji epal merah"])
    def test_short_malay_is_malay_beside_malay(self, model: BigramLM, short: str) -> None:
        asked = "Apakah yang boleh dilihat dalam gambar ini?"
        turns = batch(sample((asked, short)))
        assert turn_languages(turns, model) == [("ms", "ms")]
        (score,) = TextReadability(model).score(turns)
        assert (score.value, score.reason) == (None, MALAY)
        (alone,) = model.likelihood([short])
        assert (alone.value, alone.language) == (None, UNKNOWN)

    def test_sound_english_stays_english_beside_malay(self, model: BigramLM) -> None:
        turns = batch(sample(("Describe the image.", "Seekor kucing duduk di atas meja kayu di dapur itu.")))
        assert turn_languages(turns, model) == [("en", "ms")]

    def test_a_record_is_malay_or_indonesian_and_not_both(self, model: BigramLM) -> None:
        malay, doubtful = (
            "Seorang budak lelaki sedang menunggang basikal di jalan raya.",
            "Kucing sedang tidur",
        )
        assert [text.language for text in model.likelihood([malay, doubtful])] == ["ms", "id"]
        turns = batch(sample((doubtful, malay)), sample(("What is this?", malay), (doubtful, "12")))
        assert turn_languages(turns, model) == [("ms", "ms"), ("en", "ms"), ("ms", "ms")]


# ---------------------------------------------------------------- what is not known


def test_the_words() -> None:
    assert not_known("ms", ("en",)) == MALAY
    assert not_known("fr", ("de", "en")) == "model of German, English only; the text is in French (fr)"
    assert language_name("und") == "an unknown language (und)"


class TestMetrics:
    EN, MS = ("What color is the car?", "The car is red and new."), tuple(of("ms")[4:6])

    def test_a_mixed_conversation_is_scored_on_its_english_turns(self, model: BigramLM) -> None:
        both, english, malay = TextReadability(model).score(
            batch(sample(self.EN, self.MS), sample(self.EN), sample(self.MS))
        )
        assert both == english
        assert both.value is not None
        assert (malay.value, malay.fault) == (None, False)
        assert str(malay.reason).startswith("English-only model; the text is in ")

    def test_a_data_set_metric_leaves_the_others_out_and_says_so(self, model: BigramLM) -> None:
        samples = [
            sample(self.EN, id="en"),
            sample(("Terangkan gambar ini.", of("ms")[10]), id="ms"),
            sample(),
        ]
        for metric, n in (
            (ResponseDiversity(Hashed(), min_samples=1, language_model=model), 1),
            (TaskDiversity(OneTask(), at_least=1, language_model=model), 1),
            (ResponseDiversity(Hashed(), min_samples=1, language_model=model, languages="any"), 2),
            (TaskDiversity(OneTask(), at_least=1), 2),
        ):
            score = metric.resolve(MemoryFeatures.collect(metric, [batch(*samples[:2]), batch(samples[2])]))
            assert score.n_scored == n
            assert ("left_out_languages" in score.details) == (n == 1)
            if n == 1:
                assert score.details["left_out_languages"] == {"Malay (ms)": 1}
                # Each sample has its own reason, not the run's most frequent one.
                nothing = "no response" if isinstance(metric, ResponseDiversity) else "no instruction"
                assert list(score.missing)[1:] == [MALAY, nothing]

    def test_a_data_set_without_english_has_a_reason(self, model: BigramLM) -> None:
        texts = batch(*(sample((text, text)) for text in of("ms")[7:10]))
        for metric in (
            ResponseDiversity(Hashed(), language_model=model),
            TaskDiversity(OneTask(), language_model=model),
        ):
            score = metric.resolve(MemoryFeatures.collect(metric, [texts]))
            assert (score.value, score.reason) == (None, MALAY)

    def test_a_sample_that_lacks_a_feature_shifts_no_other(self, model: BigramLM) -> None:
        known = KnownLanguages(model, ["en"])
        texts = batch(sample(("x", "A red car.")), sample(("x", of("ms")[10])))
        (name, whole), *_ = known.features(texts, "response", spoken=True).items()
        # The first sample's languages are lost: two texts, and one row that tells of them.
        store = MemoryFeatures(texts.samples, {name: Features(list(whole.values)[1:], whole.index[1:])})
        assert known.left_out(store, "response", np.array([0, 1])).rows.tolist() == [False, True]

    def test_languages_by_turn_in_the_composition(self, model: BigramLM) -> None:
        metric = Composition(model)
        store = MemoryFeatures.collect(metric, [batch(sample(self.EN, self.MS, self.MS))])
        assert metric.resolve(store).details["languages"] == {"ms": 2, "en": 1}


# ---------------------------------------------------------------- end to end


def test_half_english_and_half_malay_with_the_lite_profile(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = []
    for language in ("en", "ms"):
        texts = of(language)
        for i in range(10):
            name = f"{language}{i}.png"
            Pillow.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / name)
            asked = {"from": "human", "value": f"<image>\n{texts[i]}"}
            records.append(
                {"id": name, "image": name, "conversations": [asked, {"from": "gpt", "value": texts[10 + i]}]}
            )
    (tmp_path / "data.json").write_text(json.dumps(records))
    names = ["text_readability", "matching_degree", "task_diversity", "response_diversity", "composition"]
    run = vlitqc.score(tmp_path / "data.json", "lite", metrics=names, report=False)
    metrics = run.metrics()
    assert metrics["composition"]["details"]["languages"] == {"en": 10, "ms": 10}
    for name in ("text_readability", "matching_degree"):
        assert metrics[name]["n_scored"] == 10
        assert metrics[name]["reasons"] == {MALAY: 10}
        assert run.scores.loc[run.scores["id"].str.startswith("en"), name].notna().all()
    assert metrics["task_diversity"]["n_scored"] == 10
    assert sum(metrics["task_diversity"]["details"]["left_out_languages"].values()) == 10
    assert metrics["response_diversity"]["details"]["left_out_languages"] == {"Malay (ms)": 10}
    malay = run.scores[run.scores["id"].str.startswith("ms")]
    assert malay["task_reason"].str.endswith(MALAY).all()
