"""Outputs appear whole or not at all, and replace nothing but their own kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlitqc.engine import disk
from vlitqc.errors import RunError, UsageError
from vlitqc.formats.writing import whole


def test_a_file_replaces_no_folder_and_no_device(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    linked = tmp_path / "linked"
    linked.symlink_to(mine)
    device = tmp_path / "device"
    device.symlink_to("/dev/null")
    for target in (mine, linked, device):
        with pytest.raises(UsageError, match="is no file, and is never"), whole(target, ()) as draft:
            draft.write_text("new")
    assert (linked / "thesis.txt").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device", "linked", "mine"]


def test_a_folder_replaces_a_folder_and_no_file(tmp_path: Path) -> None:
    target = tmp_path / "set"
    target.write_text("mine")
    with pytest.raises(UsageError, match="is no folder"), whole(target, ()) as draft:
        draft.mkdir()
    assert target.read_text() == "mine"
    target.unlink()
    for name in "ab":
        with whole(target, ()) as draft:
            draft.mkdir()
            (draft / name).touch()
        assert [path.name for path in target.iterdir()] == [name]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    linked = tmp_path / "linked"
    linked.symlink_to(elsewhere)
    with whole(linked, ()) as draft:
        draft.mkdir()
    assert linked.is_dir() and not linked.is_symlink()
    assert (elsewhere / "kept").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "linked", "set"]


def test_a_lock_is_held_against_a_second_and_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    lock = tmp_path / "lock"
    lock.symlink_to("mine")
    with (
        disk.locked(lock, "the thing"),
        pytest.raises(RunError, match="the thing is in use by another vlitqc"),
        disk.locked(lock, "the thing"),
    ):
        pass
    with disk.locked(lock, "the thing"):
        assert (tmp_path / "mine").read_text() == "mine"
    with (
        pytest.raises(RunError, match="cannot write it"),
        disk.locked(tmp_path / "mine" / "x", "it"),
    ):
        pass
