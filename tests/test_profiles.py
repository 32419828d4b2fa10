"""Profiles: what ships is whole, and a mistake in one's own is named by its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vlitqc import profiles
from vlitqc.errors import UnknownName, UsageError
from vlitqc.registry import METRICS, MODELS, entries

Write = Callable[[str], str]

MODEL = """
[models.m]
backend = "b"
kind = "TextEncoder"
name = "n"
licence = "MIT"
"""
FILE = MODEL + "[[models.m.files]]\nrole = 'r'\n"


@pytest.mark.parametrize("name", profiles.names())
def test_a_shipped_profile_is_whole(name: str) -> None:
    profile = profiles.load(name)
    assert profile.name == name
    assert set(profile.metrics) <= set(entries(METRICS))
    used = {slot for m in profile.metrics.values() for slot in m.models.values()}
    used |= {slot for m in profile.models.values() for slot in m.uses.values()}
    # A slot that is not defined is for --lm or --judge-url; smollm2 is one that --lm may name.
    on_request = {s for m in profile.metrics.values() if m.unavailable for s in m.models.values()}
    assert set(profile.models) - used <= {"smollm2"}, "every model is used"
    assert used - set(profile.models) <= on_request, "every used one is defined"
    for model in profile.models.values():
        assert model.backend in entries(MODELS)
        assert model.licence
        for file in model.files:
            assert file.sha256 is not None or file.package is None, "what comes in a package is pinned"
            assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
            assert file.package or file.size, "the size of what is to be fetched is told"


def test_lite_serves_or_explains_every_metric() -> None:
    lite = profiles.load("lite")
    assert set(lite.metrics) == set(entries(METRICS)) & set(lite.metrics)
    for name in lite.metrics:
        assert profiles.served_by(lite, name)
    assert profiles.served_by(lite, "image_readability") == "an algorithm, no model"
    assert profiles.served_by(lite, "correctness").startswith("not scored: ")
    assert profiles.served_by(lite, "unheard_of") == "on request: --metrics"


def test_a_file_is_read_as_it_is(profile_file: Write) -> None:
    path = profile_file("""
