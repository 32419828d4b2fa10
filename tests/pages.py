"""What the pages of the documentation and the README hold: code blocks, commands, links, anchors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vlitqc import registry
from vlitqc.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"(?:<!-- (?P<mark>[a-z]+)(?:: (?P<value>[^>]*?))? -->\n\n)?"
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_THRESHOLD = re.compile(r"\w+=p?[\d.-]+")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``mark`` and ``value`` are those of ``<!-- mark: value -->`` right above it."""

    language: str
    text: str
    line: int
    mark: str = ""
    value: str = ""


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in order, of all languages or of some."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(
            fence["language"],
            re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE),
            text.count("\n", 0, fence.start("language")) + 1,
            fence["mark"] or "",
            (fence["value"] or "").strip(),
        )
        for fence in _FENCE.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def commands(page: Path) -> Iterator[str]:
    """Every ``vlitqc …`` of the page's shell blocks, without its comment."""
    for block in blocks(page, "sh"):
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("vlitqc "):
                yield line.partition(" #")[0].strip()


def parse(line: str, extra: frozenset[str] = frozenset()) -> None:
    """Parse a command as the command line would, and look up the columns that its thresholds name.

    ``extra`` names columns that no metric of ours has.
    """
    _, name, *arguments = shlex.split(line)
    command: Any = cli.commands[name]
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        command = command.commands[name]
    if "--help" in arguments:
        return
    # As the command line does: a command remembers the names of its option for help from its first context.
    with command.make_context(name, arguments, parent=click.Context(cli, **cli.context_settings)) as context:
        assert isinstance(context, click.Context)
    scored = {
        column
        for entry in registry.entries(registry.METRICS)
        for spec in [registry.load_metric(entry).spec]
        for column in (spec.name if spec.level == "sample" else "", *spec.columns)
    }
    thresholds = {
        word.partition("=")[0]
        for before, word in zip(["", *arguments], arguments, strict=False)
        if before in ("--drop-below", "--drop-above") and _THRESHOLD.match(word)
    }
    assert thresholds <= scored | extra, f"no column is called {thresholds - scored - extra}"


def links(page: Path) -> list[str]:
    """The targets of a page's links, without those inside of code and comments."""
    text = _CODE.sub("", _COMMENT.sub("", page.read_text(encoding="utf-8")))
    return _LINK.findall(text)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links that lead nowhere: to no file, to no heading of a page, or to a malformed address."""
    broken = []
    for target in links(page):
        if "://" in target:
            if not re.fullmatch(r"https://[\w.-]+\.[a-z]+(?:[/?#][^\s<>\"]*)?", target):
                broken.append(target)
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if (
            not path.exists()
            or not path.is_relative_to(ROOT)
            or (anchor and (path.suffix != ".md" or anchor not in anchors(path)))
        ):
            broken.append(target)
    return broken
