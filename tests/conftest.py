"""What the tests of the engine share: a small data set, a profile of light metrics, a metric made up on the spot."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

import vlitqc
from vlitqc import registry
from vlitqc.engine.run import Run

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "llava_pretrain_2k" / "playground" / "data" / "LLaVA-Pretrain"

# A merge is judged by its own change: there the examples are the same every time, elsewhere they are new.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# What one test computes must not be found by another, nor lie in the folder of whoever runs the tests.
os.environ["VLITQC_CACHE_SIZE"] = "0"

# A shell starts what it runs in the background deaf to Ctrl-C, and so would be every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

HEAD = """
name = "{name}"
title = "A profile of light metrics"
summary = "No large model, so that a run takes a fraction of a second."
adds = "Nothing."
"""

TINY = (
    HEAD.format(name="tiny")
    + """
[metrics.image_readability]
[metrics.composition]
[metrics.correctness]
unavailable = "needs a judge"
"""
)

BIGRAMS = """
[models.bigrams]
backend = "bigram_lm"
kind = "LanguageModel"
name = "bigram counts"
licence = "MIT"
[[models.bigrams.files]]
role = "unigrams"
package = "wordsegment"
version = "1.3.1"
path = "wordsegment/unigrams.txt"
sha256 = "fd27e15b83ee7a55d8e17731a397eb4d389cbe2afd1c26afcba8ee2634c0a6d5"
[[models.bigrams.files]]
role = "bigrams"
package = "wordsegment"
version = "1.3.1"
path = "wordsegment/bigrams.txt"
sha256 = "3bd156ba9477842930c5609fc7113864e3c093a97880736fba522c7edb4ba799"
[[models.bigrams.files]]
role = "wordfreq"
package = "wordfreq"
version = "3.1.1"
path = "wordfreq/data"
sha256 = "acde3db5c30a6b228035cb943f82733b2402754fbb826009ef9de2a73814863e"
[metrics.text_readability]
models = { lm = "bigrams" }
floor = 0.0
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A profile file: image readability, composition, and correctness as a metric that cannot be served."""
    path = tmp_path_factory.mktemp("profiles") / "tiny.toml"
    path.write_text(TINY, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """``tiny`` with text readability, which has a floor."""
    path = tmp_path_factory.mktemp("profiles") / "texts.toml"
    path.write_text(TINY.replace('"tiny"', '"texts"') + BIGRAMS, encoding="utf-8")
    return str(path)


@pytest.fixture
def profile_file(tmp_path: Path) -> Callable[[str], str]:
    """Writes a profile with the given body and returns its path."""

    def write(body: str) -> str:
        path = tmp_path / "own.toml"
        path.write_text(HEAD.format(name="own") + body, encoding="utf-8")
        return str(path)

    return write


def _picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    # Blocks of one grey, a noise that differs from picture to picture: each has a quality of its own.
    blocks = np.kron(rng.integers(0, 200, (6, 6)), np.ones((8, 8)))
    noisy = blocks + rng.normal(0, 1 + seed % 9, blocks.shape)
    stream = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).convert("RGB").save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[[int], bytes]:
    """The bytes of a PNG of 48 × 48 pixels, one for each seed."""
    return _picture


def _record(i: int, image: Any = None, **more: Any) -> dict[str, Any]:
    token = "" if image is None else "<image>\n" * (len(image) if isinstance(image, list) else 1)
    record: dict[str, Any] = {"id": f"r{i}"}
    if image is not None:
        record["image"] = image
    record["conversations"] = [
        {"from": "human", "value": f"{token}What can be seen in picture number {i}?"},
        {"from": "gpt", "value": "A pattern of grey squares " + "on the wall of a house " * (i % 7) + "."},
    ]
    return record | more


@pytest.fixture(scope="session")
def record() -> Callable[..., dict[str, Any]]:
    """A LLaVA record: ``record(3, "3.png", more=…)``."""
    return _record


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Writes ``n`` good records with a picture each; returns the data file. ``lines`` writes those instead."""

    def make(
        n: int = 20,
        *,
        name: str = "data.jsonl",
        folder: str = "set",
        lines: Sequence[dict[str, Any] | bytes] | None = None,
        as_list: bool = False,
    ) -> Path:
        home = tmp_path / folder
        home.mkdir(exist_ok=True)
        if lines is None:
            for i in range(n):
                if not (home / f"{i}.png").exists():
                    (home / f"{i}.png").write_bytes(_picture(i))
            lines = [_record(i, f"{i}.png") for i in range(n)]
        raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path = home / name
        path.write_bytes(b"[" + b",\n ".join(raw) + b"]\n" if as_list else b"".join(r + b"\n" for r in raw))
        return path

    return make


MESSY_STATES = {
    "good": "scored",
    "malformed": "unreadable",
    "missing": "partial",
    "truncated": "partial",
    "empty": "partial",
    "text": "scored",
    "many": "scored",
    "embedded": "scored",
    "no_image": "partial",
    "outside": "partial",
    "remote": "partial",
    "list": "unreadable",
    "no_conversation": "unreadable",
    "last": "scored",
}
"""The rows of ``messy`` in order, each with the state that it must end in under the profile ``tiny``."""


@pytest.fixture
def messy_states() -> dict[str, str]:
    """Row names of ``messy`` in order, each with the state that it must end in under the profile ``tiny``."""
    return dict(MESSY_STATES)


