"""The command line: parse, call, print. What it prints is made in ``console``; what it calls is the Python API."""

from __future__ import annotations

import codecs
import io
import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlitqc.errors import InputError, RunError, UsageError, VlitqcError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES = """
\b
Exit codes: 0 fine · 2 wrong usage · 3 unusable input ·
4 some samples could not be scored (only with --strict or --max-errors)
"""
RECOMMENDED = "recommended"
WIDTH_OF_FILES = 160
PATH = click.Path(readable=False, path_type=Path)
"""Whether a path can be read is said by what opens it."""
PLAIN = {"–": "-", "…": "~", "→": ">", "↑": "^", "↓": "v", "×": "x", "·": "*"}


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # A pipe or a file has no width of its own; 80 columns would fold every table.
    piped = not (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, emoji=False, width=WIDTH_OF_FILES if piped else None)


def _print_json(value: Any) -> None:
    # All in ASCII, so that no bidi or control character of the data reaches the terminal as itself.
    click.echo(json.dumps(value, indent=2).replace("\x7f", "\\u007f"))


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "VLITQC",
        "max_content_width": 110,
    },
    epilog=EXIT_CODES,
)
@click.version_option(package_name="vlitqc")
def cli() -> None:
    """Know your vision-language instruction data before you train on it.

    \b
    Examples:
      vlitqc inspect data.jsonl                       what is in it, and every fault; no model
      vlitqc score data.jsonl                         scorecard, table of scores, page
      vlitqc filter --drop-below matching_degree=p10  write the better nine tenths
      vlitqc report data.vlitqc                       write the page again
      vlitqc metrics                                  what is measured, and by which model
    """


@cli.command(epilog=EXIT_CODES)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Which model each metric uses."
)
@click.option("--metrics", metavar="A,B,…", help="Only these metrics; see 'vlitqc metrics'.")
@click.option(
    "--image-root",
    type=PATH,
    help="Folder that image paths start from. [found from the records]",
)
@click.option("--format", "format_", metavar="NAME", help="Input format. [detected]")
@click.option(
    "--map",
    "map_",
    multiple=True,
    metavar="OURS=THEIRS",
    help="What the data calls a field, such as response=target or image=meta.path; may be repeated.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N records.")
