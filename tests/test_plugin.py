"""A third party's package adds a metric through entry points, as an installed user would have it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from vlitqc import registry
from vlitqc.errors import NameCollision, UnknownName, UsageError

PLUGIN = Path(__file__).parent / "plugin"
RESPONSES = ["WATCH OUT", "a calm cat", "Half HALF half half", "12 + 30 = 42"]
"""Upper-case letters: 8 of 8, 0 of 8, 5 of 16, and no letter at all."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin, built and installed by pip into a folder of its own."""
    target = tmp_path_factory.mktemp("plugin") / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--no-index", "--disable-pip-version-check", "--target", str(target), str(PLUGIN)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def vlitqc(*arguments: object, path: Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "vlitqc", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(path), "NO_COLOR": "1"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def distribution(folder: Path, name: str, entry_points: str) -> Path:
    """An installed distribution with these entry points and no code."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("entry_points.txt", '[vlitqc.formats]\n"fa\xe7ade" = x:y\n'.encode("latin-1")),
        ("entry_points.txt", b"[vlitqc.formats]\nno value\n"),
        ("METADATA", "Name: caf\xe9\n".encode("latin-1")),
    ],
)
def test_a_package_whose_files_cannot_be_read_registers_nothing(
    file: str, content: bytes, tmp_path: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    site = distribution(tmp_path, "broken", "[vlitqc.formats]\nbroken = x:y\n")
    (site / "broken-1.0.dist-info" / file).write_bytes(content)
    fresh_registry.syspath_prepend(site)
    found = registry.entries(registry.FORMATS)
    assert found
    assert "broken" not in {entry.owner for entry in found.values()}


def test_the_metric_is_listed_with_its_package(installed: Path, tmp_path: Path) -> None:
    listed = vlitqc("metrics", "--json", path=installed, cwd=tmp_path).stdout
    rows = {row["name"]: row for row in json.loads(listed)}
    assert rows["shouting"] == {
        "principle": "Readability",
        "name": "shouting",
        "served_by": "on request: --metrics",
        "package": "vlitqc-shouting",
    }
    assert rows["text_readability"]["package"] == "vlitqc"
    assert "vlitqc-shouting" in vlitqc("metrics", path=installed, cwd=tmp_path).stdout


def test_the_metric_is_described(installed: Path, tmp_path: Path) -> None:
    shown = vlitqc("metrics", "shouting", path=installed, cwd=tmp_path).stdout
    assert "How much of the responses is written in capitals." in shown
    assert "lower is better" in shown


def test_without_the_package_the_metric_is_unknown(tmp_path: Path) -> None:
    done = vlitqc("metrics", "shouting", path=tmp_path, cwd=tmp_path, code=2)
    assert "no metric is called 'shouting'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_metric_scores_a_file(installed: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    with data.open("w") as stream:
        for i, response in enumerate(RESPONSES):
            turns = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": response}]
            stream.write(json.dumps({"id": f"r{i}", "conversations": turns}) + "\n")
    printed = vlitqc("score", data, "--metrics", "shouting", "--json", path=installed, cwd=tmp_path).stdout
    (readability,) = [p for p in json.loads(printed)["principles"] if p["id"] == "readability"]
    (shouting,) = readability["metrics"]
    assert (shouting["n_scored"], shouting["n_total"]) == (3, 4)
    assert shouting["value"] == pytest.approx((1 + 0 + 5 / 16) / 3)
    assert shouting["reasons"] == {"no letter that has a case": 1}

    # The engine in this process has no such metric; the table of scores needs none.
    from vlitqc.engine.run import Run

    scores = Run.open(tmp_path / "data.vlitqc").scores
    assert scores["shouting"].tolist()[:3] == [1.0, 0.0, 5 / 16]
    assert scores["shouting_reason"].tolist()[3] == "no letter that has a case"


def test_two_packages_with_one_name_collide(
    installed: Path, tmp_path: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    other = distribution(
        tmp_path / "other", "loud-words", "[vlitqc.metrics.readability]\nshouting = loud_words:Shouting\n"
    )
    fresh_registry.syspath_prepend(installed)
    fresh_registry.syspath_prepend(other)
    with pytest.raises(NameCollision) as caught:
        registry.entries(registry.METRICS)
    assert "metric 'shouting'" in str(caught.value)
    assert "vlitqc-shouting" in str(caught.value)
    assert "loud-words" in str(caught.value)


def test_a_collision_with_our_own_name_is_no_silent_override(
    tmp_path: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    other = distribution(
        tmp_path / "other", "better-text", "[vlitqc.metrics.readability]\ntext_readability = better:Text\n"
    )
    fresh_registry.syspath_prepend(other)
    with pytest.raises(NameCollision, match=r"vlitqc and by better-text|better-text and by vlitqc"):
        registry.find(registry.METRICS, "text_readability")
    done = vlitqc("metrics", path=other, cwd=tmp_path, code=2)
    assert "better-text" in done.stderr
    assert "Traceback" not in done.stderr


def test_of_packages_that_bring_nothing_only_the_entry_points_are_read(
    tmp_path: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    name_of = metadata.Distribution.name.fget  # type: ignore[attr-defined]

    def name(self: metadata.Distribution) -> str:
        named.append(name_of(self))
        return named[-1]

    distribution(tmp_path, "someone-elses", "[console_scripts]\nelse = else_:main\n")
    distribution(tmp_path, "more-formats", "[vlitqc.formats]\nmore = more_formats:open\n")
    fresh_registry.setattr(metadata.Distribution, "name", property(name))
    fresh_registry.syspath_prepend(tmp_path)
    for kind in (registry.METRICS, registry.MODELS, registry.FORMATS, registry.REPORTS):
        registry.entries(kind)
    assert registry.find(registry.FORMATS, "more").owner == "more-formats"
    assert sorted(set(named)) == ["more-formats", "vlitqc"]
    assert len(named) <= 4


def test_the_same_package_found_twice_is_no_collision(
    installed: Path, fresh_registry: pytest.MonkeyPatch
) -> None:
    fresh_registry.setattr(sys, "path", [str(installed), str(installed), *sys.path])
    assert registry.find(registry.METRICS, "shouting").owner == "vlitqc-shouting"


def test_a_broken_package_is_named(tmp_path: Path, fresh_registry: pytest.MonkeyPatch) -> None:
    other = distribution(
        tmp_path / "other", "half-there", "[vlitqc.metrics.readability]\nbroken = half_there_not:Broken\n"
    )
    fresh_registry.syspath_prepend(other)
    assert registry.find(registry.METRICS, "broken").owner == "half-there"
    with pytest.raises(UsageError, match="of package half-there cannot be imported"):
        registry.load_metric("broken")


def test_a_group_that_is_no_principle_is_named(tmp_path: Path, fresh_registry: pytest.MonkeyPatch) -> None:
    other = distribution(tmp_path / "other", "beauty", "[vlitqc.metrics.beauty]\nbeauty = beauty:Beauty\n")
    fresh_registry.syspath_prepend(other)
    with pytest.raises(
        UsageError, match=r"'vlitqc.metrics.beauty'; the last word must be one of readability"
    ):
        registry.entries(registry.METRICS)


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (
            registry.METRICS,
            "text_readabilty",
            "no metric is called 'text_readabilty'; did you mean text_readability",
        ),
        (registry.METRICS, "zzz", "no metric is called 'zzz'; known: "),
        (registry.MODELS, "bigram", "no model is called 'bigram'; did you mean bigram_lm?"),
        (registry.FORMATS, "jsn", "no format is called 'jsn'; did you mean json"),
        (registry.REPORTS, "htlm", "no report is called 'htlm'; did you mean html"),
    ],
)
def test_an_unknown_name_suggests_near_ones(kind: str, name: str, hint: str) -> None:
    with pytest.raises(UnknownName) as caught:
        registry.find(kind, name)
    assert hint in str(caught.value)
