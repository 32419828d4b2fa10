"""``vlitqc score``: a data set's run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
from vlitqc.cli.streams import print_json, terminal
from vlitqc.errors import InputError, UsageError, VlitqcError

if TYPE_CHECKING:
    from vlitqc.engine.run import Run


class _BatchSize(click.ParamType[Any]):
    name = "auto|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"]:
        return "auto" if value == "auto" else click.IntRange(min=1).convert(value, param, ctx)


@click.command(epilog=EXIT_CODES)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Which model each metric uses."
)
@METRICS
@IMAGE_ROOT
@FORMAT
@MAP
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N records.")
@click.option(
    "--out",
    type=RUN,
    metavar="DIR|URL",
    help="Run directory, or the URL of one: s3://bucket/run. [PATH.vlitqc beside the input]",
)
@DEVICE
@click.option(
    "--batch-size",
    type=_BatchSize(),
    default="auto",
    show_default=True,
    help="Records that the models see together; auto is 32 on the CPU and 256 on a GPU.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes; each loads its own models, but for those on a cluster's GPUs. "
    "[1; with ray one for each free processor]",
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where to score: this machine, or a Ray cluster; see docs/cluster.md.",
)
@click.option(
    "--ray-address",
    metavar="auto|HOST:PORT",
    help="The cluster; auto is the one that this machine belongs to. [one on this machine, for the run]",
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    metavar="F",
    help="GPUs of each process that holds a model on the cluster, such as 0.25; 0: none. [a GPU shared by all models]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@LM
@JUDGE_URL
@JUDGE_MODEL
@click.option(
    "--judge-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N calls to each judge; what is left is null, and asked by the next run.",
)
@ALLOW_OUTSIDE
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Fetch pictures with http and https URLs into the run directory; never from private addresses.",
)
@click.option(
    "--no-cache", is_flag=True, help="Neither use nor fill the cache of features; see 'vlitqc cache'."
)
@click.option("--strict", is_flag=True, help="Exit 4 if any sample was not fully scored.")
@click.option("--max-errors", metavar="N|P%", help="Exit 4 if more records than this have errors.")
@click.option(
    "--profile-time",
    is_flag=True,
    help="Print at the end where the time went, by stage, metric and model, and what would help; "
    "run.json has the numbers under times.",
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", is_flag=True, help="Print the scorecard as JSON.")
def score(
    paths: Sequence[Path],
    metrics: str | None,
    strict: bool,
    max_errors: str | None,
    profile_time: bool,
    no_cache: bool,
    quiet: bool,
    json: bool,
    format: str | None,
    map: Sequence[str],
    judge_url: str | None,
    judge_model: str | None,
    **options: Any,
) -> None:
    """Score a data set and write its run directory: scores, issues, scorecard, page.

    PATH is a file, a folder or a quoted glob pattern; several are read one after another as one data set. The
    same command again takes up an interrupted run; finished shards are not computed twice.

    \b
    Examples:
      vlitqc score data.jsonl
      vlitqc score data.json --image-root images --out runs/first
      vlitqc score shards/*.parquet --map response=target
      vlitqc score data.jsonl --metrics text_readability,matching_degree --limit 500
      vlitqc score data.jsonl --json > scorecard.json
      vlitqc score data.jsonl --limit 500 --profile-time
      vlitqc score data.jsonl --lm smollm2
      vlitqc score data.jsonl --judge-url http://localhost:8000/v1 --judge-model llava-1.5-7b
      vlitqc score data.jsonl --profile paper
      vlitqc score data.jsonl --engine ray --ray-address auto
      vlitqc score data.jsonl --out s3://bucket/run

    Runs at a URL: any that fsspec can write to (pip install 'vlitqc[s3]' for s3). Credentials come from the
    environment or FSSPEC_CONFIG alone. Every machine keeps its copy below VLITQC_CACHE, and takes up from the URL
    what another has finished. Do not write from two at a time.
    """
    budget = _budget(max_errors)
    quieten_libraries()
    from vlitqc import console
    from vlitqc.engine import run as engine
    from vlitqc.engine import scorecard
    from vlitqc.engine.disk import locked
    from vlitqc.formats.names import Names

    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics is not None else None
    if names == []:
        raise UsageError(f"--metrics {metrics!r} names no metric; see 'vlitqc metrics'")
    judge = judge_of(judge_url, judge_model)

    def announce(text: str) -> None:
        if not quiet:
            terminal(stderr=True).print(console.clean(text), style="dim", soft_wrap=True)

    with console.progress(terminal(stderr=True), quiet=quiet or json) as shown:
        finished = engine.score(
            paths if len(paths) > 1 else paths[0],
            metrics=names,
            format=format,
            map=Names.parse(map).fields,
            report=False,
            command=shlex.join(["vlitqc", *sys.argv[1:]]),
            progress=shown,
            judge=judge,
            announce=announce,
            cache=not no_cache,
            **options,
        )
    card = finished.scorecard
    try:
        if json:
            print_json(card)
        elif not quiet:
            _show(finished)
    finally:
        # Also where nobody reads on, as behind "| head".
        with (
            locked(finished.path / ".lock", f"the run directory {finished.place}"),
            console.progress(terminal(stderr=True), quiet=quiet or json, stage="report") as shown,
        ):
            if shown:
                shown.records(card["counts"]["records"], 1.0)
            engine.write_report(finished)
    if profile_time:
        # Beside a scorecard that is JSON the table is for whoever watches.
        terminal(stderr=json).print("", console.times(finished.info))
    counts = card["counts"]
    if counts["unreadable"] == counts["records"]:
        raise InputError(
            f"no record can be read, of {counts['records']:,}; {finished.place}/issues.parquet says why"
        )
    unfinished = counts["partial"] + counts["unreadable"]
    failed = scorecard.failed(m for principle in card["principles"] for m in principle["metrics"])
    if strict and (unfinished or failed):
        raise _Unfinished(
            f"--strict: {unfinished:,} records were not fully scored; the table of scores has their reasons"
            + (f"; without a value: {', '.join(failed)}" if failed else "")
        )
    if budget is not None:
        allowed, text = budget(counts["records"]), max_errors
        errors = finished.issues.query("severity == 'error'")["row"].nunique()
        if errors > allowed:
            raise _Unfinished(
                f"{errors:,} records have errors, more than --max-errors {text} allows; see issues.parquet"
            )


def _show(finished: Run) -> None:
    """Print a run's scorecard, what is to be said beside it, and where its scores and its page are."""
    from vlitqc import console

    card = finished.scorecard
    out = terminal()
    out.print(console.scorecard(card))
    cached = finished.info["cache"] or {}
    for note in (*card["input"]["notes"], *filter(None, [cached.get("fault")])):
        out.print(f"\nnote  {console.clean(note)}", style="yellow", soft_wrap=True)
    aside = ", ".join(f"{kind} {n:,}" for kind, n in card["input"]["others"].items())
    if aside:
        out.print(f"\nfiles left aside: {console.clean(aside)}", style="dim", soft_wrap=True)
    for slot, counts in finished.info["usage"].items():
        out.print(f"\n{console.clean(slot)}: {console.usage(counts)}", style="dim")
    if card["profile"]["adds"]:
        out.print(f"\n{console.clean(card['profile']['adds'])}", style="dim")
    folder = console.clean(finished.place)
    out.print(f"\nscores  {folder}/scores\npage    {folder}/report.html", soft_wrap=True)


class _Unfinished(VlitqcError):
    exit_code = 4


def _budget(text: str | None) -> Any:
    if text is None:
        return None
    try:
        share = text.endswith("%")
        value = float(text.removesuffix("%")) if share else int(text)
        if not 0 <= value < float("inf"):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"--max-errors {text}: expected a number of records such as 10, or a share such as 1%"
        ) from None
    return lambda records: value * records / 100 if share else value


def quieten_libraries() -> None:
    """Keep the model libraries' progress bars and advice out of our output."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Weights are fetched by "vlitqc models pull" alone; no library may do so behind its back.
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Ray prints what its servers say of a dead worker, among our results; what is to be told of it we tell.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
