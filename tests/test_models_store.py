"""Models by slot: found, checked against their hash, built once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from vlitqc import profiles
from vlitqc.errors import ModelUnavailable, UnknownName, UsageError
from vlitqc.models.store import ModelStore, locate, sha256_of
from vlitqc.profiles import ModelFile
from vlitqc.registry import MODELS
from vlitqc.types import ModelRef


class Backend:
    built = 0

    def __init__(
        self, ref: ModelRef, files: Mapping[str, Path], *, part: Any = None, device: str = "", width: int = 1
    ) -> None:
        Backend.built += 1
        self.ref, self.files, self.part, self.device, self.width = ref, files, part, device, width


class Plain:
    def __init__(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        self.ref, self.files = ref, files


@pytest.fixture
def store(
    tmp_path: Path, register: Callable[..., None], profile_file: Callable[[str], str]
) -> Callable[..., ModelStore]:
    """A store over two slots, the second of which uses the first."""
    register("fake", Backend, MODELS)
    register("plain", Plain, MODELS)

    def make(
        *, content: bytes = b"weights", sha256: str = "", more: str = "", device: str = "auto"
    ) -> ModelStore:
        weights = tmp_path / "w.bin"
        weights.write_bytes(content)
        named = sha256 or hashlib.sha256(content).hexdigest()
        profile = profiles.load(
            profile_file(f"""
[models.base]
backend = "fake"
kind = "TextEncoder"
name = "org/Base model"
licence = "MIT"
files = [{{ role = "weights", path = "{weights}", sha256 = "{named}" }}]
{more}
[models.top]
backend = "fake"
kind = "Tagger"
name = "top"
licence = "MIT"
uses = {{ part = "base" }}
[models.plain]
backend = "plain"
kind = "Tagger"
name = "plain"
licence = "MIT"
[metrics]
""")
        )
        return ModelStore(profile, device=device)

    return make


def test_a_model_is_built_once_with_its_files_and_models(
    store: Callable[..., ModelStore], tmp_path: Path
) -> None:
    found = store(more="options = { width = 3 }", device="cpu")
    Backend.built = 0
    top = found.get("top")
    base = found.get("base")
    assert Backend.built == 2
    assert top.part is base
    assert base.files == {"weights": tmp_path / "w.bin"}
    assert (base.width, base.device, top.device) == (3, "cpu", "cpu")
    assert found.get("plain").files == {}
    assert base.ref == found.ref("base")
    assert base.ref.key.startswith("Base-model-")


def test_the_reference_covers_files_options_and_used_models(
    store: Callable[..., ModelStore], tmp_path: Path
) -> None:
    first = store()
    base, top = first.ref("base"), first.ref("top")
    other_file = store(content=b"other")
    other_option = store(more="options = { width = 2 }")
    again = store()
    assert (again.ref("base"), again.ref("top")) == (base, top)
    for changed in (other_file, other_option):
        assert changed.ref("base").sha256 != base.sha256
        assert changed.ref("top").sha256 != top.sha256
    assert base.revision == "local"
    assert top.revision == "built-in"


def test_other_weights_than_named_are_not_used(store: Callable[..., ModelStore]) -> None:
    found = store(sha256="0" * 64)
    for slot in ("base", "top"):
        with pytest.raises(
            ModelUnavailable, match=r"has sha256 .*, the profile names 0000000000000000…; replace"
        ):
            found.get(slot)
    ((file, path, fault),) = found.verify("base")
    assert file.role == "weights"
    assert path is None
    assert fault is not None
    assert found.verify("top") == []


def test_right_weights_verify(store: Callable[..., ModelStore], tmp_path: Path) -> None:
    assert [(p, fault) for _, p, fault in store().verify("base")] == [(tmp_path / "w.bin", None)]


def test_options_that_do_not_fit(store: Callable[..., ModelStore]) -> None:
    with pytest.raises(UsageError, match=r"profile own: models\.base: .*wdth"):
        store(more="options = { wdth = 3 }").get("base")


def test_an_unknown_backend(profile_file: Callable[[str], str]) -> None:
    body = "[models.m]\nbackend = 'bigram_ml'\nkind = 'k'\nname = 'n'\nlicence = 'l'\n[metrics]"
    with pytest.raises(UnknownName, match="did you mean bigram_lm"):
        ModelStore(profiles.load(profile_file(body))).get("m")


def test_where_a_file_is() -> None:
    version = metadata.version("numpy")
    found = locate(ModelFile("r", "numpy/__init__.py", "", "numpy", version))
    assert found.read_text(encoding="utf-8")
    with pytest.raises(
        ModelUnavailable, match=f"numpy is {version}, the profile names 0.0; run: pip install numpy==0.0"
    ):
        locate(ModelFile("r", "numpy/__init__.py", "", "numpy", "0.0"))
    with pytest.raises(
        ModelUnavailable, match=r"is not installed; run: pip install no-such-package-at-all==1"
    ):
        locate(ModelFile("r", "x", "", "no-such-package-at-all", "1"))
    with pytest.raises(
        ModelUnavailable, match=r"numpy/gone\.bin is missing from package .*--force-reinstall"
    ):
        locate(ModelFile("r", "numpy/gone.bin", "", "numpy", version))
    with pytest.raises(ModelUnavailable, match=r"model file /no/such\.bin does not exist"):
        locate(ModelFile("r", "/no/such.bin", ""))


def test_the_hash_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_bytes(b"2")
    (tmp_path / "a.txt").write_bytes(b"1")
    one, two = hashlib.sha256(b"1").hexdigest(), hashlib.sha256(b"2").hexdigest()
    by_hand = hashlib.sha256(f"a.txt\0{one}\nb/two.txt\0{two}\n".encode()).hexdigest()
    assert sha256_of(tmp_path) == by_hand
    (tmp_path / "b" / "__pycache__").mkdir()
    (tmp_path / "b" / "__pycache__" / "two.pyc").write_bytes(b"compiled")
    assert sha256_of(tmp_path) == by_hand
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    assert sha256_of(tmp_path) != by_hand


def test_every_file_of_lite_is_the_one_named() -> None:
    store = ModelStore(profiles.load("lite"))
    for slot in store.profile.models:
        for file, path, fault in store.verify(slot):
            assert fault is None, f"{slot}: {fault}"
            assert path is not None, file