@click.option("--out", type=PATH, help="Run directory. [PATH.vlitqc beside the input]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Samples that the models see together.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes; each loads its own models.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option(
    "--lm",
    metavar="MODEL",
    help="Causal language model for readability and IFD: a slot of the profile (lite has smollm2), a folder, "
    "a .gguf file, or a Hugging Face id in the cache.",
)
@click.option(
    "--judge-url",
    metavar="URL",
    help="OpenAI-compatible server to judge with; its key comes from OPENAI_API_KEY alone.",
)
@click.option(
    "--judge-model",
    metavar="MODEL",
    help="The server's name of the judge; without --judge-url a folder, .gguf file or id, run in process.",
)
@click.option(
    "--judge-limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N calls to each judge; what is left is null, and asked by the next run.",
)
@click.option("--allow-outside", is_flag=True, help="Let image paths leave the image root.")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Fetch pictures with http and https URLs into the run directory; never from private addresses.",
)
@click.option("--strict", is_flag=True, help="Exit 4 if any sample was not fully scored.")
@click.option("--max-errors", metavar="N|P%", help="Exit 4 if more records than this have errors.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the scorecard as JSON.")
def score(
    paths: Sequence[Path],
    metrics: str | None,
    strict: bool,
    max_errors: str | None,
    quiet: bool,
    as_json: bool,
    format_: str | None,
    map_: Sequence[str],
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
      vlitqc score data.jsonl --lm smollm2
      vlitqc score data.jsonl --judge-url http://localhost:8000/v1 --judge-model llava-1.5-7b
      vlitqc score data.jsonl --profile paper
    """
    budget = _budget(max_errors)
    _quieten_libraries()
    from vlitqc import console
    from vlitqc.engine import run as engine
    from vlitqc.engine import scorecard
    from vlitqc.formats.names import Names

    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics is not None else None
    if names == []:
        raise UsageError(f"--metrics {metrics!r} names no metric; see 'vlitqc metrics'")
    if judge_url is not None and judge_model is None:
        raise UsageError("--judge-url needs --judge-model, the name that the server knows the judge by")
    judge = {key: v for key, v in (("url", judge_url), ("model", judge_model)) if v is not None} or None

    def announce(text: str) -> None:
        if not quiet:
            _console(stderr=True).print(console.clean(text), style="dim", soft_wrap=True)

    with console.progress(_console(stderr=True), quiet=quiet or as_json) as shown:
        finished = engine.score(
            paths if len(paths) > 1 else paths[0],
            metrics=names,
            format=format_,
            map=Names.parse(map_).fields,
            command=shlex.join(["vlitqc", *sys.argv[1:]]),
            progress=shown,
            judge=judge,
            announce=announce,
            **options,
        )
    card = finished.scorecard
    if as_json:
        _print_json(card)
    elif not quiet:
        out = _console()
        out.print(console.scorecard(card))
        for note in card["input"]["notes"]:
            out.print(f"\nnote  {console.clean(note)}", style="yellow", soft_wrap=True)
        aside = ", ".join(f"{kind} {n:,}" for kind, n in card["input"]["others"].items())
        if aside:
            out.print(f"\nfiles left aside: {console.clean(aside)}", style="dim", soft_wrap=True)
        for slot, counts in finished.info["usage"].items():
            out.print(f"\n{console.clean(slot)}: {console.usage(counts)}", style="dim")
        if card["profile"]["adds"]:
            out.print(f"\n{console.clean(card['profile']['adds'])}", style="dim")
        folder = console.clean(finished.path)
        out.print(f"\nscores  {folder}/scores\npage    {folder}/report.html", soft_wrap=True)
    counts = card["counts"]
    if counts["unreadable"] == counts["records"]:
        raise InputError(
            f"no record can be read, of {counts['records']:,}; {finished.path}/issues.parquet says why"
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


@cli.command(name="filter", epilog=EXIT_CODES)
@click.argument("run", nargs=-1, type=PATH)
@click.option(
    "--drop-below",
    multiple=True,
    is_flag=False,
    flag_value=RECOMMENDED,
    metavar="[M=V|M=p10]",
    help="Drop records below V, or below the 10th percentile; without a value: the recommended floors.",
)
@click.option("--drop-above", multiple=True, metavar="M=V|M=p90", help="Drop records that score above.")
@click.option(
    "--drop-issue",
    multiple=True,
    metavar="KIND",
    help="Drop records with this issue; 'error' means any error.",
)
@click.option("--out", type=PATH, help="Folder for the files. [beside the input]")
@click.option("--dry-run", is_flag=True, help="Say what would go; write nothing.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def filter_(
    run: Sequence[Path],
    drop_below: Sequence[str],
    drop_above: Sequence[str],
    drop_issue: Sequence[str],
    out: Path | None,
    dry_run: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Divide a scored data set into kept and dropped records, each byte for byte as it was.

    RUN is a run directory or the paths that were scored; by default the latest run in this folder. A record
    without a score is not dropped by a threshold on it; an unreadable record goes to a file of its own.

    \b
    Examples:
      vlitqc filter --drop-below                            the recommended floors, on the latest run
      vlitqc filter data.vlitqc --drop-below matching_degree=p10 --drop-issue error
      vlitqc filter data.jsonl --drop-below text_readability=0 --dry-run
    """
    from vlitqc import console
    from vlitqc.engine.run import Run
    from vlitqc.filtering.apply import filter_run
    from vlitqc.filtering.rules import HasIssue, Rule, Threshold, floors

    opened = Run.open(run if len(run) > 1 else _run_directory(run[0] if run else None))
    rules: list[Rule] = []
    if RECOMMENDED in drop_below:
        rules += floors(opened.metrics())
    rules += [Threshold.parse(text, "below") for text in drop_below if text != RECOMMENDED]
    rules += [Threshold.parse(text, "above") for text in drop_above]
    rules += [HasIssue(kind) for kind in drop_issue]
    result = filter_run(opened, rules, out=out, dry_run=dry_run)
    files = {name: str(path) for name, path in result.written.items()}
    if as_json:
        _print_json(
            {
                "counts": result.counts,
                "limit": opened.info["plan"]["limit"],
                "by_rule": result.by_rule,
                "written": files,
                "not_copied": result.not_copied,
            }
        )
    elif not quiet:
        shown = _console()
        shown.print(console.rows(["rule", "records that fail"], result.by_rule.items()))
        lines = [
            (name, n, files.get(name, "")) for name, n in result.counts.items() if n or name != "unreadable"
        ]
        shown.print()
        shown.print(console.rows(["records", "n", "written to"], lines))
        if result.not_copied:
            told = (
                f"Of the unreadable, {result.not_copied:,} are in no output: files whose bytes cannot be had."
            )
            shown.print(f"\n{told}", soft_wrap=True)
        limit = opened.info["plan"].get("limit")
        if limit is not None:
            shown.print(f"\nThe run had --limit {limit:,}: records after those are in none of these files.")
        if dry_run:
            shown.print("\ndry run: nothing was written", style="dim")
        else:
            shown.print(f"\nreasons  {console.clean(files['decisions'])}", soft_wrap=True)


@cli.command()
@click.argument("run", required=False, type=PATH)
@click.option("--out", type=PATH, help="Where to write. [RUN/report.html]")
@click.option("--form", default="html", show_default=True, help="An entry point of vlitqc.reports.")
def report(run: Path | None, out: Path | None, form: str) -> None:
    """Write a run's review page.

    \b
    Examples:
      vlitqc report data.vlitqc
      vlitqc report data.vlitqc --out review.html
    """
    from vlitqc import console
    from vlitqc.engine.run import Run

    click.echo(console.visible(Run.open(_run_directory(run)).report(out, form=form)))


@cli.command(epilog=EXIT_CODES)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="PATH…")
@click.option("--format", "format_", metavar="NAME", help="Input format. [detected]")
@click.option(
    "--map", "map_", multiple=True, metavar="OURS=THEIRS", help="What a field is called in the data."
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N records.")
@click.option(
    "--image-root",
    type=PATH,
    help="Folder that media paths start from. [found from the records]",
)
@click.option("--no-media", is_flag=True, help="Count the media, but open none.")
@click.option("--allow-outside", is_flag=True, help="Let media paths leave the image root.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def inspect(
    paths: Sequence[Path],
    format_: str | None,
    map_: Sequence[str],
    limit: int | None,
    image_root: Path | None,
    no_media: bool,
    allow_outside: bool,
    as_json: bool,
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

    with console.progress(_console(stderr=True), quiet=as_json, stage="reading") as shown:
        found = inspection.inspect(
            paths,
            format=format_,
            map=Names.parse(map_).fields,
            limit=limit,
            image_root=image_root,
            media=not no_media,
            allow_outside=allow_outside,
            progress=shown,
        )
    out, page = _console(), found.as_json()
    if as_json:
        _print_json(page)
    else:
        out.print(console.inspection(page))
        out.print()
        for sentence in console.advice(page):
            out.print(f"hint  {sentence}", style="yellow")
    if not found.readable:
        if not found.records:
            raise InputError(f"{found.path} holds no records")
        raise InputError(f"no record can be read, of {found.records:,}; the issues say why")
    if not as_json:
        told = [("--format", format_), *(("--map", text) for text in map_), ("--image-root", image_root)]
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


@cli.command()
@click.argument("name", required=False)
@click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Which model each metric uses."
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def metrics(name: str | None, profile: str, as_json: bool) -> None:
    """List the metrics, or say everything about one.

    \b
    Examples:
      vlitqc metrics
      vlitqc metrics matching_degree
    """
    from vlitqc import console, profiles, registry

    chosen = profiles.load(profile)
    if name is not None:
        fields = registry.load_metric(name).spec.as_table()
        if as_json:
            _print_json(fields)
        else:
            _console().print(console.rows(["", name], fields.items()))
        return
    lines = [
        (entry.principle.label, entry.name, profiles.served_by(chosen, entry.name), entry.owner)
        for entry in registry.entries(registry.METRICS).values()
    ]
    if as_json:
        keys = ("principle", "name", "served_by", "package")
        _print_json([dict(zip(keys, line, strict=True)) for line in lines])
    else:
        header = ["principle", "metric", f"in profile {console.clean(chosen.name)}", "package"]
        _console().print(console.rows(header, lines))


@cli.group()
def models() -> None:
    """List, fetch and verify the models of a profile."""


_PROFILE = click.option(
    "--profile", default="lite", show_default=True, metavar="NAME|FILE", help="Whose models."
)


@models.command(name="list")
@_PROFILE
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def models_list(profile: str, as_json: bool) -> None:
    """Every model of a profile: its licence, its size, where it comes from and whether it is here.

    Opens no socket.

    \b
    Examples:
      vlitqc models list --profile paper
    """
    from vlitqc import console, profiles
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    header = ["slot", "model", "licence", "size", "from", "here"]
    table = []
    lines: list[dict[str, Any]] = []
    for slot, entry in store.profile.models.items():
        states = store.located(slot)
        size = store.size(slot)
        below = [s for used in sorted(store.uses(slot)) for s in store.located(used)]
        source = ", ".join(dict.fromkeys(s.file.source for s in states)) or "built on others"
        missing = next((s.fault for s in (*states, *below) if s.fault), None)
        cached = [str(s.path) for s in states if s.path]
        table.append(
            (slot, entry.name, entry.licence, console.size(size), source, "no" if missing else "yes")
        )
        lines.append(
            {"slot": slot, "model": entry.name, "licence": entry.licence, "bytes": size, "source": source}
            | {"cached": cached, "missing": missing}
        )
    if as_json:
        _print_json(lines)
        return
    out = _console()
    out.print(console.rows(header, table))
    for line in lines:
        if line["missing"] and line["source"] != "built on others":
            out.print(f"\n{console.clean(line['slot'])}: {console.clean(line['missing'])}", soft_wrap=True)


@models.command(name="pull")
@_PROFILE
@click.argument("slots", nargs=-1)
def models_pull(profile: str, slots: Sequence[str]) -> None:
    """Fetch what a profile's models need, or only the SLOTS named; exit 3 if something is still missing.

    Hub files go to the Hugging Face cache (HF_HOME), others to VLITQC_CACHE. Packages are not installed and
    files behind a form are not fetched: it says how to get them. Nothing else in vlitqc ever fetches weights.

    \b
    Examples:
      vlitqc models pull --profile paper
      vlitqc models pull --profile paper clip maniqa
    """
    from vlitqc import console, profiles
    from vlitqc.errors import ModelUnavailable, UnknownName
    from vlitqc.models.pull import pull
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    for slot in slots:
        if slot not in store.profile.models:
            raise UnknownName("model slot", slot, store.profile.models)
    out = _console()
    missing = 0
    for slot in slots or store.profile.models:
        for file in store.files(slot):
            label = f"{console.clean(slot)}: {console.clean(file.source)}"
            try:
                with console.download(_console(stderr=True), console.clean(slot)) as told:
                    pull(file, told)
                out.print(f"{label}  [green]here[/green]", soft_wrap=True)
            except ModelUnavailable as error:
                missing += 1
                out.print(f"{label}  [red]missing[/red]\n    {console.clean(error)}", soft_wrap=True)
    if missing:
        raise ModelUnavailable(f"{missing} files are still missing; the metrics that need them will be null")


@models.command(name="verify")
@_PROFILE
def models_verify(profile: str) -> None:
    """Read every file of a profile and compare it with the sha256 named; exit 3 if one is missing or differs.

    A file whose sha256 the profile does not name is shown with the one it has, to be copied into the profile.
    """
    from vlitqc import console, profiles
    from vlitqc.errors import ModelUnavailable
    from vlitqc.models.store import ModelStore

    store = ModelStore(profiles.load(profile))
    found = [(slot, s) for slot in store.profile.models for s in store.verify(slot)]
    lines = [
        (
            slot,
            s.file.path or s.file.source,
            s.sha256 or s.file.sha256 or "",
            s.fault or ("as named" if s.file.sha256 else "not named by the profile"),
        )
        for slot, s in found
    ]
    _console().print(console.rows(["slot", "file", "sha256", "found"], lines))
    wrong = sum(s.fault is not None for _, s in found)
    if wrong:
        raise ModelUnavailable(f"{wrong} of {len(found)} files are missing or not the ones named")


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


def _run_directory(path: Path | None) -> Path:
    """What Run.open gets: the run or file named, or the latest run here."""
    if path is None:
        here = sorted(Path.cwd().glob("*.vlitqc/scorecard.json"), key=lambda p: p.stat().st_mtime)
        if not here:
            raise RunError("there is no run in this folder; score a data set first: vlitqc score DATA")
        return here[-1].parent
    return path


def _quieten_libraries() -> None:
    """Keep the model libraries' progress bars and advice out of our output."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Weights are fetched by "vlitqc models pull" alone; no library may do so behind its back.
    os.environ["HF_HUB_OFFLINE"] = "1"


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """The characters that a terminal's encoding has not, by ones that every encoding has."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


def main() -> None:
    """Run the command line; an error of ours is a sentence and an exit code, never a traceback."""
    codecs.register_error("vlitqc.plain", _in_plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="vlitqc.plain")
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        from vlitqc.console import visible

        told = io.StringIO()
        error.show(told)
        click.echo("\n".join(map(visible, told.getvalue().splitlines())), err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command takes the run up again", err=True)
        sys.exit(130)
    except VlitqcError as error:
        from vlitqc.console import clean

        _console(stderr=True).print(f"[red]error:[/red] {clean(error)}", soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        from vlitqc.console import clean

        _console(stderr=True).print(f"[red]error:[/red] {clean(error)}", soft_wrap=True)
        sys.exit(InputError.exit_code)
    except Exception:  # noqa: BLE001 - a defect of ours; its traceback may quote the data
        from vlitqc.console import visible

        click.echo("\n".join(map(visible, traceback.format_exc().splitlines())), err=True)
        sys.exit(1)