[models.base]
backend = "b"
kind = "TextEncoder"
name = "n"
licence = "MIT"
options = { batch_size = 4 }
[[models.base.files]]
role = "weights"
path = "~/w.bin"
sha256 = "00"
[models.top]
backend = "c"
kind = "Tagger"
name = "t"
licence = "MIT"
uses = { encoder = "base" }
[metrics.task_diversity]
models = { tagger = "top" }
options = { k = 3 }
[metrics.image_readability]
floor = 1
reference = { low = 0, high = 1, source = "s" }
""")
    profile = profiles.load(path)
    assert profile.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert profile.models["base"].files == (profiles.ModelFile("weights", "~/w.bin", "00"),)
    assert profile.models["base"].files[0].source == "~/w.bin"
    assert profile.models["top"].uses == {"encoder": "base"}
    assert profile.metrics["task_diversity"].options == {"k": 3}
    assert profile.metrics["image_readability"].floor == 1


def test_unknown_profiles() -> None:
    with pytest.raises(UnknownName, match="no profile is called 'lyte'; did you mean lite"):
        profiles.load("lyte")
    with pytest.raises(UsageError, match=r"profile file /no/such\.toml does not exist"):
        profiles.load("/no/such.toml")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[metrics", "is not valid TOML"),
        ("", "lacks the key 'metrics'"),
        ("[models.m]\nbackend = 'b'\n[metrics]", "does not fit: .*kind"),
        ("[metrics.a]\nflor = 1", "does not fit: .*flor"),
        ("metrics = 3", "does not fit"),
        ("[metrics]\na = 3", "does not fit"),
        (
            "[metrics.a]\nmodels = { x = 'y' }",
            r"metrics\.a\.models names the model 'y', which is not defined",
        ),
        (MODEL + "uses = { e = 'z' }\n[metrics]", r"models\.m\.uses names the model 'z'"),
        ("[metrics.a]\nmodels = 'm'", r"metrics\.a\.models = 'm': expected a table"),
        ("[metrics.a]\nmodels = { x = 1 }", r"metrics\.a\.models\.x = 1: expected a text"),
        ("[metrics.a]\noptions = [1]", r"metrics\.a\.options = \[1\]: expected a table"),
        ("[metrics.a]\nunavailable = true", r"metrics\.a\.unavailable = True: expected a text"),
        ("[metrics.a]\nfloor = '1'", r"metrics\.a\.floor = '1': expected a number"),
        ("[metrics.a]\nfloor = true", r"metrics\.a\.floor = True: expected a number"),
        ("[metrics.a]\nfloor = nan", r"metrics\.a\.floor = nan: expected a finite number"),
        ("[metrics.a]\nreference = 2", r"metrics\.a\.reference = 2: expected a table"),
        (
            MODEL.replace("'n'", "3").replace('"n"', "3") + "[metrics]",
            r"models\.m\.name = 3: expected a text",
        ),
        (MODEL + "options = 'x'\n[metrics]", r"models\.m\.options = 'x': expected a table"),
        (MODEL + "uses = { e = 'm' }\n[metrics]", "in a circle: m → m"),
        (FILE + "hub = 'a/b'\n[metrics]", r"\(r\): a hub file needs either path .* or patterns"),
        (FILE + "hub = 'a/b'\npath = 'x'\npatterns = ['y']\n[metrics]", "needs either path"),
        (
            FILE + "hub = 'a/b'\nurl = 'https://x'\n[metrics]",
            "names hub and url; a file comes from one place",
        ),
        (FILE + "url = 'http://x/y'\n[metrics]", "url = 'http://x/y': expected https://"),
        (FILE + "package = 'p'\npath = 'x'\n[metrics]", "package and version go together"),
        (FILE + "url = 'https://x/y'\npath = '../z'\n[metrics]", r"path = '\.\./z': expected the bare name"),
        (FILE + "url = 'https://x/y'\npath = '/etc/z'\n[metrics]", "path = '/etc/z': expected the bare name"),
        (FILE + "hub = 'a/b'\npath = '../z'\n[metrics]", "expected a path inside the repository"),
        (FILE + "hub = '../b'\npath = 'z'\n[metrics]", r"hub = '\.\./b': expected a repository"),
        (FILE + "hub = 'a b/c d'\npath = 'z'\n[metrics]", "hub = 'a b/c d': expected a repository"),
        (FILE + "hub = 'a/b'\npath = 'z'\nrevision = '../../x'\n[metrics]", "expected a branch, a tag"),
        (FILE + "hub = 'a/b'\npatterns = '*.json'\n[metrics]", r"models\.m\.files: patterns = '\*\.json'"),
        (MODEL + "[models.m.files]\nrole = 'r'\n[metrics]", r"models\.m\.files: expected \[\[models"),
        (MODEL + "[[models.m.files]]\npath = 'x'\n[metrics]", "expected a table with a role"),
        ("[metrics.a]\nreference = { lo = 1 }", r"metrics\.a\.reference\.low = None: expected a number"),
        (
            "[metrics.a]\nreference = { low = 'a', high = 2, source = 's' }",
            r"metrics\.a\.reference\.low = 'a': expected a number",
        ),
        (
            "[metrics.a]\nreference = { low = 1, high = 2, source = 's', sets = 3 }",
            r"metrics\.a\.reference\.sets = 3: expected a table",
        ),
        (
            "[metrics.a]\nreference = { low = 1, high = 2, source = 's', sets = { LLaVA = 'x' } }",
            r"metrics\.a\.reference\.sets\.LLaVA = 'x': expected a number",
        ),
        (
            "[metrics.a]\nreference = { low = 1, high = 2, source = 's', sets = { LLaVA = nan } }",
            r"metrics\.a\.reference\.sets\.LLaVA = nan: expected a finite number",
        ),
        (FILE + "[metrics]", r"\(r\) lacks the key 'path'"),
        (FILE + "path = 'x'\nsize = '3'\n[metrics]", r"files\.size = '3': expected a whole number"),
        (FILE + "path = 'x'\npatterns = [3]\n[metrics]", r"files\.patterns = 3: expected a text"),
        (
            MODEL + "[[models.m.files]]\nrole = 'r'\npath = 3\nsha256 = '0'\n[metrics]",
            r"models\.m\.files\.path = 3",
        ),
    ],
)
def test_a_mistake_is_named(profile_file: Write, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        profiles.load(profile_file(body))


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match="is not valid TOML"):
        profiles.load(str(path))


@pytest.mark.parametrize("key", ["name", "title", "summary"])
def test_the_head_is_needed(tmp_path: Path, key: str) -> None:
    lines = ['name = "a"', 'title = "b"', 'summary = "c"', "[metrics]"]
    path = tmp_path / "p.toml"
    path.write_text("\n".join(line for line in lines if not line.startswith(key)))
    with pytest.raises(UsageError, match=f"lacks the key '{key}'"):
        profiles.load(str(path))
    path.write_text("\n".join(f"{key} = 7" if line.startswith(key) else line for line in lines))
    with pytest.raises(UsageError, match=f"{key} = 7: expected a text"):
        profiles.load(str(path))


def test_a_slot_that_an_unavailable_metric_waits_for(profile_file: Write) -> None:
    profile = profiles.load(
        profile_file(
            MODEL
            + """
