"""The bigram model's tables as arrays: kept by the bytes they come from, made again where damaged."""

from __future__ import annotations

import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vlitqc.models import ngram_lm, word_tables
from vlitqc.models.ngram_lm import BigramLM
from vlitqc.models.word_tables import find_rows, load_counts, load_word_lists, word_hashes
from vlitqc.types import ModelRef

UNIGRAMS = "the\t1000\nred\t100\ncar\t50\nstops\t20\n"
BIGRAMS = "<s> the\t30\n<s> red\t10\nthe red\t40\nred car\t25\n"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    found = {"unigrams": tmp_path / "u.txt", "bigrams": tmp_path / "b.txt"}
    found["unigrams"].write_text(UNIGRAMS)
    found["bigrams"].write_text(BIGRAMS)
    return found


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "tables").glob("counts-*"))


def refuse(*args: object) -> word_tables.Counts:
    raise AssertionError("the sources are parsed again")


def same(one: word_tables.Counts, other: word_tables.Counts) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in one._fields)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_the_sources_are_parsed_once(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_counts(**files)
    assert len(kept(tmp_path)) == 1
    monkeypatch.setattr(word_tables, "_read_counts", refuse)
    assert same(load_counts(**files), first)


def test_other_counts_have_tables_of_their_own(files: dict[str, Path], tmp_path: Path) -> None:
    load_counts(**files)
    files["unigrams"].write_text(UNIGRAMS.replace("1000", "2000"))
    changed = load_counts(**files)
    assert len(kept(tmp_path)) == 2
    at, found = find_rows(changed.words, word_hashes(["the"]))
    assert found.all()
    assert changed.counts[changed.ids[at]].tolist() == [2000.0]


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "pickle", "other"])
def test_a_damaged_table_is_made_again(files: dict[str, Path], tmp_path: Path, how: str) -> None:
    first = load_counts(**files)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    middle = whole.index(np.float64(1000.0).tobytes())  # a count, not a header
    damaged = {
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "empty": b"",
        "pickle": pickle.dumps({"words": 1}),
        "other": b"PK\x03\x04" + b"\0" * 100,
    }[how]
    path.write_bytes(damaged)
    assert same(load_counts(**files), first)
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_no_fault(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "file"))
    assert len(load_counts(**files).pair_keys) == 4


def test_without_a_home_it_works(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("VLITQC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert len(load_counts(**files).pair_keys) == 4


def test_no_two_words_of_the_lists_share_a_hash() -> None:
    spec = find_spec("wordsegment")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent
    lists = load_word_lists()
    for hashes in (
        load_counts(folder / "unigrams.txt", folder / "bigrams.txt").words,
        lists.english,
        lists.common,
    ):
        assert (hashes[:-1] < hashes[1:]).all()


def test_what_was_met_before_changes_no_value(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = ModelRef("LanguageModel", "toy", "1", "0" * 64)
    texts = [
        "The red car stops.",
        "x" * 100_000 + " the red car",
        "the can't-car \ud800 ² stops it's 7 red",
        "",
    ]
    fresh = [BigramLM(ref, files).likelihood([text])[0] for text in texts]
    monkeypatch.setattr(ngram_lm, "_MOST_TOKENS", 3)
    worn = BigramLM(ref, files)
    for _ in range(3):
        assert worn.likelihood(texts) == fresh
        assert worn.likelihood(texts[::-1]) == fresh[::-1]
        assert [worn.likelihood([text])[0] for text in texts] == fresh


def test_long_words_are_not_kept_in_memory(files: dict[str, Path]) -> None:
    model = BigramLM(ModelRef("LanguageModel", "toy", "1", "0" * 64), files)
    model.likelihood(["the red car " + "x" * 100_000])
    assert model._lexicon is not None
    assert not model._lexicon._numbers
    model.likelihood(["the red car"])
    assert set(model._lexicon._numbers) >= {"the", "red", "car"}


def test_a_loaded_model_travels_without_its_tables(files: dict[str, Path]) -> None:
    model = BigramLM(ModelRef("LanguageModel", "toy", "1", "0" * 64), files)
    expected = model.likelihood(["the red car stops"])
    assert len(pickle.dumps(model)) < 2000
    assert pickle.loads(pickle.dumps(model)).likelihood(["the red car stops"]) == expected


def test_rows_are_found_or_said_to_be_absent() -> None:
    at, found = find_rows(np.array([2, 4]), np.array([4, 5, 1, 2]))
    assert found.tolist() == [True, False, False, True]
    assert at[found].tolist() == [1, 0]


def test_other_users_may_read_what_the_umask_allows(files: dict[str, Path], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        load_counts(**files)
    finally:
        os.umask(before)
    (path,) = kept(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]
