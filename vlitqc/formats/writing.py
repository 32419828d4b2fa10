"""Outputs that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vlitqc.errors import UsageError


@contextmanager
def whole(target: Path, inputs: Collection[Path]) -> Iterator[Path]:
    """A path to write to, file or folder, that becomes ``target`` when the block ends without error.

    Raises UsageError where ``target`` is one of ``inputs``.
    """
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise UsageError(f"{target} is the input itself, which is never overwritten; choose another output")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    _remove(draft)
    try:
        yield draft
        if draft.is_file():
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        if target.is_dir() and not target.is_symlink():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            draft.rename(target)
            _remove(old)
        else:
            draft.replace(target)
    finally:
        _remove(draft)


@contextmanager
def wholes(targets: dict[str, Path], inputs: Collection[Path]) -> Iterator[dict[str, Path]]:
    """``whole`` for each of ``targets`` by name: all appear when the block ends without error, or none."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(whole(path, inputs)) for name, path in targets.items()}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
