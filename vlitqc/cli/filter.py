"""``vlitqc filter``, ``vlitqc recipes`` and ``vlitqc explain``: a scored data set in two, and why."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from vlitqc.cli.options import EXIT_CODES, LINES, PATH, RUN, open_run
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import UsageError

if TYPE_CHECKING:
    from vlitqc.engine.run import Run

RECOMMENDED = "recommended"


@click.command(name="filter", epilog=EXIT_CODES)
@click.argument("run", nargs=-1, type=RUN, metavar="[RUN|PATH...]")
@click.option(
    "--recipe",
    multiple=True,
    type=LINES,
    metavar="NAME|FILE",
    help="Rules and selection of a recipe, or of several together; see 'vlitqc recipes'. [clean, without any rule]",
)
@click.option(
    "--drop-below",
    multiple=True,
    is_flag=False,
    flag_value=RECOMMENDED,
    type=LINES,
    metavar="[M=LEVEL[,by=COLUMN][,missing=…]]",
    help="Drop records that score below a level: 12.5, p10 (10th percentile), z2 or mad3 (so many deviations "
    "from the centre). Without a value: the recommended floors.",
)
@click.option(
    "--drop-above",
    multiple=True,
    type=LINES,
    metavar="M=LEVEL[,…]",
    help="Drop records that score above one.",
)
@click.option(
    "--drop-issue",
    multiple=True,
    type=LINES,
    metavar="KIND",
    help="Drop records with this issue; 'error' means any error.",
)
@click.option(
    "--where",
    multiple=True,
    type=LINES,
    metavar="EXPR",
    help="Keep only records for which this is true, or cannot be told.",
)
@click.option(
    "--by", metavar="COLUMN", help="Levels such as p10 within each task, source, …, not over all records."
)
@click.option(
    "--missing",
    type=click.Choice(["keep", "drop", "error"]),
    default="keep",
    show_default=True,
    help="What becomes of a record without the score that a rule of this command needs.",
)
@click.option("--keep", metavar="N|P%", help="Select so many of the records that the rules keep.")
@click.option("--balance", metavar="COLUMN", help="Select equal shares of each task, source, …")
@click.option(
    "--quota",
    multiple=True,
    type=LINES,
    metavar="TASK=N",
    help="Select at most N records of a task; may be repeated.",
)
@click.option(
    "--diversity",
    type=click.Choice(["greedy", "facility_location", "none"]),
    help="How a selection avoids records that are alike. [greedy]",
)
@click.option(
    "--must-keep",
    multiple=True,
    type=LINES,
    metavar="ID|@FILE",
    help="Keep this record whatever the rules say; @FILE holds one id a line.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the selection and its random control.",
)
@click.option("--out", type=PATH, help="Folder for the files. [beside the input]")
@click.option("--dry-run", is_flag=True, help="Say what would go and what that does; write nothing.")
@click.option("--no-principles", is_flag=True, help="Leave the slow part out of --dry-run.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", is_flag=True, help="Print the result as JSON.")
def filter_(
    run: Sequence[Path | str],
    recipe: Sequence[str],
    drop_below: Sequence[str],
    drop_above: Sequence[str],
    drop_issue: Sequence[str],
    where: Sequence[str],
    by: str | None,
    missing: Any,
    keep: str | None,
    balance: str | None,
    quota: Sequence[str],
    diversity: Any,
    must_keep: Sequence[str],
    seed: int,
    out: Path | None,
    dry_run: bool,
    no_principles: bool,
    quiet: bool,
    json: bool,
) -> None:
    """Divide a scored data set into kept and dropped records, each byte for byte as it was.

    RUN is a run directory, its URL, or the paths that were scored; by default the latest run in this folder. The
    files go beside the input on this machine, or to --out, also where the run is at a URL. A record goes if
    one rule drops it; an unreadable record goes to a file of its own. Without any rule the recipe is 'clean', with
    --keep alone it is 'subset'. A selection also writes a random control of its size.

    \b
    Examples:
      vlitqc filter --dry-run                               what the recipe 'clean' would do to the latest run
      vlitqc filter --drop-below                            below the recommended floors
      vlitqc filter data.vlitqc --drop-below matching_degree=p10,by=task --drop-issue error
      vlitqc filter --where 'matching_degree >= 22 and (text_only or image_readability > p5)'
      vlitqc filter --recipe clean --keep 20% --balance task --must-keep @ids.txt --out subset
    """
    from vlitqc import console
    from vlitqc.filtering.recipes import load_all
    from vlitqc.filtering.request import request

    for text in drop_below:
        if "=" not in text and text != RECOMMENDED:
            raise UsageError(
                f"--drop-below {text}: expected METRIC=LEVEL, as in matching_degree=p10; to drop what lies below the "
                "recommended floors, put --drop-below last"
            )
    opened = open_run(run)
    asked = request(
        opened,
        recipe=load_all(recipe) if recipe else None,
        recommended=RECOMMENDED in drop_below,
        drop_below=[text for text in drop_below if text != RECOMMENDED],
        drop_above=drop_above,
        drop_issues=drop_issue,
        where=where,
        by=by,
        missing=missing,
        keep=keep,
        balance=balance,
        quotas=quota,
        diversity=diversity,
        must_keep=[name for text in must_keep for name in _ids(text)],
    )
    screen = terminal()
    shown = not (quiet or json)
    if shown and not run:
        screen.print(f"run [bold]{console.clean(opened.path.name)}[/bold] (the latest here)\n")
    if shown and RECOMMENDED in drop_below:
        screen.print(console.floors(_floors(opened), opened.info["profile"]["name"]))
        screen.print()
    result = asked.apply(
        opened, out=out, dry_run=dry_run, effect=dry_run, principles=not no_principles, seed=seed
    )
    if shown and asked.recipe is not None:
        chosen = "" if recipe else ", since no rule was given"
        title = f": {asked.recipe.title}" if asked.recipe.title else ""
        screen.print(
            f"recipe [bold]{console.clean(asked.recipe.name)}[/bold]{chosen}{console.clean(title)}\n"
        )
    page = {
        "run": opened.place,
        "seed": seed,
        "dry_run": dry_run,
        "recipe": {key: getattr(asked.recipe, key) for key in ("name", "sha256")} if asked.recipe else None,
        "counts": result.counts,
        "limit": opened.info["plan"]["limit"],
        "by_rule": result.by_rule,
        "names": {rule.words: rule.name for rule in result.decided.rules if rule.name},
        "notes": result.notes,
        "strata": result.selected.strata if result.selected else [],
        "effect": result.effect.as_json() if result.effect else None,
        "comparison": _compared(result.comparison) if result.comparison else None,
        "written": {name: str(path) for name, path in result.written.items()},
        "not_copied": result.not_copied,
    }
    if json:
        print_json(page)
    elif not quiet:
        screen.print(console.filtered(page))
        if dry_run:
            command = " ".join(map(_quoted, ["vlitqc", *_for_real(sys.argv[1:])]))
            if click.get_current_context().get_parameter_source("dry_run") is ParameterSource.ENVIRONMENT:
                command = f"VLITQC_FILTER_DRY_RUN=0 {command}"
            screen.print(
                f"\ndry run: nothing was written; to write it:\n  {console.clean(command)}", soft_wrap=True
            )


def _compared(sections: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of what was selected, of the random control, and of the input, side by side."""
    from vlitqc.filtering.effect import moved

    return [asdict(one) for one in moved(sections["input"], sections["selected"], sections["control"])]


