"""The bigram model: hand-worked counts, its decisions on awkward text, and its validity on real counts."""

from __future__ import annotations

import math
import random
import string
from importlib.util import find_spec
from pathlib import Path

import pytest

from vlitqc.errors import ModelUnavailable
from vlitqc.language import LANGUAGES
from vlitqc.models.ngram_lm import MIN_WORDS, BigramLM, tokenise
from vlitqc.types import ModelRef, Scale, TextLikelihood
from vlitqc_metrics.text_readability import TextReadability

REF = ModelRef("LanguageModel", "web1t-bigrams", "1.3.1", "0" * 64)
N = 1_024_908_267_229.0
PROSE = [
    "A brown dog runs along the beach with a stick in its mouth.",
    "Two men are sitting on a bench in front of a large building.",
    "The woman is wearing a red hat and holding a small child in her arms.",
    "There are several people standing around a table with food on it.",
    "The image shows a man riding a bicycle down a busy city street.",
    "A group of children are playing football in the park near the river.",
    "First, heat the oil in a pan and add the onions. Then cook for ten minutes.",
    "You can use the data to find out how many people live in each city.",
    "The bus is parked on the side of the road next to a tall tree.",
    "She is looking out of the window at the boats on the water.",
]


@pytest.fixture(scope="module")
def model() -> BigramLM:
    spec = find_spec("wordsegment")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    return BigramLM(REF, {"unigrams": folder / "unigrams.txt", "bigrams": folder / "bigrams.txt"})


@pytest.fixture
def toy(tmp_path: Path) -> BigramLM:
    unigrams, bigrams = tmp_path / "u.txt", tmp_path / "b.txt"
    unigrams.write_text("the\t1000\nred\t100\ncar\t50\nstops\t20\n")
    bigrams.write_text("<s> the\t30\n<s> red\t10\nthe red\t40\nthe red\t10\nred car\t25\nunheard car\t9\n")
    return BigramLM(REF, {"unigrams": unigrams, "bigrams": bigrams})


def one(model: BigramLM, text: str) -> TextLikelihood:
    return model.likelihood([text])[0]


def value(model: BigramLM, text: str) -> float:
    found = one(model, text).value
    assert found is not None
    return found


def auc(high: list[float], low: list[float]) -> float:
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low))


def shuffled(text: str, rng: random.Random) -> str:
    words = [word for word in tokenise(text) if word.isalpha()]
    rng.shuffle(words)
    return " ".join(words)


def letters(text: str, rng: random.Random) -> str:
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=len(w))) for w in text.split())


def test_hand_worked_scores(toy: BigramLM) -> None:
    found = one(toy, "The red car stops.")
    # P(the|<s>) = 30/40, P(red|the) = (40+10)/1000, P(car|red) = 25/100, P(stops|car) backs off.
    conditional = [math.log(30 / 40), math.log(0.05), math.log(0.25), math.log(0.4 * 20 / N)]
    alone = [math.log(c / N) for c in (1000, 100, 50, 20)]
    slor = sum(a - b for a, b in zip(conditional, alone, strict=True)) / 4
    assert found.n_tokens == 4
    assert found.mean_logp == pytest.approx(sum(conditional) / 4)
    assert found.slor == pytest.approx(slor)
    assert found.value == pytest.approx(slor)
    assert (found.model, found.language, found.oov_share, found.reason) == ("bigram:en", "en", 0.0, None)


def test_an_unknown_word_is_charged_its_spelling_once_slor_cancels(toy: BigramLM) -> None:
    charge = math.log(0.4) + (1 - 3) * math.log(10)
    found = one(toy, "qzxkv qqqzzzxxx zzkkjj")
    assert found.oov_share == 1.0
    assert found.slor == pytest.approx(math.log(0.4))
    assert found.value == pytest.approx(charge)
    assert found.mean_logp == pytest.approx(math.log(0.4) + math.log(10 / (N * 10**3)))


def test_a_newer_word_takes_its_frequency_from_wordfreq(toy: BigramLM) -> None:
    found = one(toy, "the red selfie")
    assert found.oov_share == 0.0
    assert found.value == found.slor


def test_the_scale_is_nats_a_word(toy: BigramLM) -> None:
    assert toy.scale == Scale("nats per word", (-math.inf, math.inf), True)
    assert TextReadability(toy).spec == TextReadability.spec


def test_each_text_is_scored_by_itself_and_in_order(model: BigramLM) -> None:
    together = model.likelihood(PROSE)
    alone = [one(model, text) for text in reversed(PROSE)][::-1]
    for a, b in zip(together, alone, strict=True):
        assert a.value == pytest.approx(b.value)
        assert a.n_tokens == b.n_tokens
    assert model.likelihood([]) == []


