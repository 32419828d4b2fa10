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

    Raises UsageError where ``target`` is one of ``inputs``, and for what ``check_kind`` refuses.
    """
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise UsageError(f"{target} is the input itself, which is never overwritten; choose another output")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.part")
    remove(draft)
    try:
        yield draft
        if draft.is_file():
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        check_kind(draft, target)
        put(draft, target)
    finally:
        remove(draft)


def check_kind(draft: Path, target: Path) -> None:
    """Raise UsageError where ``put`` would replace a folder by a file, or a file or a device by something else."""
    folder = draft.is_dir()
    if target.exists() and not (target.is_dir() if folder else target.is_file()):
        raise UsageError(
            f"{target} is no {'folder' if folder else 'file'}, and is never replaced by one; choose another output"
        )


def put(draft: Path, target: Path) -> None:
    """Rename a finished file or folder on the same file system, in place of one of its kind."""
    if draft.is_dir() and target.exists():
        old = draft.with_suffix(".old")
        target.rename(old)
        draft.rename(target)
        remove(old)
    else:
        draft.replace(target)


@contextmanager
def wholes(targets: dict[str, Path], inputs: Collection[Path]) -> Iterator[dict[str, Path]]:
    """``whole`` for each of ``targets`` by name: all appear when the block ends without error, or none."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(whole(path, inputs)) for name, path in targets.items()}


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
