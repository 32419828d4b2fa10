"""A bigram language model of English for text readability, which tells other languages from it.

Counts: Norvig's Google Web 1T lists ("Natural Language Corpus Data", in *Beautiful Data*, 2009), read as
plain data files from the package ``wordsegment``; word frequencies of newer English words, and of other
languages to tell them by, come from ``wordfreq``. Nothing is downloaded and no model code of either package is
run.

Estimates (natural logarithm; c = count, N = tokens of the corpus):

* ``P(w) = c(w) / N``; a word without a count takes its ``wordfreq`` frequency; a word in neither takes
  Norvig's spelling estimate ``10 / (N · 10^min(len(w), 3))``.
* ``P(w|v) = c(v, w) / c(v)`` where the pair was counted, else stupid back-off ``0.4 · P(w)`` (Brants et al.,
  EMNLP 2007). At the start of a sentence v is the sentence mark.
* ``SLOR = mean[log P(w|v) − log P(w)]`` (Lau, Clark & Lappin 2017; a bigram model has one term a word).
* ``readability = mean[log P(w|v) − log max(P(w), 1/N)]``: SLOR whose reference may not fall below a word
  seen once. For counted words the two are equal. For an unknown word SLOR's two terms cancel, so letter
  noise looks harmless to it; here such a word is charged what its spelling costs beyond that floor,
  ``log 0.4 + (1 − min(len(w), 3)) · log 10`` (−5.5 nats from three letters on).
"""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.language import UNKNOWN, not_known
from vlitqc.models.word_tables import (
    LOG_FLOOR,
    NEUTRAL,
    RESERVED,
    SENTENCE_END,
    SEPARATOR,
    TEXT_END,
    UNKNOWN_WORD,
    ZIPF_UNCOMMON,
    find_rows,
    letter_pairs,
    load_counts,
    load_word_lists,
    word_hashes,
)
from vlitqc.types import ModelRef, Scale, TextLikelihood

_BACKOFF = 0.4
_LOG_BACKOFF = math.log(_BACKOFF)
# Three letters already part noise from prose (AUC 1.00 on captions); more would only charge names and typing
# errors of good text, which blurs the reading of word order (AUC real vs shuffled 0.957 at 3, 0.952 at 6).
_MAX_SPELLED = 3

# Below this many scored words the mean is decided by one bigram, and "a cat" or "2" is a good answer.
MIN_WORDS = 3

