"""``vlitqc inspect``: a data set without any model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from vlitqc.cli.options import EXIT_CODES, LINES, PATH
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import InputError


@click.command(epilog=EXIT_CODES)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
@click.option("--format", metavar="NAME", help="Input format. [detected]")
@click.option(
    "--map", multiple=True, type=LINES, metavar="OURS=THEIRS", help="What a field is called in the data."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N records.")
@click.option(
    "--image-root",
    type=PATH,
    help="Folder that media paths start from. [found from the records]",
)
@click.option("--no-media", is_flag=True, help="Count the media, but open none.")
@click.option("--allow-outside", is_flag=True, help="Let media paths leave the image root.")
@click.option("--json", is_flag=True, help="Print as JSON.")
def inspect(
    paths: Sequence[Path],
    format: str | None,
    map: Sequence[str],
    limit: int | None,
    image_root: Path | None,
    no_media: bool,
    allow_outside: bool,
    json: bool,
) -> None:
    """Say what a data set holds and every fault in it, without any model.

    PATH is a file, a folder, or a pattern; several are read one after another. Media are opened, URLs are not
    fetched, and nothing is written.

    \b
    Examples:
      vlitqc inspect data.jsonl
      vlitqc inspect shards/ --no-media
      vlitqc inspect pairs.csv --map image=photo --map caption=alt
      vlitqc inspect data.jsonl --json > inspection.json
    """
    from vlitqc import console
    from vlitqc.engine import inspection
    from vlitqc.formats.names import Names

    with console.progress(terminal(stderr=True), quiet=json, stage="reading") as shown:
        found = inspection.inspect(
            paths,
            format=format,
            map=Names.parse(map).fields,
            limit=limit,
            image_root=image_root,
            media=not no_media,
            allow_outside=allow_outside,
            progress=shown,
        )
    out, page = terminal(), found.as_json()
    if json:
        print_json(page)
    else:
        out.print(console.inspection(page))
        out.print()
        for sentence in console.advice(page):
            out.print(f"hint  {sentence}", style="yellow")
    if not found.readable:
        if not found.records:
            raise InputError(f"{found.path} holds no records")
        raise InputError(f"no record can be read, of {found.records:,}; the issues say why")
    if not json:
        told = [("--format", format), *(("--map", text) for text in map), ("--image-root", image_root)]
        options = [str(part) for name, value in told if value is not None for part in (name, value)]
        options += ["--allow-outside"] * allow_outside
        named = [f"./{path}" if str(path).startswith("-") else str(path) for path in paths]
        command = shlex.join(["vlitqc", "score", *named, *options])
        out.print(f"next  [bold]{console.clean(command)}[/bold]", soft_wrap=True)
        # Unreadable records go to a file of their own; where a drop would take most, there is a cure above it.
        dropped = found.with_errors - found.unreadable
        if 0 < 2 * dropped <= found.readable:
            command = shlex.join(["vlitqc", "filter", *named, "--drop-issue", "error"])
            told_of = f"{dropped:,} record{'s' * (dropped != 1)} with errors"
            out.print(f"then  {console.clean(command)}  to drop {told_of}", soft_wrap=True)