uses = { judge = "m2" }
[models.m2]
backend = "b"
kind = "Judge"
name = "n2"
licence = "MIT"
[metrics.correctness]
models = { judge = "judge" }
unavailable = "needs a judge"
[metrics.text_readability]
models = { lm = "m" }
floor = -2.0
[metrics.granularity_complexity]
models = { parser = "m" }
floor = 1.0
"""
        )
    )
    assert profiles.served_by(profile, "correctness") == "not scored: needs a judge"
    judge = profiles.ModelEntry("judge", "openai_judge", "Judge", "a judge", "?", (), {"model": "a judge"})
    judged = profiles.rebind(profile, "judge", judge)
    assert profiles.served_by(judged, "correctness") == "a judge"
    assert judged.models["m"].uses == {"judge": "judge"}, "models that use a judge get it too"
    assert judged.sha256 != profile.sha256
    assert judged.metrics["text_readability"] == profile.metrics["text_readability"]

    lm = profiles.ModelEntry("lm", "causal_lm", "LanguageModel", "an lm", "?")
    told = profiles.rebind(profile, "lm", lm)
    assert told.metrics["text_readability"].models == {"lm": "lm"}
    assert told.metrics["text_readability"].floor is None, "the floor was set on another scale"
    assert told.name == "own, lm an lm"
    assert told.metrics["granularity_complexity"].floor == 1.0
    assert told.metrics["correctness"].unavailable == "needs a judge"


def test_a_slot_of_the_same_name_is_another_model_all_the_same(profile_file: Write) -> None:
    body = MODEL.replace("models.m", "models.lm") + (
        "[metrics.ifd]\nmodels = { lm = 'lm' }\nfloor = 0.5\nreference = { low = 1, high = 2, source = 's' }\n"
    )
    profile = profiles.load(profile_file(body))
    other = profiles.ModelEntry("lm", "causal_lm", "LanguageModel", "other", "?")
    changed = profiles.rebind(profile, "lm", other).metrics["ifd"]
    assert (changed.floor, changed.reference) == (None, None)
    same = profiles.rebind(profile, "lm", profile.models["lm"]).metrics["ifd"]
    assert same.floor == 0.5


def test_a_model_named_on_the_command_line(tmp_path: Path) -> None:
    def entry(name: str) -> profiles.ModelEntry:
        return profiles.model_from(name, role="lm", kind="LanguageModel", backend="causal_lm")

    (tmp_path / "model").mkdir()
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert entry(str(tmp_path / "model")).files == (profiles.ModelFile("folder", str(tmp_path / "model")),)
    assert entry(str(tmp_path / "m.gguf")).files == (
        profiles.ModelFile("checkpoint", str(tmp_path / "m.gguf")),
    )
    (file,) = entry("org/name@abc").files
    assert (file.role, file.hub, file.revision) == ("folder", "org/name", "abc")
    assert file.patterns == profiles.TRANSFORMERS_FILES
    assert entry("org/name").files[0].revision == "main"
    with pytest.raises(UsageError, match=r"\./gone does not exist"):
        entry("./gone")
    with pytest.raises(
        UsageError, match="'smolm2' is no model of the profile, no path, and no Hugging Face id"
    ):
        entry("smolm2")
    for name in ("", " "):
        with pytest.raises(UsageError, match="the lm has no name"):
            entry(name)
    for name in ("a b/c d", "org/", "~nosuchuser/x"):
        with pytest.raises(UsageError, match=r"no Hugging Face id|does not exist"):
            entry(name)
