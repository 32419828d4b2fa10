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
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.language import UNKNOWN, not_known
from vlitqc.types import ModelRef, Scale, TextLikelihood

# Tokens in the Web 1T corpus; the files hold its most frequent words only, so their sum is smaller.
_CORPUS_TOKENS = 1_024_908_267_229.0
_BACKOFF = 0.4
_LOG_BACKOFF = math.log(_BACKOFF)
_LOG_FLOOR = -math.log(_CORPUS_TOKENS)
# Three letters already part noise from prose (AUC 1.00 on captions); more would only charge names and typing
# errors of good text, which blurs the reading of word order (AUC real vs shuffled 0.957 at 3, 0.952 at 6).
_MAX_SPELLED = 3

# Below this many scored words the mean is decided by one bigram, and "a cat" or "2" is a good answer.
MIN_WORDS = 3

_TEXT_END, _SENTENCE_END, _NEUTRAL, _UNKNOWN = 0, 1, 2, 3
_RESERVED = 4
_SEPARATOR = "\x00"
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
_NO_WORDFREQ_TOKENS = frozenset({"zh", "ja", "ko"})
_COMMON_WORDS = 2000
# Zipf value (log10 of the count in 10^9 words) lent to a word outside a language's common words: about a
# tenth of the rarest of them.
_ZIPF_UNCOMMON = 3.0
# A text changes its language on a clear lead only: a few short words of random letters are common somewhere.
_MIN_SHARE, _MIN_LEAD = 0.5, 0.5
# A text of no language that has a list: few of its words are common in English, several are in no English list, yet
# letters follow each other as they do in words. The last is the mean log P of a letter after the one before. Of 126
# captions in 21 such languages 71% pass, and none of 300 strings of random letters, of which the best has -3.4.
_MAX_ENGLISH, _MIN_UNKNOWN, _MIN_LETTERS = 0.25, 0.15, -3.0
# Enough words to tell a language by; the rest of a long text would only cost time.
_LANGUAGE_WORDS = 200
# Their lists hold loan words in Latin letters, which must not make an English text Hindi.
_NON_LATIN = frozenset({"ar", "bg", "bn", "el", "fa", "he", "hi", "mk", "ru", "ta", "uk", "ur"})
_NON_ASCII_LETTER = re.compile(r"[^\x00-\x7f\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


@dataclass(frozen=True, slots=True)
class _Tables:
    ids: dict[str, int]
    log_p: NDArray[np.float64]
    counts: NDArray[np.float64]
    pair_keys: NDArray[np.int64]
    pair_counts: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _CommonWords:
    languages: tuple[str, ...]
    rows: dict[str, int]
    zipf: NDArray[np.float32]
    letters: NDArray[np.float64]


def _read_tables(unigrams: Path, bigrams: Path) -> _Tables:
    fields = unigrams.read_text(encoding="utf-8").split()
    ids = {".": _SENTENCE_END, "\n": _SENTENCE_END, _SEPARATOR: _TEXT_END}
    # The mark of a sentence's start has no unigram count in the file; its pairs' sum stands in below.
    words = fields[0::2]
    ids.update(zip(words, range(_RESERVED, _RESERVED + len(words)), strict=True))
    counts = np.zeros(_RESERVED + len(words))
    counts[_RESERVED:] = np.array(fields[1::2], dtype=np.float64)

    fields = bigrams.read_text(encoding="utf-8").split()
    marks = {**ids, "<s>": _SENTENCE_END}
    n_pairs = len(fields) // 3
    first = np.fromiter(map(marks.get, fields[0::3], repeat(-1)), np.int64, n_pairs)
    second = np.fromiter(map(ids.get, fields[1::3], repeat(-1)), np.int64, n_pairs)
    weight = np.array(fields[2::3], dtype=np.float64)
    known = (first >= 0) & (second >= _RESERVED)
    if not known.any():
        raise ValueError("no pair of counted words")
    first, second, weight = first[known], second[known], weight[known]
    # Lower-casing left some pairs twice in the file; their counts belong together.
    keys, where = np.unique(first << 32 | second, return_inverse=True)
    pair_counts = np.bincount(where, weights=weight).astype(np.float64)
    counts[_SENTENCE_END] = weight[first == _SENTENCE_END].sum()

    log_p = np.full(len(counts), _LOG_FLOOR)
    log_p[_RESERVED:] = np.log(counts[_RESERVED:] / _CORPUS_TOKENS)
    return _Tables(ids, log_p, counts, keys, pair_counts)


def _prose(text: str) -> str:
    """Lower-cased text with code, formulas, links and marks replaced by the neutral token ``0``."""
    if _SEPARATOR in text:
        text = text.replace(_SEPARATOR, " ")
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
    return [token for token in _tokens(_prose(text) + _SEPARATOR) if token != _SEPARATOR]


def _tokens(prose: str) -> list[str]:
    tokens: list[str] = _TOKEN.findall(prose)
    out: list[str] = []
    append = out.append
    for token in tokens:
        head = token[0]
        if head.isalpha():
            if "'" in token:
                out.extend(_contraction(token))
            else:
                append(token)
        elif head in ".!?\n":
            append(".")
        elif head == _SEPARATOR:
            append(_SEPARATOR)
        else:
            append(_NO_WORD)
    return out


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
        self._tables: _Tables | None = None
        self._common: _CommonWords | None = None

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    @property
    def scale(self) -> Scale:
        """Nats a word, higher is better; no bound on either side holds for every table of counts."""
        return Scale("nats per word", (-math.inf, math.inf), True)

    def load(self) -> None:
        """Read the counts (about 0.4 s, 165 MB). Raises ``ModelUnavailable`` where they cannot be read."""
        if self._tables is None:
            try:
                self._tables = _read_tables(self._files["unigrams"], self._files["bigrams"])
            except (OSError, KeyError, ValueError) as error:
                raise ModelUnavailable(
                    f"expected word and bigram counts, found {error!r}; "
                    "run: pip install --force-reinstall wordsegment==1.3.1"
                ) from error

    def likelihood(self, texts: Sequence[str]) -> list[TextLikelihood]:
        """One answer a text, in order; see the class and the module for the formula.

        ``value`` is None with the reason ``fewer than 3 words``, or where the text is not in English. Raises what
        :meth:`load` raises.
        """
        self.load()
        languages = [_script_language(text) for text in texts]
        prose = [_prose(text) for text in texts]
        rows = self._score_english(prose)
        # Web 1T holds foreign pages too ("dans le" is counted), so a good English score proves no English.
        doubtful = [
            i
            for i, (language, row) in enumerate(zip(languages, rows, strict=True))
            if language in _SCRIPTED and (language != "en" or row.value is not None)
        ]
        refined = self._refine([prose[i] for i in doubtful], [languages[i] for i in doubtful])
        for i, language in zip(doubtful, refined, strict=True):
            strange = language == "en" and (rows[i].oov_share or 0.0) >= _MIN_UNKNOWN
            languages[i] = UNKNOWN if strange and self._no_english(prose[i]) else language
        for i, language in enumerate(languages):
            if language != "en":
                rows[i] = _unmeasured(not_known(language, ("en",)), language)
        return rows

    def _score_english(self, prose: list[str]) -> list[TextLikelihood]:
        tables = self._tables
        if tables is None:
            raise RuntimeError("expected loaded counts, got none; call load() first")
        if not prose:
            return []
        tokens = _tokens(_SEPARATOR + _SEPARATOR.join(prose) + _SEPARATOR)
        ids = np.fromiter(map(tables.ids.get, tokens, repeat(_UNKNOWN)), np.int64, len(tokens))
        log_p = tables.log_p[ids]
        reference = log_p.copy()
        unknown = np.zeros(len(tokens), dtype=bool)
        for i in np.flatnonzero(ids == _UNKNOWN).tolist():
            token = tokens[i]
            if token == _NO_WORD:
                ids[i] = _NEUTRAL
                continue
            frequency = _english_frequency(token)
            if frequency > 0:
                log_p[i] = reference[i] = math.log(frequency)
            else:
                unknown[i] = True
                log_p[i] = _LOG_FLOOR + (1 - min(len(token), _MAX_SPELLED)) * math.log(10)
                reference[i] = _LOG_FLOOR

        previous = np.empty_like(ids)
        previous[0] = _NEUTRAL
        previous[1:] = ids[:-1]
        previous[previous == _TEXT_END] = _SENTENCE_END
        keys = previous << 32 | ids
        at = np.minimum(np.searchsorted(tables.pair_keys, keys), len(tables.pair_keys) - 1)
        paired = tables.pair_keys[at] == keys
        conditional = log_p + _LOG_BACKOFF
        # Capped at 0: a few first words have a smaller count in the one file than their pairs in the other.
        ratio = tables.pair_counts[at[paired]] / tables.counts[previous[paired]]
        conditional[paired] = np.minimum(np.log(ratio), 0.0)
        # After a number or a formula there is no context to gain from; only an unknown word is still wrong.
        scored = ((ids >= _RESERVED) | (ids == _UNKNOWN)) & ((previous != _NEUTRAL) | unknown)

        text_of = np.cumsum(ids == _TEXT_END) - 1
        n_texts = len(prose)

        def per_text(values: NDArray[np.float64]) -> NDArray[np.float64]:
            sums = np.bincount(text_of[scored], weights=values[scored], minlength=n_texts + 1)
            return sums[:n_texts].astype(np.float64)

        n = per_text(np.ones(len(ids))).astype(np.int64)
        sums = [
            per_text(values).tolist()
            for values in (conditional - reference, conditional, conditional - log_p, unknown.astype(float))
        ]
        return [
            TextLikelihood(value / k, None, "bigram:en", "en", k, logp / k, slor / k, oov / k)
            if k >= MIN_WORDS
            else _unmeasured(f"fewer than {MIN_WORDS} words", "en", k)
            for k, value, logp, slor, oov in zip(n.tolist(), *sums, strict=True)
        ]

    def _refine(self, prose: list[str], languages: list[str]) -> list[str]:
        """Each text's language by the mean Zipf value of its words, among those that have a word list.

        Near relatives (Swedish and Norwegian, Indonesian and Malay) can be taken for each other. The mean
        Zipf value is a naive Bayes likelihood (log10 P a word). The given language stays unless another one
        leads by ``_MIN_LEAD`` and lists at least ``_MIN_SHARE`` of the words.
        """
        out: list[str] = []
        for text, language in zip(prose, languages, strict=True):
            common, words = self._common_words(), _words(text)
            if len(words) < MIN_WORDS:
                out.append(language)
                continue
            zipf = common.zipf[[common.rows.get(word, 0) for word in words]]
            means = zipf.mean(axis=0)
            best = int(means.argmax())
            lead = means[best] - means[common.languages.index(language)]
            share = (zipf[:, best] > _ZIPF_UNCOMMON).mean()
            out.append(common.languages[best] if lead >= _MIN_LEAD and share >= _MIN_SHARE else language)
        return out

    def _no_english(self, prose: str) -> bool:
        """Whether a text that no list claims is made of words of some other language, not of letter noise."""
        common, words = self._common_words(), _words(prose)
        english = common.zipf[[common.rows.get(word, 0) for word in words], common.languages.index("en")]
        if (english > _ZIPF_UNCOMMON).mean() > _MAX_ENGLISH:
            return False
        pairs = _letter_pairs(words)
        return bool(len(pairs)) and common.letters[pairs[:, 0], pairs[:, 1]].mean() >= _MIN_LETTERS

    def _common_words(self) -> _CommonWords:
        if self._common is None:
            self._common = _load_common_words()
        return self._common


def _words(prose: str) -> list[str]:
    return [word for word in _tokens(prose) if word[0].isalpha()][:_LANGUAGE_WORDS]


def _letter_pairs(words: Iterable[str]) -> NDArray[np.int64]:
    """``int64[n, 2]``: each letter a-z of the words after the one before, 0 for what lies between words."""
    plain = unicodedata.normalize("NFKD", " ".join(words)).encode("ascii", "ignore")
    codes = np.frombuffer(b" " + plain.lower() + b" ", np.uint8).astype(np.int64) - ord("a") + 1
    codes[(codes < 1) | (codes > 26)] = 0
    pairs = np.stack([codes[:-1], codes[1:]], axis=1)
    return pairs[pairs.any(axis=1)]


def _load_common_words() -> _CommonWords:
    import wordfreq

    languages = tuple(sorted(set(wordfreq.available_languages("small")) - _NO_WORDFREQ_TOKENS))
    rows: dict[str, int] = {}
    entries: list[tuple[int, int, float]] = []
    for column, language in enumerate(languages):
        left = _COMMON_WORDS
        # Bucket i holds the words of frequency 10^(-i/100).
        for centibels, bucket in enumerate(wordfreq.get_frequency_list(language, "small")):
            for word in bucket[:left]:
                if not (language in _NON_LATIN and word.isascii()):
                    # Row 0 is that of words common in no language.
                    row = rows.setdefault(word, len(rows) + 1)
                    entries.append((row, column, 9.0 - centibels / 100))
            left -= len(bucket)
            if left <= 0:
                break
    # wordfreq would keep every list it has read for good: 100 MB, of which 1 is needed.
    wordfreq.get_frequency_list.cache_clear()
    zipf = np.full((len(rows) + 1, len(languages)), _ZIPF_UNCOMMON, dtype=np.float32)
    at_row, at_column, values = zip(*entries, strict=True)
    zipf[list(at_row), list(at_column)] = values
    pairs = _letter_pairs(word for word in rows if _LATIN.match(word))
    counts = np.ones((27, 27))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1.0)
    return _CommonWords(languages, rows, zipf, np.log(counts / counts.sum(axis=1, keepdims=True)))


def _unmeasured(reason: str, language: str, n_tokens: int = 0) -> TextLikelihood:
    return TextLikelihood(None, reason, "", language, n_tokens, None, None, None)


def _english_frequency(word: str) -> float:
    import wordfreq

    known: dict[str, float] = wordfreq.get_frequency_dict("en")
    frequency = known.get(word, 0.0)
    if frequency == 0.0 and not word.isascii():
        plain = unicodedata.normalize("NFKD", word)
        frequency = known.get("".join(c for c in plain if not unicodedata.combining(c)), 0.0)
    return frequency


def _script_language(text: str) -> str:
    """The language that the script of most letters stands for; ``en`` where there is no letter."""
    if text.isascii():
        return "en"
    letters = _NON_ASCII_LETTER.findall(text)
    if not letters:
        return "en"
    scripts: dict[str, int] = {}
    for letter in letters[:500]:
        script = unicodedata.name(letter, "LATIN").partition(" ")[0]
        scripts[script] = scripts.get(script, 0) + 1
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
