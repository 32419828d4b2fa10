#!/usr/bin/env python3
"""Filter a data set for Hugging Face `datasets`.

    python examples/filter_hf_dataset.py DATA OUT [--where EXPRESSION] [--recipe clean] [--profile lite]

DATA is a file of JSON records; where it has not been scored yet, it is scored first. OUT gets:

<stem>.kept.jsonl, …   what the recipe kept and dropped, byte for byte, with the decisions
dataset/               the kept records that fulfil the expression, with their scores: `datasets.load_from_disk`

The recipe comes first because `datasets` refuses a file with one broken line; vlitqc sets such records aside. Row i
of the data set is then the i-th kept record, so that a mask over the run fits the data set once it is cut to `kept`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import datasets
import numpy as np

import vlitqc
from vlitqc.errors import RunError, VlitqcError


def scored(data: Path, profile: str) -> vlitqc.Run:
    """The run of the data; a new one where there is none."""
    try:
        return vlitqc.Run.open(data)
    except RunError:
        return vlitqc.score(data, profile)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Filter a data set for Hugging Face datasets.")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--where", default="matching_degree >= p10", metavar="EXPRESSION")
    parser.add_argument("--recipe", default="clean")
    parser.add_argument("--profile", default="lite")
    options = parser.parse_args(argv)
    try:
        run = scored(options.data, options.profile)
        mask = run.filter(where=options.where)
        cleaned = vlitqc.filter(run, recipe=options.recipe, out=options.out)
    except VlitqcError as error:
        print(f"filter_hf_dataset: {error}", file=sys.stderr)
        return error.exit_code

    kept = cleaned.mask.to_numpy()
    whole = datasets.load_dataset("json", data_files=str(cleaned.written["kept"]), split="train")
    for metric in [name for name in run.metrics() if name in run.scores]:
        whole = whole.add_column(metric, run.scores.loc[kept, metric].to_numpy())
    chosen = whole.select(np.flatnonzero(mask.to_numpy()[kept]))
    chosen.save_to_disk(options.out / "dataset")

    print(f"{len(run.scores):>7,} records in {options.data}")
    print(f"{len(whole):>7,} kept by the recipe {options.recipe}: {cleaned.written['kept']}")
    print(f"{len(chosen):>7,} of these where {options.where}: {options.out / 'dataset'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