_NO_WORD = "0"
# Written with "[^\x00]" so that no match can run from one text of the batch into the next, and with bounded
# or single-pass repeats, since the text is untrusted.
_NOT_PROSE = re.compile(
    r"```[^\x00]*?```|`[^`\n\x00]{1,200}`"  # code
    r"|\$\$[^$\x00]{1,2000}\$\$|\\\([^\n\x00]{1,400}?\\\)|\\\[[^\x00]{1,2000}?\\\]|\\[a-z]{2,30}"  # LaTeX
    r"|\b(?:https?://|www\.)[^\s<>\x00]+|[\w.+-]{1,64}@[\w-]{1,64}\.[\w.-]{1,64}"  # URLs, e-mail addresses
    r"|</?[a-z_|][^<>\n\x00]{0,120}>",  # image tokens, chat marks, HTML
    re.IGNORECASE,
)
# Most texts hold nothing of the kind, and this look is ten times cheaper than the substitution.
_MAY_HOLD_NON_PROSE = re.compile(r"[`$\\<@]|://|www\.", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\]\n\x00]{0,200})\]\([^)\s\x00]{0,400}\)")
_TOKEN = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*|\d\w*|[.!?]+(?=[\s\"')\]*\x00])|\n+|\x00")
# Web 1T splits contractions; their second half is written out so that both halves are words of the model.
_CONTRACTED = {"t": "not", "re": "are", "ll": "will", "ve": "have", "m": "am", "d": "would"}
_STEMS = {"ca": "can", "wo": "will", "sha": "shall"}
# After these words "'s" is "is"; elsewhere it is mostly the possessive, which adds no word.
_IS_AFTER = frozenset(
    {"it", "that", "this", "what", "there", "he", "she", "who", "here", "where", "how", "when", "why"}
)

_SCRIPT_LANGUAGE = {
    "LATIN": "en",
    "CYRILLIC": "ru",
    "ARABIC": "ar",
    "GREEK": "el",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
}
_SCRIPTED = frozenset(_SCRIPT_LANGUAGE.values())
# Scripts whose words need a segmenter (or a frequency list) that this model does not have.
_UNSUPPORTED_SCRIPT = {
    "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko", "THAI": "th", "LAO": "lo", "KHMER": "km",
    "MYANMAR": "my", "GEORGIAN": "ka", "ARMENIAN": "hy", "ETHIOPIC": "am", "TELUGU": "te", "KANNADA": "kn",
    "MALAYALAM": "ml", "GUJARATI": "gu", "GURMUKHI": "pa", "SINHALA": "si", "ORIYA": "or", "TIBETAN": "bo",
}  # fmt: skip
# A text changes its language on a clear lead only: a few short words of random letters are common somewhere.
_MIN_SHARE, _MIN_LEAD = 0.5, 0.5
# A text of no language that has a list: few of its words are common in English, several are in no English list, yet
# letters follow each other as they do in words. The last is the mean log P of a letter after the one before. Of 126
# captions in 21 such languages 71% pass, and none of 300 strings of random letters, of which the best has -3.4.
_MAX_ENGLISH, _MIN_UNKNOWN, _MIN_LETTERS = 0.25, 0.15, -3.0
# Enough words to tell a language by; the rest of a long text would only cost time.
_LANGUAGE_WORDS = 200
# Tokens whose numbers are kept from call to call, and how long they may be; the rest is looked up again.
_MOST_TOKENS, _LONGEST_TOKEN = 1 << 17, 64
_NON_ASCII_LETTER = re.compile(r"[^\x00-\x7f\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


def _prose(text: str) -> str:
    """Lower-cased text with code, formulas, links and marks replaced by the neutral token ``0``."""
    if SEPARATOR in text:
        text = text.replace(SEPARATOR, " ")
    if "](" in text:
        text = _LINK.sub(r" \1 ", text)
    if _MAY_HOLD_NON_PROSE.search(text):
        text = _NOT_PROSE.sub(f" {_NO_WORD} ", text)
    return text.replace("\u2019", "'").lower()


def _contraction(word: str) -> list[str]:
    stem, _, tail = word.partition("'")
    if tail == "t" and stem.endswith("n"):
        base = stem[:-1]
        return [_STEMS.get(base, base) if base else stem, "not"] if stem != "can" else ["can", "not"]
    if tail == "s":
        return [stem, "is"] if stem in _IS_AFTER else [stem]
    if tail in _CONTRACTED:
        return [stem, _CONTRACTED[tail]]
    return word.split("'")


def tokenise(text: str) -> list[str]:
    """English word tokens as the model sees them: lower-cased, contractions written out.

    ``.`` marks a sentence's end and ``0`` anything that is not a word (a number, code, a link, an image
    token); neither is scored, and a word after ``0`` has no context.
    """
    return [token for token in _tokens(_prose(text) + SEPARATOR) if token != SEPARATOR]


def _tokens(prose: str) -> list[str]:
    return [word for token in _TOKEN.findall(prose) for word in _words_of(token)]


def _words_of(token: str) -> list[str]:
    """What the model sees of a token: a word, both halves of a contraction, or a mark."""
    head = token[0]
    if head.isalpha():
        return _contraction(token) if "'" in token else [token]
    if head in ".!?\n":
        return ["."]
    return [SEPARATOR if head == SEPARATOR else _NO_WORD]


class _Tokens(NamedTuple):
    """What the tables say of tokens, one row a token.

    ``id`` is the word's id; ``log_p`` log P(w) and ``reference`` log max(P(w), 1/N); ``unknown``: no list has it;
    ``is_word``: it begins with a letter; ``common``: its row among the common words of all languages.
    """

    id: NDArray[np.int64]
    log_p: NDArray[np.float64]
    reference: NDArray[np.float64]
    unknown: NDArray[np.bool_]
    is_word: NDArray[np.bool_]
    common: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> _Tokens:
        return _Tokens(
            self.id[rows],
            self.log_p[rows],
            self.reference[rows],
            self.unknown[rows],
            self.is_word[rows],
            self.common[rows],
        )


class _Lexicon:
    """The tables, and what they say of every token met so far, so that a token is looked up once.

    Values do not depend on what was met: when the tokens become too many, they are forgotten.
    """

    def __init__(self, unigrams: Path, bigrams: Path) -> None:
        self.counts = load_counts(unigrams, bigrams)
        self.lists = load_word_lists()
        self.zipf = self.lists.zipf_values()
        self.languages: list[str] = self.lists.languages.tolist()
        self._lock = threading.Lock()
        self._forget()

    def read(self, prose: Sequence[str]) -> tuple[_Tokens, NDArray[np.int64]]:
        """The tokens of all texts, and the text of each; a text begins and ends with a mark."""
        tokens: list[str] = _TOKEN.findall(SEPARATOR + SEPARATOR.join(prose) + SEPARATOR)
        with self._lock:
            numbers = np.fromiter(map(self._numbers.get, tokens, repeat(-1)), np.int64, len(tokens))
            longest = 0
            if numbers.min() < 0:
                new = list(dict.fromkeys(tokens[i] for i in np.flatnonzero(numbers < 0).tolist()))
                longest = max(map(len, new))
                self._learn(new)
                numbers = np.fromiter(map(self._numbers.__getitem__, tokens), np.int64, len(tokens))
            first, size, known = self._first, self._size, self._known
            if len(self._numbers) > _MOST_TOKENS or longest > _LONGEST_TOKEN:
                self._forget()
        # A contraction is two words, or more: row k of a token is k after its first.
        sizes = size[numbers]
        before = np.cumsum(sizes) - sizes
        rows = np.repeat(first[numbers] - before, sizes) + np.arange(int(sizes.sum()))
        found = known.take(rows)
        return found, np.cumsum(found.id == TEXT_END) - 1

    def _forget(self) -> None:
        self._numbers: dict[str, int] = {}
        self._first = np.empty(0, np.int64)
        self._size = np.empty(0, np.int64)
        self._known = self._look_up([])

    def _learn(self, new: list[str]) -> None:
        words = [_words_of(token) for token in new]
        size = np.array([len(parts) for parts in words], np.int64)
        first = len(self._known.id) + np.cumsum(size) - size
        found = self._look_up([word for parts in words for word in parts])
        self._numbers.update(zip(new, range(len(self._numbers), len(self._numbers) + len(new)), strict=True))
        self._first = np.concatenate([self._first, first])
        self._size = np.concatenate([self._size, size])
        self._known = _Tokens(
            *(np.concatenate([old, more]) for old, more in zip(self._known, found, strict=True))
        )

    def _look_up(self, words: list[str]) -> _Tokens:
        hashes = word_hashes(words)
        at, counted = find_rows(self.counts.words, hashes)
        ids = np.where(counted, self.counts.ids[at], UNKNOWN_WORD).astype(np.int64)
        log_p = self.counts.log_p[ids]
        reference = log_p.copy()
        ids[~counted & np.array([word == _NO_WORD for word in words], bool)] = NEUTRAL
        strange = np.flatnonzero(ids == UNKNOWN_WORD)
        frequency, listed = self._english(hashes[strange], [words[i] for i in strange.tolist()])
        spelled = np.array([min(len(words[i]), _MAX_SPELLED) for i in strange.tolist()], np.float64)
        log_p[strange] = np.where(listed, frequency, LOG_FLOOR + (1 - spelled) * math.log(10))
        reference[strange] = np.where(listed, frequency, LOG_FLOOR)
        unknown = np.zeros(len(words), bool)
        unknown[strange[~listed]] = True
        is_word = np.array([word[0].isalpha() for word in words], bool)
        row, is_common = find_rows(self.lists.common, hashes)
        return _Tokens(ids, log_p, reference, unknown, is_word, np.where(is_common, row + 1, 0))

    def _english(
        self, hashes: NDArray[np.uint64], words: list[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Log frequency of each word in newer English, and whether it has one; else without its accents."""
        at, listed = find_rows(self.lists.english, hashes)
        accented = [i for i, word in enumerate(words) if not (listed[i] or word.isascii())]
        if accented:
            plain = [_without_accents(words[i]) for i in accented]
            at[accented], listed[accented] = find_rows(self.lists.english, word_hashes(plain))
        return self.lists.log_frequency[at], listed


class BigramLM:
    """Text readability under counted bigrams. The constructor stores paths; ``load`` (or first use) reads.

    ``likelihood`` gives for each text ``value``, the readability of this module's formula in nats a word
    (about -5.5 to 8, higher is better; medians measured: captions 0.8, chat answers 1.1, the same words
    shuffled -0.6, letter noise -3.3 to -4), with ``slor``, ``mean_logp`` = mean log P(w|v) and
    ``oov_share``, the share of words that no word list knows. ``n_tokens`` counts the scored words: numbers,
    code, links and image tokens are not words.

    ``model`` is ``bigram:en``, or ``""`` where the text was not measured: it is too short, or in another
    language, which ``language`` names (``und``: words of one that has no list).

    Args:
        ref: what the model is.
        files: ``unigrams``, lines ``word<TAB>count``, and ``bigrams``, lines ``first second<TAB>count`` with
            ``<s>`` for a sentence's start: the two files of the package ``wordsegment``.
    """

    def __init__(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        self._ref = ref
        self._files = files
        self._lexicon: _Lexicon | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Tables do not travel between processes: each reads them in a moment, and a lock cannot.
        return {**self.__dict__, "_lexicon": None}

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    @property
    def scale(self) -> Scale:
        """Nats a word, higher is better; no bound on either side holds for every table of counts."""
        return Scale("nats per word", (-math.inf, math.inf), True)

    def load(self) -> None:
        """Read the counts and word lists (20 MB; 0.1 s, the first time on a machine seconds).

        Raises ``ModelUnavailable`` where they cannot be read.
        """
        self._loaded()

    def _loaded(self) -> _Lexicon:
        if self._lexicon is None:
            try:
                self._lexicon = _Lexicon(self._files["unigrams"], self._files["bigrams"])
            except (OSError, KeyError, ValueError, ImportError) as error:
                raise ModelUnavailable(
                    f"expected word and bigram counts, found {error!r}; "
                    "run: pip install --force-reinstall wordsegment==1.3.1 wordfreq==3.1.1"
                ) from error
        return self._lexicon

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        """One answer a text, in order; see the class and the module for the formula.

        ``value`` is None with the reason ``fewer than 3 words``, or where the text is not in English. Raises what
        :meth:`load` raises.
        """
        lexicon = self._loaded()
        if not texts:
            return []
        place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        languages = [_script_language(text) for text in place]
        prose = [_prose(text) for text in place]
        tokens, text_of = lexicon.read(prose)
        rows = self._score_english(lexicon, tokens, text_of, len(prose))
        # Web 1T holds foreign pages too ("dans le" is counted), so a good English score proves no English.
        doubtful = [
            i
            for i, (language, row) in enumerate(zip(languages, rows, strict=True))
            if language in _SCRIPTED and (language != "en" or row.value is not None)
        ]
        words = _first_words(tokens, text_of, np.array(doubtful, np.int64))
        refined = self._refine(lexicon, words, [languages[i] for i in doubtful])
        for k, (i, language) in enumerate(zip(doubtful, refined, strict=True)):
            strange = language == "en" and (rows[i].oov_share or 0.0) >= _MIN_UNKNOWN
            of_none = strange and self._no_english(lexicon, words.of(k), prose[i])
            languages[i] = UNKNOWN if of_none else language
        for i, language in enumerate(languages):
            if language != "en":
                rows[i] = _unmeasured(not_known(language, ("en",)), language)
        return [rows[place[text]] for text in texts]

    def _score_english(
        self, lexicon: _Lexicon, tokens: _Tokens, text_of: NDArray[np.int64], n_texts: int
    ) -> list[TextLikelihood]:
        counts = lexicon.counts
        ids, unknown = tokens.id, tokens.unknown
        previous = np.empty_like(ids)
        previous[0] = NEUTRAL
        previous[1:] = ids[:-1]
        previous[previous == TEXT_END] = SENTENCE_END
        at, paired = find_rows(counts.pair_keys, previous << 32 | ids)
        conditional = tokens.log_p + _LOG_BACKOFF
        # Capped at 0: a few first words have a smaller count in the one file than their pairs in the other.
        ratio = counts.pair_counts[at[paired]] / counts.counts[previous[paired]]
        conditional[paired] = np.minimum(np.log(ratio), 0.0)
        # After a number or a formula there is no context to gain from; only an unknown word is still wrong.
        scored = ((ids >= RESERVED) | (ids == UNKNOWN_WORD)) & ((previous != NEUTRAL) | unknown)
        owner = text_of[scored]

        def per_text(values: NDArray[Any]) -> list[float]:
            sums: list[float] = np.bincount(owner, weights=values[scored], minlength=n_texts)[
                :n_texts
            ].tolist()
            return sums

        return [
            TextLikelihood(value / k, None, "bigram:en", "en", k, logp / k, slor / k, oov / k)
            if k >= MIN_WORDS
            else _unmeasured(f"fewer than {MIN_WORDS} words", "en", k)
            for k, value, logp, slor, oov in zip(
                np.bincount(owner, minlength=n_texts)[:n_texts].tolist(),
                per_text(conditional - tokens.reference),
                per_text(conditional),
                per_text(conditional - tokens.log_p),
                per_text(unknown),
                strict=True,
            )
        ]

    def _refine(self, lexicon: _Lexicon, words: _FirstWords, languages: list[str]) -> list[str]:
        """Each text's language by the mean Zipf value of its words, among those that have a word list.

        Near relatives (Swedish and Norwegian, Indonesian and Malay) can be taken for each other. The mean
        Zipf value is a naive Bayes likelihood (log10 P a word). The given language stays unless another one
        leads by ``_MIN_LEAD`` and lists at least ``_MIN_SHARE`` of the words.
        """
        out = list(languages)
        long = np.flatnonzero(words.size >= MIN_WORDS)
        if not len(long):
            return out
        # Word by word of all texts at once, the longest first, so that those with a word k are the first ones.
        long = long[np.argsort(-words.size[long], kind="stable")]
        size, start = words.size[long], words.start[long]
        means = np.zeros((len(long), len(lexicon.languages)), np.float32)
        for k, with_word in enumerate(np.searchsorted(-size, -np.arange(int(size[0]))).tolist()):
            means[:with_word] += lexicon.zipf[words.common[start[:with_word] + k]]
        np.true_divide(means, size[:, None], out=means, casting="unsafe")
        column = {language: k for k, language in enumerate(lexicon.languages)}
        given = np.array([column[languages[i]] for i in long.tolist()])
        best = means.argmax(axis=1)
        row = np.arange(len(long))
        lead = means[row, best] - means[row, given]
        for i in np.flatnonzero(lead >= _MIN_LEAD).tolist():
            values = lexicon.zipf[words.of(int(long[i])), best[i]]
            if (values > ZIPF_UNCOMMON).mean() >= _MIN_SHARE:
                out[long[i]] = lexicon.languages[best[i]]
        return out

    def _no_english(self, lexicon: _Lexicon, common: NDArray[np.int64], prose: str) -> bool:
        """Whether a text that no list claims is made of words of some other language, not of letter noise.

        ``common`` are the rows of its words among the common ones.
        """
        english = lexicon.zipf[common, lexicon.languages.index("en")]
        if not len(english) or (english > ZIPF_UNCOMMON).mean() > _MAX_ENGLISH:
            return False
        pairs = letter_pairs([word for word in _tokens(prose) if word[0].isalpha()][:_LANGUAGE_WORDS])
        letters = lexicon.lists.letters
        return bool(len(pairs)) and letters[pairs[:, 0], pairs[:, 1]].mean() >= _MIN_LETTERS


class _FirstWords(NamedTuple):
    """The first words of some texts as rows among the common words: text k has ``size[k]`` from ``start[k]`` on."""

    common: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def of(self, k: int) -> NDArray[np.int64]:
        return self.common[self.start[k] : self.start[k] + self.size[k]]


def _first_words(tokens: _Tokens, text_of: NDArray[np.int64], texts: NDArray[np.int64]) -> _FirstWords:
    owner = text_of[tokens.is_word]
    start = np.searchsorted(owner, texts)
    size = np.minimum(np.searchsorted(owner, texts, side="right") - start, _LANGUAGE_WORDS)
    return _FirstWords(tokens.common[tokens.is_word], start, size)


def _unmeasured(reason: str, language: str, n_tokens: int = 0) -> TextLikelihood:
    return TextLikelihood(None, reason, "", language, n_tokens, None, None, None)


def _without_accents(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "LATIN").partition(" ")[0]


def _script_language(text: str) -> str:
    """The language that the script of most letters stands for; ``en`` where there is no letter."""
    if text.isascii():
        return "en"
    letters = _NON_ASCII_LETTER.findall(text)
    if not letters:
        return "en"
    scripts: dict[str, int] = {}
    for letter, count in Counter(letters[:500]).items():
        scripts[_script(letter)] = scripts.get(_script(letter), 0) + count
    # Ideographs and Hangul carry about as much as three Latin letters; without the weight a Chinese text with
    # a few English terms would count as English.
    weight = {name: count * (3 if name in ("CJK", "HANGUL") else 1) for name, count in scripts.items()}
    if len(letters) > 500:
        weight = {name: value * len(letters) // 500 for name, value in weight.items()}
    weight["LATIN"] = len(_LATIN.findall(text))
    if weight.get("HIRAGANA", 0) + weight.get("KATAKANA", 0) > 0.1 * weight.get("CJK", 0) > 0:
        weight["HIRAGANA"] = weight.get("HIRAGANA", 0) + weight.pop("CJK")
    best = max(weight, key=lambda name: weight[name])
    return _SCRIPT_LANGUAGE.get(best) or _UNSUPPORTED_SCRIPT.get(best, "und")
