"""Environments of other tools: each made once, by pip, in a folder of its own; ours is never touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from row import Options, Skipped

DATA_JUICER = "1.6.1"
TRANSFORMERS = "4.57.1"
"""What Data-Juicer's own extra ``generic`` names."""


INSTALLS: Mapping[str, Sequence[Sequence[str]]] = {
    "data-juicer": (
        (
            f"py-data-juicer=={DATA_JUICER}",
            f"transformers=={TRANSFORMERS}",
            f"torch=={version('torch').split('+')[0]}",
        ),
    ),
    "karateclub": (
        # The old networkx, numpy and pandas that it asks for have no wheels for this Python; new ones serve too.
        ("--no-deps", "karateclub==1.3.3"),
        (
            "networkx",
            "numpy",
            "pandas",
            "scipy",
            "scikit-learn",
            "python-louvain",
            "gensim",
            "pygsp",
            "python-Levenshtein",
        ),
        ("decorator", "six", "tqdm"),
    ),
}
"""By environment: what each ``pip install`` gets."""


def environment(name: str, options: Options) -> Path:
    """The ``bin`` folder of an environment of ``INSTALLS`` in ``--venvs``, which is made if it is not there.

    Raises Skipped where pip cannot install it, and where ``--quick`` finds none.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = (options.venvs or cache / "vlitqc-benchmarks").absolute() / name
    done = folder / ".installed"
    if done.exists():
        return folder / "bin"
    if options.quick:
        raise Skipped(f"--quick installs nothing, and there is no {folder}")
    wanted = " ".join(word for words in INSTALLS[name] for word in words if not word.startswith("-"))
    print(f"installing {wanted} into {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    for words in INSTALLS[name]:
        pip: list[str | Path] = [folder / "bin" / "pip", "install", "--quiet", *words]
        told = subprocess.run(pip, check=False, capture_output=True, text=True)
        if told.returncode:
            shutil.rmtree(folder)
            lines = told.stderr.strip().splitlines() or ["pip said nothing"]
            why = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1])
            raise Skipped(f"{name} could not be installed: {why}")
    done.touch()
    return folder / "bin"
