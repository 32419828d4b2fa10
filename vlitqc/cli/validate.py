"""``vlitqc validate``: which metrics notice which faults."""

from __future__ import annotations

from collections.abc import Sequence
from json import loads
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlitqc.cli.options import (
    ALLOW_OUTSIDE,
    DEVICE,
    EXIT_CODES,
    FORMAT,
    IMAGE_ROOT,
    JUDGE_MODEL,
    JUDGE_URL,
    LM,
    MAP,
    METRICS,
    PATH,
    RUN,
    judge_of,
)
from vlitqc.cli.score import quieten_libraries
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import UsageError

if TYPE_CHECKING:
    from vlitqc.validity.result import Validity

FEWEST = 5
"""``vlitqc.validity.result.FEWEST``, which is not imported to start up."""


@click.command(epilog=EXIT_CODES)
@click.argument("paths", metavar="DATA|RUN...", nargs=-1, required=True, type=RUN)
@click.option(
    "--profile", metavar="NAME|FILE", help="Which model each metric uses. [that of the data's run, else lite]"
)
@METRICS
@click.option("--corruptions", metavar="A,B,…", help="Only these of the corruptions above.")
@click.option(
    "--records",
    type=click.IntRange(min=FEWEST),
    default=100,
    show_default=True,
    help="Clean records to draw.",
)
@click.option(
    "--parts",
    type=click.IntRange(min=FEWEST),
    default=20,
    show_default=True,
    help="Random halves of them, for metrics of the whole data set.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
)
@IMAGE_ROOT
@FORMAT
@MAP
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Draw from the first N records of the input."
)
@ALLOW_OUTSIDE
@DEVICE
@LM
@JUDGE_URL
@JUDGE_MODEL
@click.option(
    "--judge-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N calls to each judge, over all sets.",
)
@click.option(
    "--out", type=PATH, metavar="FILE.json", help="Where to write. [RUN/validity.json, or beside the input]"
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", is_flag=True, help="Print the result as JSON.")
def validate(
    paths: Sequence[Path | str],
    metrics: str | None,
    corruptions: str | None,
    map: Sequence[str],
    judge_url: str | None,
    judge_model: str | None,
    out: Path | None,
    quiet: bool,
    json: bool,
    **options: Any,
) -> None:
    """Corrupt clean records in controlled ways and measure which metrics notice.

    Clean records are drawn from DATA, or from the input of RUN. Each corruption makes further data sets of them, one
    for each strength, which are scored like any other and then removed. The table has, for each metric, the
    corruptions that it must notice: AUC is the probability that a clean record scores better than another one that is
    corrupted (0.5: chance, 1: always), with its 95% interval. A metric that no corruption should move is looked at too.

    Where the data has a finished run of the profile, its page is written again with the result. It is a measurement:
    the exit code is 0 also where a metric misses its fault.

    \b
    Corruptions:
      texts     shuffled_words, shuffled_instruction_words, typos, random_letters, truncated_response,
                repeated_response, wrong_language, boilerplate_response, simplified_instructions,
                leaked_responses
      pictures  blur, noise, jpeg, downscaled, rotated, exposure, occlusion, flattened, cropped
      pairs     swapped_pictures, swapped_responses, swapped_entities, swapped_numbers, swapped_colours,
                swapped_relations
      sets      duplicated_tasks, long_tail, duplicated_instructions, duplicated_responses, duplicated_pictures,
                similar_pictures, duplicated_records, reworded_records, lost_pictures

    \b
    Examples:
      vlitqc validate data.jsonl
      vlitqc validate data.vlitqc --records 500
      vlitqc validate data.jsonl --metrics image_readability --corruptions blur,noise,jpeg
      vlitqc validate data.jsonl --profile modern --device cuda --out modern.json
    """
    quieten_libraries()
    from vlitqc import console
    from vlitqc.formats.names import Names
    from vlitqc.validity.experiment import validate as experiment
    from vlitqc.validity.result import check_place

    if out is not None:
        check_place(out)
    judge = judge_of(judge_url, judge_model)
    with console.progress(terminal(stderr=True), quiet=quiet or json, stage="clean records") as shown:
        found = experiment(
            paths if len(paths) > 1 else paths[0],
            metrics=_names("--metrics", metrics),
            corruptions=_names("--corruptions", corruptions),
            map=Names.parse(map).fields,
            judge=judge,
            progress=shown,
            **options,
        )
    # Printed first: minutes of work are not lost where it cannot be written.
    if json:
        print_json(found.as_json())
    elif not quiet:
        terminal().print(console.validity(found.as_json()))
    with console.progress(terminal(stderr=True), quiet=quiet or json, stage="report"):
        replaced = None if out is not None else _replaced(found)
        written = found.write(out)
    if replaced and not quiet:
        terminal(stderr=True).print(
            f"note  {console.clean(written.name)} took the place of an earlier result: {replaced}; "
            "--out FILE.json keeps both",
            style="yellow",
            soft_wrap=True,
        )
    if not (json or quiet):
        run = found.run if out is None and found.run and written.parent == found.run.path else None
        click.echo(f"\nresult  {console.visible(f'{run.place}/{written.name}' if run else written)}")
        if run:
            click.echo(f"page    {console.visible(run.place)}/report.html")


def _replaced(found: Validity) -> str | None:
    """What the result has that lies where this one goes, where it is of more corruptions or metrics."""
    try:
        earlier = loads(found.place().read_bytes())
        kinds = {kind: set(earlier[kind]) for kind in ("corruptions", "metrics")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None  # None is there, or one that "write" refuses.
    new = found.as_json()
    if all(kinds[kind] <= new[kind].keys() for kind in kinds):
        return None
    return ", ".join(
        f"{len(names):,} {kind.removesuffix('s' * (len(names) == 1))}" for kind, names in kinds.items()
    )


def _names(option: str, text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} {text!r} names nothing; separate names by commas")
    return names
