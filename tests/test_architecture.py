"""The walls of the house: who may import whom, and what start-up must not touch."""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (ROOT / "vlitqc", ROOT / "metrics" / "vlitqc_metrics", ROOT / "reports" / "vlitqc_reports")

MAY_IMPORT: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "analysis": set(),
    "media_tokens": set(),
    "language": set(),
    "registry": {"types", "errors"},
    "profiles": {"types", "errors"},
    "prompts": {"types"},
    "models": {"types", "errors", "media_tokens", "language", "prompts", "registry", "profiles"},
    "remote": {"errors"},
    "media": {"types", "errors", "remote"},
    "formats": {"types", "errors", "media_tokens", "registry"},
    "executors": {"types", "errors", "models", "engine"},
    "engine": {
        "types",
        "errors",
        "analysis",
        "registry",
        "profiles",
        "models",
        "media",
        "remote",
        "formats",
        "executors",
    },
    "filtering": {"types", "errors", "analysis", "engine", "formats"},
    "comparison": {"types", "errors", "analysis", "engine", "registry", "formats", "filtering"},
    "gates": {"errors", "analysis", "engine", "formats"},
    "validity": {
        "types",
        "errors",
        "analysis",
        "registry",
        "profiles",
        "media_tokens",
        "language",
        "media",
        "formats",
        "engine",
    },
    "cards": {"types", "errors", "registry", "profiles"},
    "console": {"types", "errors"},
    "testing": {"types", "errors"},
    "vlitqc": {
        "types",
        "errors",
        "engine",
        "filtering",
        "comparison",
        "validity",
    },  # the Python API in __init__.py
    "cli": {
        "errors",
        "registry",
        "profiles",
        "models",
        "formats",
        "engine",
        "filtering",
        "comparison",
        "gates",
        "analysis",
        "validity",
        "cards",
        "console",
    },
    "__main__": {"cli"},
    "vlitqc_metrics": {"types", "errors", "media_tokens", "language", "prompts", "analysis"},
    "vlitqc_reports": {"types", "errors", "analysis", "engine"},
}
"""Room → the rooms whose modules it may import, itself aside. A room of the core is what follows ``vlitqc.``."""

EXCEPTIONS = {("vlitqc.engine.run", "vlitqc.filtering.request")}
"""Module → module, against the table: ``Run.filter`` is the filter as a method of a run, and a run lies below it. The
import is made when the method is called; ``test_a_run_comes_without_the_filter`` sees to that."""

OUR_NAME = re.compile(r"(vlitqc(?:_metrics|_reports)?)((?:\.\w+)*)(?::\w+)?")
BY_NAME = ("import_module", "__import__", "resolve_name")
HEAVY = (
    "torch",
    "numba",
    "spacy",
    "sklearn",
    "skimage",
    "scipy",
    "networkx",
    "ray",
    "transformers",
    "sentence_transformers",
    "pandas",
    "av",
    "pyarrow",
    "polars",
    "numpy",
    "PIL",
    "lark",
    "yaml",
    "vlitqc_metrics",
    "vlitqc_reports",
)
LIBRARIES_OF_MODELS = ("torch", "transformers", "sentence_transformers", "spacy", "sklearn", "tokenizers")
START_UP_SECONDS = 0.5


# ---------------------------------------------------------------- arrows


def room(module: str) -> str:
    """The room of a module: ``vlitqc.engine.run`` lies in ``engine``, ``vlitqc_metrics.x`` in its package."""
    package, _, inner = module.partition(".")
    return inner.partition(".")[0] or package if package == "vlitqc" else package


