"""What a user gets: the wheel, built from the sdist, in an environment that has never seen the source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "vlitqc": ROOT / "vlitqc",
    "vlitqc_metrics": ROOT / "metrics" / "vlitqc_metrics",
    "vlitqc_reports": ROOT / "reports" / "vlitqc_reports",
}
DATA_FILES = [
    "vlitqc/py.typed",
    "vlitqc/comparison/comparison.schema.json",
    "vlitqc/engine/scorecard.schema.json",
    "vlitqc/models/imagenet1k.txt",
    "vlitqc/models/reference_captions.txt",
    "vlitqc/models/task_taxonomy.toml",
    "vlitqc/profiles/lite.toml",
    "vlitqc/validity/corruptions/texts.toml",
    "vlitqc_metrics/cards/text_readability.toml",
    "vlitqc_metrics/py.typed",
    "vlitqc_reports/py.typed",
    "vlitqc_reports/templates/report.html.j2",
    "vlitqc_reports/templates/partials/verdict.html.j2",
    "vlitqc_reports/templates/css/base.css",
    "vlitqc_reports/templates/js/main.js",
]
LIMIT_BYTES = 5_000_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it and not from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def names(built: tuple[Path, Path]) -> list[str]:
    with zipfile.ZipFile(built[1]) as wheel:
        return wheel.namelist()


@pytest.fixture(scope="module")
def clean(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' folder of a new environment with the wheel; third parties' packages are lent to it.

    Lent by a path at the end of ``sys.path``: what is installed in the new environment comes first, and an
    editable install of vlitqc in the lending one takes no effect, since its own ``.pth`` is not read.
    """
    home = tmp_path_factory.mktemp("clean") / "env"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    command += ["--no-index", "--force-reinstall", "--disable-pip-version-check", str(built[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return home / "bin"


def call(command: list[object], cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VLITQC_"))}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_three_packages(names: list[str]) -> None:
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".mypy_cache"} & set(path.parts)
    }
    held = {name for name in names if ".dist-info/" not in name}
    assert held == expected
    assert set(DATA_FILES) <= held


def test_the_wheel_holds_no_tests_and_no_examples(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert tops == {*PACKAGES, "vlitqc-0.1.0.dist-info"}


def test_the_wheel_is_small_and_says_what_it_is(built: tuple[Path, Path]) -> None:
    wheel = built[1]
    assert wheel.name == "vlitqc-0.1.0-py3-none-any.whl"
    assert wheel.stat().st_size < LIMIT_BYTES
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("vlitqc-0.1.0.dist-info/METADATA").decode()
        licence = archive.read("vlitqc-0.1.0.dist-info/licenses/LICENSE").decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata
    assert "# vlitqc" in metadata
    assert "Apache License" in licence


def test_the_sdist_holds_what_a_packager_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile", "constraints.txt"):
        assert name in held
    assert "tests/test_packaging.py" in held
    assert "examples/make_demo_data.py" in held
    assert not [name for name in held if name.startswith("examples/demo_data") or "__pycache__" in name]


def test_the_installed_command_works_from_anywhere(clean: Path, tmp_path: Path) -> None:
    assert call([clean / "vlitqc", "--version"], tmp_path).strip().endswith("0.1.0")
    listed = json.loads(call([clean / "vlitqc", "metrics", "--json"], tmp_path))
    assert {"text_readability", "matching_degree", "task_balance"} <= {row["name"] for row in listed}
    assert {row["package"] for row in listed} == {"vlitqc"}


def test_every_entry_point_of_the_wheel_can_be_imported(clean: Path, tmp_path: Path) -> None:
    script = (
        "import json, sys, vlitqc\n"
        "from vlitqc import registry as r\n"
        "kinds = (r.METRICS, r.MODELS, r.FORMATS, r.REPORTS)\n"
        "loaded = [e.load() for kind in kinds for e in r.entries(kind).values()]\n"
        "print(json.dumps(sorted({sys.modules[o.__module__].__file__ for o in loaded} | {vlitqc.__file__})))"
    )
    files = json.loads(call([clean / "python", "-c", script], tmp_path))
    assert len(files) > 20
    assert all(Path(file).is_relative_to(clean.parent) for file in files)


def test_the_installed_command_scores_with_a_model_of_the_profile(clean: Path, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Say what you see."}, {"from": "gpt", "value": "A cat on a mat."}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"id": "one", "conversations": turns}) + "\n")
    command = [clean / "vlitqc", "score", "data.jsonl", "--metrics", "text_readability", "--json"]
    card = json.loads(call([*command], tmp_path))
    assert card["counts"] == {"records": 1, "scored": 1, "partial": 0, "unreadable": 0}
    assert (tmp_path / "data.vlitqc" / "report.html").is_file()