@pytest.mark.parametrize(
    "text", ["", "yes", "2", "a cat", "<image>", "```python\nprint('a b c d')\n```", "?!", "12 + 4"]
)
def test_short_answers_are_unmeasured_not_bad(model: BigramLM, text: str) -> None:
    found = one(model, text)
    assert found.value is None and found.mean_logp is None and found.slor is None and found.model == ""
    assert found.reason == f"fewer than {MIN_WORDS} words"


def test_three_words_are_enough(model: BigramLM) -> None:
    assert one(model, "on the table").n_tokens == 3
    assert value(model, "on the table") > 0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "The dog's ball isn't here; it's gone!",
            ["the", "dog", "ball", "is", "not", "here", "it", "is", "gone", "."],
        ),
        ("I can't, won't, don\u2019t", ["i", "can", "not", "will", "not", "do", "not"]),
        ("3 cats and 2.5 kg", ["0", "cats", "and", "0", "0", "kg"]),
        ("<image>\n**Bold** text", ["0", ".", "bold", "text"]),
        ("See https://a.org/b_c?d=e now", ["see", "0", "now"]),
        ("mail me@site.org today", ["mail", "0", "today"]),
        ("![a red car](img/x.png) runs", ["a", "red", "car", "runs"]),
        ("Call `f(x)` and \\frac{a}{b}", ["call", "0", "and", "0", "a", "b"]),
        ("light-colored café snake_case", ["light", "colored", "café", "snake", "case"]),
        ("e.g. one. Two", ["e", "g", ".", "one", ".", "two"]),
        ("a\x00b", ["a", "b"]),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenise(text) == tokens


def test_numbers_and_code_cost_nothing(model: BigramLM) -> None:
    plain = value(model, "the man is on the street")
    assert value(model, "the man is on the street `x_y(z)` <image>") == pytest.approx(plain)
    assert value(model, "the man is on the street 1999") == pytest.approx(plain)


def test_prose_is_told_from_shuffles_and_from_letter_noise(model: BigramLM) -> None:
    rng = random.Random(0)
    real = [value(model, text) for text in PROSE]
    salad = [value(model, shuffled(text, rng)) for text in PROSE for _ in range(10)]
    noise = [value(model, letters(text, rng)) for text in PROSE for _ in range(10)]
    assert auc(real, salad) >= 0.95
    assert auc(real, noise) >= 0.99
    assert auc(salad, noise) >= 0.95


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("de", "Ein Mann mit einem roten Hut sitzt auf einer Bank im Park."),
        ("fr", "Un homme avec un chapeau rouge est assis sur un banc dans le parc."),
        ("es", "¿De qué color es el coche que aparece en la imagen?"),
        ("ru", "Мужчина в красной шляпе сидит на скамейке в парке."),
        ("uk", "Чоловік у червоному капелюсі сидить на лавці в парку."),
        ("hi", "लाल टोपी पहने एक आदमी पार्क में बेंच पर बैठा है"),
        ("tr", "Kırmızı şapkalı bir adam parkta bir bankta oturuyor."),
        ("zh", "一个戴红帽子的男人坐在公园的长椅上。"),
        ("zh", "图片里的 Python code 是什么意思？"),
        ("ja", "赤い帽子をかぶった男性が公園のベンチに座っています。"),
        ("ko", "빨간 모자를 쓴 남자가 공원 벤치에 앉아 있습니다."),
        ("th", "ชายสวมหมวกแดงนั่งอยู่บนม้านั่งในสวนสาธารณะ"),
    ],
)
def test_another_language_is_null_with_its_reason(model: BigramLM, language: str, text: str) -> None:
    found = one(model, text)
    assert (found.value, found.language, found.model) == (None, language, "")
    assert found.reason == f"English-only model; the text is in {LANGUAGES[language]} ({language})"


def test_a_foreign_word_does_not_make_a_text_foreign(model: BigramLM) -> None:
    assert one(model, "A café serving crème brûlée and jalapeño burgers with 饺子.").language == "en"


def test_hostile_text_stays_cheap(model: BigramLM) -> None:
    text = (
        "<" * 20_000
        + "[x" * 10_000
        + "`" * 19_999
        + "$$" * 10_001
        + "a@" * 10_000
        + "\\(" * 10_000
        + "a" * 50_000
    )
    assert isinstance(one(model, text), TextLikelihood)


def test_nothing_is_read_before_use_and_a_missing_file_says_so(tmp_path: Path) -> None:
    broken = BigramLM(REF, {"unigrams": tmp_path / "no.txt", "bigrams": tmp_path / "no.txt"})
    assert broken.ref is REF
    with pytest.raises(ModelUnavailable, match="pip install"):
        broken.likelihood(["a b c"])


def test_files_without_a_counted_pair_are_refused(tmp_path: Path) -> None:
    unigrams, bigrams = tmp_path / "u.txt", tmp_path / "b.txt"
    unigrams.write_text("the\t10\n")
    bigrams.write_text("un known\t3\n")
    with pytest.raises(ModelUnavailable, match="no pair"):
        BigramLM(REF, {"unigrams": unigrams, "bigrams": bigrams}).load()
