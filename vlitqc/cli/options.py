"""What several commands share of their arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vlitqc.errors import RunError, UsageError

if TYPE_CHECKING:
    from vlitqc.engine.run import Run

EXIT_CODES = """
\b
Exit codes: 0 fine · 1 a gate failed (check) · 2 wrong usage · 3 unusable input ·
4 some samples could not be scored (only with --strict or --max-errors)
"""


class _Place(click.Path):
    """A path; where a run may be kept also a URL, which stays a text."""

    def __init__(self, *, urls: bool) -> None:
        # Whether a path can be read is said by what opens it.
        super().__init__(readable=False, path_type=Path)
        self._urls = urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from vlitqc.engine.mirror import is_url, local

        if self._urls and is_url(value):
            return value
        try:
            local(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)
        return super().convert(value, param, ctx)


PATH = _Place(urls=False)
RUN = _Place(urls=True)
"""A run directory: a path, or the URL of one (``s3://bucket/run``)."""


class Lines(click.types.StringParamType):
    """A text of an option that may be repeated. In the option's environment variable it is a line: a rule may hold
    spaces, at which click would split."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [line for line in rv.splitlines() if line.strip()]


LINES = Lines()

METRICS = click.option("--metrics", metavar="A,B,…", help="Only these metrics; see 'vlitqc metrics'.")
IMAGE_ROOT = click.option(
    "--image-root",
    type=PATH,
    help="Folder that image paths start from. [found from the records]",
)
FORMAT = click.option("--format", metavar="NAME", help="Input format. [detected]")
MAP = click.option(
    "--map",
    multiple=True,
    type=LINES,
    metavar="OURS=THEIRS",
    help="What the data calls a field, such as response=target or image=meta.path; may be repeated.",
)
ALLOW_OUTSIDE = click.option("--allow-outside", is_flag=True, help="Let image paths leave the image root.")
DEVICE = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
LM = click.option(
    "--lm",
    metavar="MODEL",
    help="Causal language model for readability and IFD: a slot of the profile (lite has smollm2), a folder, "
    "a .gguf file, or a Hugging Face id in the cache.",
)
JUDGE_URL = click.option(
    "--judge-url",
    metavar="URL",
    help="OpenAI-compatible server to judge with; its key comes from OPENAI_API_KEY alone.",
)
JUDGE_MODEL = click.option(
    "--judge-model",
    metavar="MODEL",
    help="The server's name of the judge; without --judge-url a folder, .gguf file or id, run in process.",
)


def judge_of(url: str | None, model: str | None) -> dict[str, str] | None:
    """The judge that --judge-url and --judge-model name, as ``score`` takes it; None without either."""
    if url is not None and model is None:
        raise UsageError("--judge-url needs --judge-model, the name that the server knows the judge by")
    return {key: v for key, v in (("url", url), ("model", model)) if v is not None} or None


def run_directory(path: Path | str | None) -> Path | str:
    """What Run.open gets: the run or file named, or the latest run here."""
    if path is None:
        here = sorted(Path.cwd().glob("*.vlitqc/scorecard.json"), key=lambda p: p.stat().st_mtime)
        if not here:
            raise RunError("there is no run in this folder; score a data set first: vlitqc score DATA")
        return here[-1].parent
    return path


def open_run(paths: Sequence[Path | str]) -> Run:
    """The run of these paths, which may be its own folder; without any, the latest run here."""
    from vlitqc.engine.run import Run

    return Run.open(paths if len(paths) > 1 else run_directory(paths[0] if paths else None))