def modules(sources: tuple[Path, ...]) -> dict[str, Path]:
    """Every module under the packages, by dotted name."""
    found = {}
    for package in sources:
        for path in sorted(package.rglob("*.py")):
            parts = path.relative_to(package.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Each of our modules that ``module`` names in an import of any form, with its line.

    Counted: ``import``, ``from … import`` (absolute and relative), both also inside functions and under
    TYPE_CHECKING; strings handed to ``import_module`` and its like; and in the core every other string that
    is nothing but the name of a module (or ``module:attribute``) of the other two packages. A call of
    ``import_module`` with a computed name comes as ``?``.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from ours(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                # "from vlitqc import cli" is the module cli; "from vlitqc import score" is the package itself.
                whole = f"{base}.{alias.name}"
                yield from ours(whole if whole in known else base, node.lineno)
        elif isinstance(node, ast.Call) and called(node) in BY_NAME and node.args:
            name = node.args[0]
            if isinstance(name, ast.JoinedStr) and name.values:
                name = name.values[0]  # of a composed name the head tells whose module it is
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield from ours(name.value, node.lineno)
            else:
                yield "?", node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and room(module) in CORE:
            match = OUR_NAME.fullmatch(node.value)
            if match and match[1] != "vlitqc":
                yield match[1] + match[2], node.lineno


CORE = {name for name in MAY_IMPORT if not name.startswith("vlitqc_")}


def called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def ours(name: str, line: int) -> Iterator[tuple[str, int]]:
    match = OUR_NAME.fullmatch(name)
    if match:
        yield match[1] + match[2], line


def violations(sources: tuple[Path, ...]) -> list[str]:
    """Every arrow that MAY_IMPORT does not hold, as ``module:line imports module``."""
    known = modules(sources)
    found = []
    for module, path in known.items():
        here = room(module)
        for target, line in set(imported(module, path, known)):
            there = room(target)
            allowed = there == here or (module, target) in EXCEPTIONS
            if here not in MAY_IMPORT or not (allowed or there in MAY_IMPORT[here]):
                found.append(f"{module}:{line} imports {target}")
    return sorted(found)


def test_every_import_follows_an_arrow_of_the_design() -> None:
    assert violations(SOURCES) == []


def test_every_exception_is_needed() -> None:
    known = modules(SOURCES)
    for module, target in EXCEPTIONS:
        assert room(target) not in MAY_IMPORT[room(module)]
        assert target in {name for name, _ in imported(module, known[module], known)}


def test_a_run_comes_without_the_filter() -> None:
    script = "import json, sys, vlitqc.engine.run; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = json.loads(done.stdout)
    assert "vlitqc.engine.run" in loaded
    assert [name for name in loaded if name.startswith(("vlitqc.filtering", "polars", "lark"))] == []


def test_every_room_has_its_place_in_the_table() -> None:
    rooms = {room(module) for module in modules(SOURCES)}
    assert rooms == set(MAY_IMPORT)


def test_the_table_has_the_layers_of_the_design() -> None:
    layers = [
        {"types", "errors", "media_tokens", "language", "analysis"},
        {"registry", "profiles", "prompts", "remote"},
        {"models", "media", "formats"},
        {"engine", "executors"},
        {"filtering", "comparison", "gates", "validity", "cards", "console", "testing"},
        {"vlitqc", "cli"},
        {"__main__"},
    ]
    height = {name: i for i, layer in enumerate(layers) for name in layer}
    assert set(height) == CORE
    for name in CORE:
        assert all(height[used] <= height[name] for used in MAY_IMPORT[name]), name
        assert not MAY_IMPORT[name] & {"vlitqc_metrics", "vlitqc_reports"}
    assert "vlitqc_reports" not in MAY_IMPORT["vlitqc_metrics"]
    assert "vlitqc_metrics" not in MAY_IMPORT["vlitqc_reports"]


PLANTED = {
    "vlitqc/__init__.py": "from vlitqc.engine import run\n",
    "vlitqc/types.py": "import json\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import vlitqc.errors\n",
    "vlitqc/errors.py": '"""vlitqc_metrics.length is only spoken of here."""\n',
    "vlitqc/cli.py": "import vlitqc.errors\nfrom . import engine\n",
    "vlitqc/media.py": "def load():\n    from vlitqc import cli\n    return cli\n",
    "vlitqc/engine/__init__.py": "from .run import score\nfrom ..types import Sample\n",
    "vlitqc/engine/run.py": (
        "import importlib\n"
        "from ..cli import main\n"
        'page = importlib.import_module("vlitqc_reports.html")\n'
        'NAME = "vlitqc_metrics.length:Length"\n'
        "importlib.import_module(NAME)\n"
        "from importlib import import_module as load\n"
        "def kept():\n    from vlitqc.filtering.request import request\n    import vlitqc.filtering.apply\n"
    ),
    "vlitqc/filtering/__init__.py": "",
    "vlitqc/filtering/apply.py": "",
    "vlitqc/filtering/request.py": "from vlitqc.engine.run import Run\nfrom vlitqc.filtering import apply\n",
    "vlitqc/engine/scorer.py": (
        "from . import run\nfrom .. import errors, score\nfrom vlitqc.filtering.request import request\n"
    ),
    "vlitqc_metrics/__init__.py": "",
    "vlitqc_metrics/length.py": "from vlitqc import types\nfrom ._algorithms import n\nimport vlitqc_reports.html\n",
    "vlitqc_metrics/_algorithms/__init__.py": "import re\nfrom vlitqc.models.store import ModelStore\n",
    "vlitqc_reports/__init__.py": "async def page():\n    import vlitqc_metrics.length as metric\n    return metric\n",
    "vlitqc_reports/html.py": "from vlitqc.engine.run import Run\nfrom vlitqc.formats import open_input\n",
}


def test_the_walker_sees_planted_violations(tmp_path: Path) -> None:
    for name, text in PLANTED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sources = tuple(tmp_path / name for name in ("vlitqc", "vlitqc_metrics", "vlitqc_reports"))
    assert violations(sources) == [
        "vlitqc.engine.run:2 imports vlitqc.cli",
        "vlitqc.engine.run:3 imports vlitqc_reports.html",
        "vlitqc.engine.run:4 imports vlitqc_metrics.length",
        "vlitqc.engine.run:5 imports ?",
        "vlitqc.engine.run:9 imports vlitqc.filtering.apply",
        "vlitqc.engine.scorer:2 imports vlitqc",
        "vlitqc.engine.scorer:3 imports vlitqc.filtering.request",
        "vlitqc.media:2 imports vlitqc.cli",
        "vlitqc.types:4 imports vlitqc.errors",
        "vlitqc_metrics._algorithms:2 imports vlitqc.models.store",
        "vlitqc_metrics.length:3 imports vlitqc_reports.html",
        "vlitqc_reports.html:2 imports vlitqc.formats",
        "vlitqc_reports:2 imports vlitqc_metrics.length",
    ]


# ---------------------------------------------------------------- start-up


def modules_after(*arguments: str) -> set[str]:
    """The top-level names in ``sys.modules`` after the command line has run with these arguments."""
    script = (
        "import json, sys\n"
        f"sys.argv = {['vlitqc', *arguments]!r}\n"
        "from vlitqc.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print()\nprint(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["score", "--help"],
        ["filter", "--help"],
        ["check", "--help"],
        ["compare", "--help"],
        ["correlate", "--help"],
        ["validate", "--help"],
        ["metrics"],
        ["models", "list"],
    ],
    ids=" ".join,
)
def test_start_up_imports_nothing_heavy_and_no_metric(arguments: list[str]) -> None:
    loaded = modules_after(*arguments)
    assert "vlitqc" in loaded
    assert not loaded & set(HEAVY)


def test_the_package_itself_imports_nothing_heavy() -> None:
    script = "import json, sys, vlitqc, vlitqc.types, vlitqc.registry; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & set(HEAVY)


def test_describing_one_metric_loads_that_metric_but_no_model() -> None:
    loaded = modules_after("metrics", "matching_degree")
    assert "vlitqc_metrics" in loaded
    assert not loaded & {"torch", "spacy", "numba", "sklearn", "skimage", "transformers", "pandas"}


def test_a_run_whose_features_are_known_imports_no_library_of_models(
    make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLITQC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VLITQC_CACHE_SIZE", "100M")
    data = make_data(6)
    loaded = [modules_after("score", str(data), "--out", str(tmp_path / out)) for out in ("first", "second")]
    assert "torch" in loaded[0]
    assert {"vlitqc_metrics", "vlitqc_reports"} <= loaded[1]
    assert not loaded[1] & set(LIBRARIES_OF_MODELS)
    assert (tmp_path / "second" / "report.html").is_file()


@pytest.mark.parametrize("arguments", [["--help"], ["metrics"]], ids=" ".join)
def test_start_up_is_quick(arguments: list[str]) -> None:
    # Processor time, so that what else the machine does does not count.
    least = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "vlitqc", *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if least < START_UP_SECONDS:
            break
    assert least < START_UP_SECONDS, f"vlitqc {' '.join(arguments)} took {least:.2f} s, the best of five"