def _floors(run: Run) -> Iterator[tuple[str, float, int]]:
    """Metric, recommended floor, and the readable records below it."""
    from vlitqc.filtering.decisions import decide, floors
    from vlitqc.filtering.table import ScoreTable

    metrics = run.metrics()
    decided = decide(ScoreTable.of(run), floors(metrics))
    for settled, n in zip(decided.rules, decided.by_rule.values(), strict=True):
        (compared,) = settled.compared
        yield compared.column, metrics[compared.column]["floor"], n


def _ids(text: str) -> list[str]:
    """An id, or those of @FILE, one a line."""
    if not text.startswith("@"):
        return [text]
    path = Path(text[1:])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"--must-keep {text}: the file is not UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"--must-keep {text}: the file cannot be read ({error.strerror})") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UsageError(f"--must-keep {text}: the file holds no id; write one a line")
    return found


def _for_real(arguments: Sequence[str]) -> list[str]:
    """The arguments of the same filter without the dry run."""
    return [text for text in arguments if text not in ("--dry-run", "--no-principles")]


def _quoted(text: str) -> str:
    """An argument as a shell reads it, also where it holds what a terminal must not get."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        f"\\{c}" if c in "\\'" else c if c.isprintable() else "".join(f"\\x{b:02x}" for b in os.fsencode(c))
        for c in text
    )
    return f"$'{''.join(escaped)}'"


@click.command()
@click.argument("name", required=False, metavar="[NAME|FILE]")
@click.option("--json", is_flag=True, help="Print as JSON.")
def recipes(name: str | None, json: bool) -> None:
    """List the recipes of 'vlitqc filter', or show one.

    A recipe is a documented file, to be copied and changed.

    \b
    Examples:
      vlitqc recipes
      vlitqc recipes clean > mine.toml
      vlitqc filter --recipe mine.toml --dry-run
    """
    from vlitqc import console
    from vlitqc.filtering import recipes as shipped

    found = [shipped.load(one) for one in ([name] if name is not None else shipped.names())]
    keys = ("name", "title", "summary", "sha256", *(["text"] if name is not None else []))
    lines = [{key: getattr(recipe, key) for key in keys} for recipe in found]
    if json:
        print_json(lines[0] if name is not None else lines)
    elif name is not None:
        click.echo("\n".join(map(console.visible, lines[0]["text"].splitlines())))
    else:
        terminal().print(console.rows(["recipe", "what it does"], ((r["name"], r["title"]) for r in lines)))


@click.command(epilog=EXIT_CODES)
@click.argument("run", type=RUN)
@click.argument("id_", metavar="ID")
@click.option(
    "--decisions", type=PATH, metavar="FILE", help="Those of another filter. [the latest of the run]"
)
@click.option("--json", is_flag=True, help="Print as JSON.")
def explain(run: Path | str, id_: str, decisions: Path | None, json: bool) -> None:
    """Tell why a record was kept or dropped.

    It tells every rule with value and threshold, the record's scores among all others', its issues and copies. RUN is
    a run directory, its URL, or the path that was scored; ID the record's id, or its row as in row:17.

    \b
    Examples:
      vlitqc explain data.vlitqc 000000215677
      vlitqc explain data.jsonl row:17 --decisions subset/data.decisions.parquet
    """
    from vlitqc import console
    from vlitqc.filtering.explain import explain as explained

    page = explained(open_run([run]), id_, decisions=decisions).as_json()
    if json:
        print_json(page)
    else:
        terminal().print(console.explanation(page))