@pytest.fixture
def messy(make_data: Callable[..., Path], tmp_path: Path) -> Path:
    """A data file with a record of every sort of fault and shape, in the order of ``messy_states``."""
    path = make_data(4)
    home = path.parent
    (home / "cut.png").write_bytes(_picture(9)[:-900])
    (home / "words.png").write_bytes(b"these are words and no picture")
    (tmp_path / "secret.png").write_bytes(_picture(10))
    embedded = "data:image/png;base64," + base64.b64encode(_picture(11)).decode()
    empty = _record(4, "0.png")
    empty["conversations"][1]["value"] = ""
    lines: list[Any] = [
        _record(0, "0.png"),
        b'{"id": "r1", "image": "1.png", "conversations": [{"from": "hu',
        _record(2, "nowhere.png"),
        _record(3, "cut.png"),
        empty,
        _record(5),
        _record(6, ["1.png", "2.png"]),
        _record(7, embedded),
        b"",
        _record(8, "words.png"),
        _record(9, "../secret.png"),
        _record(10, "https://example.org/a.png"),
        b"[1, 2, 3]",
        {"id": "r12", "image": "3.png"},
        _record(13, "3.png"),
    ]
    return make_data(lines=lines)


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Registers an object for the length of a test, as an installed package would."""

    def put(name: str, value: Any, kind: str = registry.METRICS) -> None:
        group = f"{kind}.{value.spec.principle}" if kind == registry.METRICS else kind

        class Point:
            def load(self) -> Any:
                return value

        point: Any = Point()
        assert hasattr(EntryPoint, "load")
        entry = registry.Entry(name, group, f"made_up:{name}", "made-up", point)
        monkeypatch.setitem(registry.entries(kind), name, entry)

    return put


@pytest.fixture
def fresh_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The registry without what it remembers; ``sys.path`` may be extended through the fixture."""
    remembered = (registry._points, registry.entries)
    for each in remembered:
        each.cache_clear()
    yield monkeypatch
    for each in remembered:
        each.cache_clear()


# ---------------------------------------------------------------- finished runs


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The demo data, scored."""
    out = tmp_path_factory.mktemp("demo") / "data"
    script = ROOT / "examples" / "make_demo_data.py"
    subprocess.run([sys.executable, str(script), str(out)], check=True, capture_output=True)
    return vlitqc.score(out / "data.jsonl", report=False)


@pytest.fixture(scope="session")
def llava_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """160 records of LLaVA-Pretrain, scored."""
    if not REAL.is_dir():
        pytest.skip("the shared data is not there")
    out = tmp_path_factory.mktemp("llava") / "run"
    return vlitqc.score(REAL / "blip_laion_cc_sbu_dev.json", out=out, report=False)


# ---------------------------------------------------------------- equality with reference libraries


@pytest.fixture
def equals(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``equals(ours, theirs, backend=…, reference=…, within=1e-4)``: asserts, and adds a line to the table
    of equality at the end of the test run: largest absolute difference, number of values."""

    def check(ours: Any, theirs: Any, *, backend: str, reference: str, within: float = 1e-4) -> None:
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert a.shape == b.shape
        assert a.size
        assert np.isfinite(a).all()
        difference = float(np.abs(a - b).max())
        request.node.user_properties.append(("equal", (backend, reference, a.size, difference, within)))
        assert difference <= within, f"{backend} differs from {reference} by {difference:.2e}"

    return check


# ---------------------------------------------------------------- kills


@pytest.fixture
def crashes(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``crashes(what, kills=…, identical=…, rounds=…, where=…)``: a line of the table of kills."""

    def tell(what: str, kills: int, identical: int, rounds: int, where: dict[str, int]) -> None:
        phases = ", ".join(f"{name} {n}" for name, n in where.items())
        line = (
            f"{what:<20} {kills:>3} kills, {identical} of {rounds} outcomes identical to an uninterrupted one"
        )
        request.node.user_properties.append(("kills", f"{line}; {phases}" if phases else line))

    return tell


# ---------------------------------------------------------------- folders of real data

_FOLDERS_HEAD = ("folder", "input", "format", "records", "unreadable", "issues", "written back identical")


@pytest.fixture
def folder_read(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``folder_read(folder, input, …)``: a line of the table of folders of real data."""

    def tell(*row: object) -> None:
        assert len(row) == len(_FOLDERS_HEAD)
        request.node.user_properties.append(("folder", tuple(map(str, row))))

    return tell


def _told(reporter: pytest.TerminalReporter, name: str) -> list[Any]:
    """What the tests told under a name; properties of a test come back from other processes too."""
    reports = [report for found in reporter.stats.values() for report in found]
    calls = [r for r in reports if isinstance(r, pytest.TestReport) and r.when == "call"]
    return [value for report in calls for key, value in report.user_properties if key == name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The tables of kills, of folders of real data and of equality."""
    if kills := _told(terminalreporter, "kills"):
        terminalreporter.section("killed at random moments")
        for line in kills:
            terminalreporter.line(line)
    if folders := _told(terminalreporter, "folder"):
        terminalreporter.section("folders of real data")
        table = [_FOLDERS_HEAD, *sorted(folders)]
        widths = [max(len(row[i]) for row in table) for i in range(len(_FOLDERS_HEAD))]
        for row in table:
            terminalreporter.line(
                "  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)).rstrip()
            )
    if rows := _told(terminalreporter, "equal"):
        wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
        terminalreporter.section("equality with the reference libraries: largest |difference|")
        for backend, reference, n, difference, within in sorted(rows):
            terminalreporter.line(
                f"{backend:<{wide[0]}}  {reference:<{wide[1]}}  {n:>6} values  "
                f"{difference:.1e}  (≤ {within:.0e})"
            )
