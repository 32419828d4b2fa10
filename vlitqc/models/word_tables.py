"""The counts and word lists of the bigram model as arrays, kept in the cache folder.

To read them from their packages takes seconds, most of it text parsing. So they are parsed once: the arrays lie
under the name of the sha256 of all that they were made from, and a file that is damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import UsageError
from vlitqc.models.cache import cache_folder

# Part of a file's name: what an array means has changed if this has.
_LAYOUT = 1
_DIGEST = 32  # a file begins with the sha256 of what follows, which is an npz archive

CORPUS_TOKENS = 1_024_908_267_229.0
"""Tokens in the Web 1T corpus; the files hold its most frequent words only, so their sum is smaller."""
LOG_FLOOR = -math.log(CORPUS_TOKENS)
TEXT_END, SENTENCE_END, NEUTRAL, UNKNOWN_WORD = 0, 1, 2, 3
RESERVED = 4
SEPARATOR = "\x00"

ZIPF_UNCOMMON = 3.0
"""Zipf value (log10 of the count in 10^9 words) lent to a word outside a language's common words: about a tenth of
the rarest of them."""
_COMMON_WORDS = 2000
_NO_WORDFREQ_TOKENS = frozenset({"zh", "ja", "ko"})
# Their lists hold loan words in Latin letters, which must not make an English text Hindi.
_NON_LATIN = frozenset({"ar", "bg", "bn", "el", "fa", "he", "hi", "mk", "ru", "ta", "uk", "ur"})
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")


class Counts(NamedTuple):
    """Unigram and bigram counts. A word is known by its hash: ``ids[i]`` is the id of ``words[i]``, which ascend.

    ``log_p`` and ``counts`` go by id, ``pair_counts`` with ``pair_keys`` = first << 32 | second, which ascend.
    """

    words: NDArray[np.uint64]
    ids: NDArray[np.int32]
    log_p: NDArray[np.float64]
    counts: NDArray[np.float64]
    pair_keys: NDArray[np.int64]
    pair_counts: NDArray[np.float64]


class WordLists(NamedTuple):
    """What ``wordfreq`` knows: the log frequency of English words, and the common words of each language.

    Word ``common[i]`` has row ``i + 1`` of the matrix of Zipf values; entry k of it says that row ``at_row[k]`` has
    ``zipf[k]`` in the language ``languages[at_language[k]]``. ``letters`` is the mean log P of a letter after
    another in those words.
    """

    english: NDArray[np.uint64]
    log_frequency: NDArray[np.float64]
    languages: NDArray[np.str_]
    common: NDArray[np.uint64]
    at_row: NDArray[np.int32]
    at_language: NDArray[np.int32]
    zipf: NDArray[np.float32]
    letters: NDArray[np.float64]

    def zipf_values(self) -> NDArray[np.float32]:
        """``float32[words + 1, languages]``; row 0 is that of words common in no language."""
        values = np.full((len(self.common) + 1, len(self.languages)), ZIPF_UNCOMMON, dtype=np.float32)
        values[self.at_row, self.at_language] = self.zipf
        return values


Table = TypeVar("Table", Counts, WordLists)


def word_hashes(words: Iterable[str]) -> NDArray[np.uint64]:
    """A 64-bit hash of each word (BLAKE2b), the same in every process: no two words of the lists share one."""
    digests = (
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest() for word in words
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def find_rows(keys: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each of ``wanted`` stands in ``keys``, which ascend, and whether it stands there at all."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return at, keys[at] == wanted


def load_counts(unigrams: Path, bigrams: Path) -> Counts:
    """The counts of the two files; raises OSError, KeyError or ValueError where they hold none."""
    return _kept("counts", Counts, [unigrams, bigrams], lambda: _read_counts(unigrams, bigrams))


def load_word_lists() -> WordLists:
    """The lists of the installed ``wordfreq``; raises ImportError where it is not installed."""
    spec = find_spec("wordfreq")  # to import it takes longer than to read the arrays
    if spec is None or spec.origin is None:
        raise ImportError("no package wordfreq")
    data = Path(spec.origin).parent / "data"
    sources = sorted([*data.glob("small_*.msgpack.gz"), *data.glob("large_en.msgpack.gz")])
    return _kept("wordfreq", WordLists, sources, _read_word_lists)


def letter_pairs(words: Iterable[str]) -> NDArray[np.int64]:
    """``int64[n, 2]``: each letter a-z of the words after the one before, 0 for what lies between words."""
    plain = unicodedata.normalize("NFKD", " ".join(words)).encode("ascii", "ignore")
    codes = np.frombuffer(b" " + plain.lower() + b" ", np.uint8).astype(np.int64) - ord("a") + 1
    codes[(codes < 1) | (codes > 26)] = 0
    pairs = np.stack([codes[:-1], codes[1:]], axis=1)
    return pairs[pairs.any(axis=1)]


def _kept(name: str, kind: type[Table], sources: Sequence[Path], read: Callable[[], Table]) -> Table:
    """The table from the cache folder if it was made from the same bytes, else from its sources."""
    digest = hashlib.sha256(f"{name} {_LAYOUT} {np.little_endian}".encode())
    for source in sources:
        digest.update(hashlib.sha256(source.read_bytes()).digest())
    try:
        path = cache_folder() / "tables" / f"{name}-{digest.hexdigest()}"
    except UsageError:  # there is no home: it works without, only slower
        return read()
    with contextlib.suppress(OSError):
        found = path.read_bytes()
        if hashlib.sha256(found[_DIGEST:]).digest() == found[:_DIGEST]:
            arrays = np.load(io.BytesIO(found[_DIGEST:]), allow_pickle=False)
            return kind(**{field: arrays[field] for field in kind._fields})
    table = read()
    written = io.BytesIO()
    np.savez(written, **table._asdict())
    # A cache that cannot be written costs the time of parsing again, and nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not a temporary file, which no other user of the folder could read.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with draft.open("xb") as file:
                file.write(hashlib.sha256(written.getbuffer()).digest())
                file.write(written.getbuffer())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    return table


def _read_counts(unigrams: Path, bigrams: Path) -> Counts:
    fields = unigrams.read_text(encoding="utf-8").split()
    ids = {".": SENTENCE_END, "\n": SENTENCE_END, SEPARATOR: TEXT_END}
    # The mark of a sentence's start has no unigram count in the file; its pairs' sum stands in below.
    words = fields[0::2]
    ids.update(zip(words, range(RESERVED, RESERVED + len(words)), strict=True))
    counts = np.zeros(RESERVED + len(words))
    counts[RESERVED:] = np.array(fields[1::2], dtype=np.float64)

    fields = bigrams.read_text(encoding="utf-8").split()
    marks = {**ids, "<s>": SENTENCE_END}
    n_pairs = len(fields) // 3
    first = np.fromiter(map(marks.get, fields[0::3], repeat(-1)), np.int64, n_pairs)
    second = np.fromiter(map(ids.get, fields[1::3], repeat(-1)), np.int64, n_pairs)
    weight = np.array(fields[2::3], dtype=np.float64)
    known = (first >= 0) & (second >= RESERVED)
    if not known.any():
        raise ValueError("no pair of counted words")
    first, second, weight = first[known], second[known], weight[known]
    # Lower-casing left some pairs twice in the file; their counts belong together.
    keys, where = np.unique(first << 32 | second, return_inverse=True)
    pair_counts = np.bincount(where, weights=weight).astype(np.float64)
    counts[SENTENCE_END] = weight[first == SENTENCE_END].sum()

    log_p = np.full(len(counts), LOG_FLOOR)
    log_p[RESERVED:] = np.log(counts[RESERVED:] / CORPUS_TOKENS)
    hashes = word_hashes(ids)
    order = np.argsort(hashes)
    numbers = np.fromiter(ids.values(), np.int32, len(ids))
    return Counts(hashes[order], numbers[order], log_p, counts, keys, pair_counts)


def _read_word_lists() -> WordLists:
    import wordfreq

    languages = sorted(set(wordfreq.available_languages("small")) - _NO_WORDFREQ_TOKENS)
    rows: dict[str, int] = {}
    entries: list[tuple[int, int, float]] = []
    for column, language in enumerate(languages):
        left = _COMMON_WORDS
        # Bucket i holds the words of frequency 10^(-i/100).
        for centibels, bucket in enumerate(wordfreq.get_frequency_list(language, "small")):
            for word in bucket[:left]:
                if not (language in _NON_LATIN and word.isascii()):
                    entries.append((rows.setdefault(word, len(rows)), column, 9.0 - centibels / 100))
            left -= len(bucket)
            if left <= 0:
                break
    pairs = letter_pairs(word for word in rows if _LATIN.match(word))
    counts = np.ones((27, 27))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1.0)
    hashes = word_hashes(rows)
    order = np.argsort(hashes)
    row_of = np.empty(len(order), np.int32)
    row_of[order] = np.arange(1, len(order) + 1)
    at_word, at_language, zipf = (np.array(column) for column in zip(*entries, strict=True))

    frequencies = wordfreq.get_frequency_dict("en")
    english = word_hashes(frequencies)
    by_hash = np.argsort(english)
    log_frequency = np.array([math.log(frequency) for frequency in frequencies.values()])
    # wordfreq would keep every list it has read for good: 100 MB.
    wordfreq.get_frequency_list.cache_clear()
    wordfreq.get_frequency_dict.cache_clear()
    return WordLists(
        english=english[by_hash],
        log_frequency=log_frequency[by_hash],
        languages=np.array(languages),
        common=hashes[order],
        at_row=row_of[at_word],
        at_language=at_language.astype(np.int32),
        zipf=zipf.astype(np.float32),
        letters=np.log(counts / counts.sum(axis=1, keepdims=True)),
    )
