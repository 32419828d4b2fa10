"""How large is the page of a data set, how long does it take to write and to open, and how fast does it answer?

    python benchmarks/report_page.py                       10,000 and 200,000 records; two minutes
    python benchmarks/report_page.py --data DIR            also the 160 LLaVA records below DIR, scored by lite
    python benchmarks/report_page.py --records 50000
    python benchmarks/report_page.py --keep DIR            the runs stay there, and are used again by the next call

Writes runs of synthetic records as ``vlitqc score`` would leave them: conversations, some hundred pictures, scores,
clustered vectors of responses and pictures, planted faults and duplicates. No model is read. Then it writes the page
of each run in a process of its own and opens it in Chromium from its file.

* write: seconds to write the page, without the start of Python, and the peak of the writer's resident memory
* page: bytes of the file
* ready: from the start of the navigation until every part of the page is at work; the median of ``--opens`` openings,
  each in a fresh context
* step: one move of a threshold by a key, until the page has painted the new counts; the median
* map: all points of the map in other colours, until they are painted; the median over the colourings

Exit 1 where a page is larger than ``--limit-mb`` or is not ready within ``--limit-seconds``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REAL = Path("llava_pretrain_2k/playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_dev.json")
PICTURES = 300
TOPICS = {
    "dog": ("running", "grass", "collar"),
    "cat": ("sleeping", "sofa", "cushion"),
    "horse": ("standing", "meadow", "fence"),
    "bird": ("sitting", "branch", "feather"),
    "train": ("arriving", "station", "track"),
    "bicycle": ("leaning", "wall", "basket"),
    "boat": ("floating", "harbour", "rope"),
    "car": ("parked", "street", "window"),
    "pizza": ("served", "plate", "cheese"),
    "cake": ("cut", "table", "candle"),
    "clock": ("hanging", "tower", "number"),
    "umbrella": ("open", "beach", "stripe"),
    "skier": ("jumping", "slope", "jacket"),
    "surfer": ("riding", "wave", "board"),
    "kitchen": ("tidy", "counter", "pan"),
    "bridge": ("crossing", "river", "lamp"),
    "chart": ("rising", "axis", "label"),
    "sign": ("warning", "corner", "letter"),
    "child": ("laughing", "playground", "swing"),
    "market": ("crowded", "square", "basket"),
}
"""What a picture can show, with words for a sentence on it; each is a cluster."""
TASKS = {
    "captioning": "Write a short description of the picture with the {0}.",
    "object_recognition": "Which animal or thing is {1} near the {2}?",
    "attribute": "What colour is the {3} of the {0}?",
    "counting": "How many of the {0} kind are there by the {2}?",
    "location": "Where is the {0} in this picture?",
    "action": "What is the {0} doing beside the {2}?",
    "reasoning": "Why might the {0} be {1} here?",
    "detailed_description": "Describe the {0}, the {2} and the {3} in detail.",
    "comparison": "Is the {3} larger than the {0}?",
    "text_reading": "What do the letters on the {3} say?",
    "text_chat": "Tell me something about a {0} that few people know.",
    "creative": "Write two lines of a poem about a {0}.",
}
COLOURS = ("red", "green", "blue", "grey", "brown", "white", "yellow")
TEXT_ONLY, TWO_PICTURES, SEVERAL_TURNS = 0.08, 0.04, 0.05
MALFORMED, PICTURE_MISSING, EMPTY, EXACT, NEAR = 0.001, 0.002, 0.002, 0.01, 0.01
WIDTHS = {"response": 384, "picture": 256}
OPENS, STEPS = 5, 20


# ---------------------------------------------------------------- the run


@dataclass(frozen=True, slots=True)
class Made:
    """What was made up about each record, in order; the engine's tables follow from it."""

    topic: NDArray[np.int64]
    task: NDArray[np.int64]
    pictures: tuple[tuple[int, ...], ...]
    quality: NDArray[np.float64]
    copy_of: NDArray[np.int64]
    """The record whose conversation this one repeats, or -1."""
    exact: NDArray[np.bool_]
    missing: NDArray[np.bool_]
    """Whether its first picture is not there."""


def make_pictures(folder: Path) -> list[tuple[int, int]]:
    """Small pictures of gradients and shapes, each different from the others; returns their sizes."""
    from PIL import Image, ImageDraw

    rng = np.random.default_rng(1)
    folder.mkdir(parents=True)
    sizes = []
    for i in range(PICTURES):
        width, height = ((320, 240), (240, 320), (256, 256), (160, 120))[i % 4]
        across = np.linspace(0, 1, width)[None, :, None] * rng.integers(60, 255, 3)
        down = np.linspace(0, 1, height)[:, None, None] * rng.integers(60, 255, 3)
        image = Image.fromarray(((across + down) / 2).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(4):
            x, y, side = rng.integers(0, width), rng.integers(0, height), rng.integers(20, 90)
            shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
            shape(
                (int(x), int(y), int(x + side), int(y + side)), fill=tuple(rng.integers(0, 255, 3).tolist())
            )
        image.save(folder / f"{i:04d}.jpg", quality=80)
        sizes.append((width, height))
    return sizes


def make_up(n: int) -> Made:
    """``n`` records: the same ones every time."""
    rng = np.random.default_rng(0)
    topic = np.minimum(rng.geometric(0.12, n) - 1, len(TOPICS) - 1)
    task = np.minimum(rng.geometric(0.25, n) - 1, len(TASKS) - 1)
    text_only = rng.random(n) < TEXT_ONLY
    task[text_only] = list(TASKS).index("text_chat")
    several = rng.random(n) < TWO_PICTURES
    # A topic has its own pictures: every len(TOPICS)-th one.
    chosen = topic[:, None] + len(TOPICS) * rng.integers(0, PICTURES // len(TOPICS), (n, 2))
    copy_of = np.full(n, -1)
    repeats = rng.random(n)
    repeats[0] = 1
    later = np.flatnonzero(repeats < EXACT + NEAR)
    copy_of[later] = (rng.random(len(later)) * later).astype(np.int64)
    # Of a copy's original no other copy is made of: groups stay small.
    copy_of[(copy_of >= 0) & (copy_of[np.maximum(copy_of, 0)] >= 0)] = -1
    later = np.flatnonzero(copy_of >= 0)
    for column in (topic, task, text_only, several, chosen):
        column[later] = column[copy_of[later]]
    pictures = tuple(
        () if none else tuple(row[: 1 + two])
        for none, two, row in zip(text_only.tolist(), several.tolist(), chosen.tolist(), strict=True)
    )
    missing = (rng.random(n) < PICTURE_MISSING) & ~text_only & (copy_of < 0)
    return Made(topic, task, pictures, rng.normal(0, 1, n), copy_of, repeats < EXACT, missing)


def conversation(made: Made, i: int) -> list[dict[str, str]]:
    """The turns of record ``i`` as LLaVA writes them; a near copy differs from its original by a word."""
    original = int(made.copy_of[i])
    seed = i if original < 0 else original
    rng = np.random.default_rng((2, seed))
    name = list(TOPICS)[made.topic[seed]]
    words = TOPICS[name]
    turns = []
    for turn in range(1 + (int(rng.integers(1, 4)) if rng.random() < SEVERAL_TURNS else 0)):
        colour = COLOURS[rng.integers(len(COLOURS))]
        asked = list(TASKS.values())[(made.task[seed] + turn) % len(TASKS)].format(name, *words)
        told = f"The {name} is {words[0]} by the {words[1]}, and its {words[2]} is {colour}."
        told += f" Number {seed} of its kind stands further back." * int(rng.integers(1, 5))
        if turn == 0:
            asked = "<image>\n" * len(made.pictures[i]) + asked
            told = "" if rng.random() < EMPTY else told
        turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": told}]
    if original >= 0 and not made.exact[i]:
        turns[-1]["value"] = turns[-1]["value"].upper()
    return turns


def write_input(path: Path, made: Made) -> None:
    """The records as JSONL in LLaVA's fields; a few lines are cut off in the middle."""
    rng = np.random.default_rng(3)
    with path.open("w", encoding="utf-8") as stream:
        for i, pictures in enumerate(made.pictures):
            record: dict[str, Any] = {"id": f"{i:09d}"}
            names = [f"{p:04d}.jpg" for p in pictures]
            if made.missing[i]:
                names[0] = f"lost/{i}.jpg"
            if names:
                record["image"] = names[0] if len(names) == 1 else names
            record["conversations"] = conversation(made, i)
            line = json.dumps(record)
            broken = i and rng.random() < MALFORMED
            stream.write((line[: len(line) // 2] if broken else line) + "\n")


def sample_values(made: Made, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Scores by metric, with what a data set has: a slope over the topics, a tail of bad ones, whole numbers."""
    rng = np.random.default_rng((4, int(rows[0])))
    quality, topic = made.quality[rows], made.topic[rows] / len(TOPICS)
    noise = rng.normal(0, 1, (4, len(rows)))
    matching = 24 + 6 * quality + 8 * topic
    return {
        "text_readability": 0.6 + 0.5 * quality + 0.3 * noise[0] - 3.0 * (noise[1] > 2.8),
        "image_readability": 1 / (1 + np.exp(-1.6 - 0.7 * noise[1] - topic)),
        "matching_degree": np.where(noise[2] > 2.6, matching - 45, matching),
        "granularity_complexity": rng.poisson(1.3 + topic).astype(np.float64),
        "visual_complexity": 48 + 14 * topic + 8 * noise[3],
    }


OF_PICTURES = ("image_readability", "matching_degree", "visual_complexity")


class Known:
    """A data-set metric whose answer was made up beforehand."""

    def __init__(self, spec: Any, score: Any) -> None:
        self.spec = spec
        self.score = score

    def features(self, batch: object) -> dict[str, Any]:
        """Nothing: the answer is there."""
        return {}

    def resolve(self, store: object) -> Any:
        """The answer."""
        return self.score


def directions(n: int, width: int, seed: int) -> NDArray[np.float32]:
    """``n`` random unit vectors."""
    found = np.random.default_rng(seed).normal(0, 1, (n, width)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def around(
    centres: NDArray[np.float32], which: NDArray[np.int64], seed: Sequence[int]
) -> NDArray[np.float32]:
    """A unit vector near its centre for each of ``which``."""
    noise = np.random.default_rng(list(seed)).standard_normal((len(which), centres.shape[1]), np.float32)
    rows = centres[which] + noise * (0.8 / math.sqrt(centres.shape[1]))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def write_run(home: Path, run: Path, n: int) -> None:
    """A finished run of ``n`` records in the folder ``run``; its input is written into ``home``."""
    from vlitqc import profiles
    from vlitqc.engine import inputs
    from vlitqc.engine.clock import Clock
    from vlitqc.engine.disk import write_json
    from vlitqc.engine.plan import Plan, choose_metrics, prepare

    # What ``score`` does before its first shard and after its last one.
    from vlitqc.engine.run import _info, _resolve
    from vlitqc.engine.shards import cut, folder
    from vlitqc.executors.local import LocalExecutor
    from vlitqc.formats.names import Names
    from vlitqc.models.store import ModelStore
    from vlitqc_metrics.duplicates import Duplicates
    from vlitqc_metrics.instruction_diversity import InstructionDiversity
    from vlitqc_metrics.task_balance import TaskBalance
    from vlitqc_metrics.task_diversity import TaskDiversity

    started = time.monotonic()
    pictures, data = home / "images", home / "data.jsonl"
    sizes = make_pictures(pictures)
    made = make_up(n)
    write_input(data, made)
    lite = profiles.load("lite")
    plan = Plan(lite, choose_metrics(lite, None), pictures)
    models = ModelStore(lite)
    planned = prepare(plan, models)
    names = Names()
    reader = inputs.opened([data], None, names)
    told = inputs.describe(reader, [data], None, names)
    command = f"vlitqc score {data} --image-root {pictures}"
    info = _info(plan, planned, models, told, None, command, LocalExecutor())
    (run / "shards").mkdir(parents=True)
    write_json(run / "run.json", info | {"state": "running"})
    write_json(run / "profile.json", profiles.dump(lite), allow_nan=True)
    tagger = next(p.metric.tagger for p in planned if isinstance(p.metric, TaskDiversity))
    shards, rows = [], []
    for shard in cut(reader.records()):
        path = folder(run / "shards", shard.index)
        rows.append(write_one(path, shard, made, sizes, planned, tagger))
        shards.append((path, len(rows[-1])))
    readable = np.concatenate(rows)
    built = {
        "task_diversity": partial(TaskDiversity, tagger),
        "task_balance": partial(TaskBalance, tagger),
        "instruction_diversity": partial(InstructionDiversity, tagger),
        "duplicates": Duplicates,
    }
    specs = {p.spec.name: p.spec for p in planned}
    known = {name: partial(Known, specs[name], score) for name, score in answers(made, readable).items()}
    metrics = {name: make() for name, make in (built | known).items()}
    planned = [replace(p, metric=metrics.get(p.spec.name, p.metric)) for p in planned]
    card = _resolve(plan, planned, run, shards, info, time.monotonic() - started, None, Clock(), None)
    write_json(run / "run.json", info | {"state": "finished", "seconds": card["seconds"], "usage": {}})
    write_json(run / "scorecard.json", card)


def write_one(
    path: Path, shard: Any, made: Made, sizes: Sequence[tuple[int, int]], planned: Sequence[Any], tagger: Any
) -> NDArray[np.int64]:
    """One shard as the scorer writes it; returns the rows of its readable records."""
    import pyarrow as pa

    from vlitqc.engine.scorer import BASE_COLUMNS, metric_columns
    from vlitqc.engine.shards import Done, write_shard
    from vlitqc.engine.sources import source_of
    from vlitqc.types import Issue, Unreadable

    records = shard.records
    every = np.array([r.origin.row for r in records])
    unreadable = np.array([isinstance(r, Unreadable) for r in records])
    lost = made.missing[every] & ~unreadable
    text_only = np.array([not made.pictures[row] for row in every])
    state = np.where(unreadable, "unreadable", np.where(lost, "partial", "scored"))
    turns = [0 if isinstance(r, Unreadable) else len(r.turns) for r in records]
    n_media = [0 if gone else len(made.pictures[row]) for gone, row in zip(unreadable, every, strict=True)]
    columns: dict[str, Any] = {
        "row": every,
        "id": [r.id for r in records],
        **{
            name: [getattr(r.origin, name) for r in records]
            for name in ("file", "line", "start", "end", "sha256")
        },
        "state": state,
        "n_turns": turns,
        "n_images": n_media,
        "n_media": n_media,
        "source": [source_of(r) for r in records],
    }
    schema = dict(BASE_COLUMNS)
    values = sample_values(made, every)
    for p in planned:
        if p.spec.level != "sample":
            continue
        name = p.spec.name
        schema |= metric_columns(p.spec)
        gone = unreadable.copy()
        reason = np.where(unreadable, "record unreadable: not valid JSON", "")
        if name not in values:
            gone[:] = True
            reason = np.where(unreadable, reason, p.unavailable or "no object detector in this profile")
        elif name in OF_PICTURES:
            gone |= text_only | lost
            reason = np.where(text_only & ~unreadable, "text-only", reason)
            reason = np.where(lost, "image unreadable: file not found", reason)
        columns[name] = pa.array(values.get(name, np.zeros(len(every))), mask=gone)
        columns[f"{name}_reason"] = pa.array(reason.tolist(), mask=~gone)
    table = pa.table(
        {name: pa.array(columns.get(name, [None] * len(every)), kind) for name, kind in schema.items()}
    )
    issues = [issue for record in records for issue in record.issues]
    for record in (r for r, gone in zip(records, lost, strict=True) if gone):
        detail = f"lost/{record.origin.row}.jpg: file not found"
        issues.append(Issue.at(record.origin, "missing_image", "error", detail, record.id))
    samples = [r for r in records if not isinstance(r, Unreadable)]
    found = features(samples, made, sizes, tagger)
    write_shard(path, Done("synthetic", len(records), len(samples)), table, issues, found)
    return every[~unreadable]


def features(
    samples: Sequence[Any], made: Made, sizes: Sequence[tuple[int, int]], tagger: Any
) -> dict[str, Any]:
    """What the data-set metrics and the maps need of the samples of one shard."""
    from vlitqc.media_tokens import strip_media_tokens
    from vlitqc.types import PICTURE_VECTORS, RESPONSE_VECTORS, Features
    from vlitqc_metrics._algorithms.tasks import task_feature

    rows = np.array([s.origin.row for s in samples])
    each = np.arange(len(rows))
    turns = [(i, turn) for i, sample in enumerate(samples) for turn in sample.turns]
    of_turn = np.array([i for i, _ in turns])
    answered = np.array([bool(turn.response) for _, turn in turns])
    asked = [strip_media_tokens(turn.instruction) for _, turn in turns]
    shown = [(i, p) for i, row in enumerate(rows) for p in made.pictures[row][int(made.missing[row]) :]]
    of_picture = np.array([i for i, _ in shown])
    conversations = [
        hashlib.sha256(repr((s.turns, made.pictures[r])).encode()).hexdigest()
        for s, r in zip(samples, rows, strict=True)
    ]
    folded = [
        hashlib.sha256(repr((s.turns, made.pictures[r])).casefold().encode()).hexdigest()
        for s, r in zip(samples, rows, strict=True)
    ]
    first = int(rows[0])
    topic, task = made.topic[rows], made.task[rows]
    says = around(directions(len(TOPICS), WIDTHS["response"], 5), topic[of_turn[answered]], (6, first))
    shows = around(directions(len(TOPICS), WIDTHS["picture"], 7), topic[of_picture], (8, first))
    turn_tasks = np.array(list(TASKS))[task[of_turn]]
    words = [[len(turn.instruction.split()), len(turn.response.split())] for _, turn in turns]
    return {
        f"{RESPONSE_VECTORS}synthetic": Features(says, of_turn[answered]),
        f"{PICTURE_VECTORS}synthetic": Features(shows, of_picture),
        "shape": Features(np.array([[len(s.turns), len(s.images), 0, 0] for s in samples], np.float32), each),
        "lengths": Features(np.array(words, np.float32), of_turn),
        "sizes": Features(np.array([sizes[p] for _, p in shown], np.float32).reshape(-1, 2), of_picture),
        "durations": Features(np.empty((0, 2), np.float32), np.empty(0, np.int64)),
        "languages": Features(["de" if len(text) % 17 == 0 else "en" for text in asked], of_turn),
        "instructions": Features(asked, of_turn),
        task_feature(tagger): Features(turn_tasks.tolist(), of_turn),
        "conversation_sha256": Features(conversations, each),
        "folded_conversation_sha256": Features(folded, each),
        "instruction_sha256": Features(asked_of_first(asked, of_turn, len(rows)), each),
        "other_media": Features([""] * len(rows), each),
        "shortest_response_words": Features(np.full((len(rows), 1), 9, np.float32), each),
        "picture_sha256": Features([f"{p:064x}" for _, p in shown], of_picture),
    }


def asked_of_first(asked: Sequence[str], of_turn: NDArray[np.int64], n: int) -> list[str]:
    """The first instruction of each sample."""
    return [asked[at] for at in np.searchsorted(of_turn, np.arange(n))]


def answers(made: Made, rows: NDArray[np.int64]) -> dict[str, Any]:
    """The data-set metrics that would take a model or minutes, with their columns."""
    from vlitqc.analysis.bootstrap import bootstrap_mean
    from vlitqc.types import DatasetScore
    from vlitqc_metrics._algorithms.cluster_summary import Clustering, Density, summarise

    rng = np.random.default_rng(9)
    n = len(rows)
    none = np.array([not made.pictures[row] or made.missing[row] for row in rows.tolist()])
    labels = np.where(rng.random(n) < 0.15, -1, made.topic[rows])
    shown = np.flatnonzero(~none)
    percentile = np.clip(80 + 15 * made.quality[rows], 0, 100)
    clustered = partial(summarise, n_total=n, seed=0, value=math.log10)
    every = Clustering(labels, len(TOPICS), n)
    some = Clustering(labels[shown], len(TOPICS), len(shown))
    return {
        "matching_percentile": DatasetScore(
            float(percentile[shown].mean()),
            interval=bootstrap_mean(percentile[shown], seed=0),
            n_scored=len(shown),
            n_total=n,
            columns={"matching_percentile": masked(percentile.tolist(), none)},
        ),
        "response_diversity": clustered(
            every,
            np.arange(n),
            Density(0.25, 3, 200_000),
            n_scored=n,
            items="responses",
            columns={"response_cluster": labels.tolist()},
            missing=["no response"] * n,
        ),
        "visual_semantic_diversity": clustered(
            some,
            np.arange(len(shown)),
            Density(0.4, 3, 100_000),
            value=float,
            n_scored=len(shown),
            items="images",
            columns={"image_cluster": masked(labels.tolist(), none)},
            missing=["no image"] * n,
        ),
    }


def masked(values: Sequence[Any], none: NDArray[np.bool_]) -> list[Any]:
    """The values, None where there is none."""
    return [None if gone else value for value, gone in zip(values, none.tolist(), strict=True)]


# ---------------------------------------------------------------- the page

WATCH = """new MutationObserver(() => { window.readyAfter = performance.now(); })
  .observe(document, { attributeFilter: ["data-ready"], subtree: true });"""
"""Notes the milliseconds since the navigation began."""

PAINTED = """(act) => new Promise((done) => {
  const begun = performance.now();
  act();
  requestAnimationFrame(() => {
    const after = new MessageChannel();
    after.port1.onmessage = () => done(performance.now() - begun);
    after.port2.postMessage(0);
  });
})"""
"""Milliseconds from an act until the frame that shows it has been painted."""

STEP = f"""async () => {{
  const painted = {PAINTED};
  const handle = document.querySelector("[role=slider]");
  handle.scrollIntoView();
  handle.focus();
  const taken = [];
  for (let i = 0; i < {STEPS}; i++) {{
    const key = i % 2 ? "ArrowRight" : "PageUp";
    taken.push(await painted(() => handle.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}))));
  }}
  return taken;
}}"""

MAP = f"""async () => {{
  const painted = {PAINTED};
  document.getElementById("map").scrollIntoView();
  const colouring = document.querySelector("#map select");
  const taken = [];
  for (const {{ value }} of colouring.options) {{
    taken.push(await painted(() => {{
      colouring.value = value;
      colouring.dispatchEvent(new Event("change", {{ bubbles: true }}));
    }}));
  }}
  return taken;
}}"""


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one run."""

    records: int
    seconds: float
    peak_mb: float
    page_mb: float
    ready: float
    step: float
    drawn: float


def write_page(run: Path, out: Path) -> dict[str, float]:
    """Write the page in this process; seconds and the process's peak of resident memory in MB."""
    from vlitqc.engine.run import Run
    from vlitqc_reports.html import write_report

    opened = Run.open(run)
    started = time.perf_counter()
    write_report(opened, out)
    seconds = time.perf_counter() - started
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return {"seconds": seconds, "peak_mb": peak / 1024}


def browse(page: Path, opens: int) -> tuple[float, float, float]:
    """Seconds until the page is ready, milliseconds of a step, milliseconds of the map: medians."""
    from playwright.sync_api import sync_playwright

    ready, steps, drawn = [], [], []
    with sync_playwright() as playwright:
        for _ in range(opens):
            # A browser of its own each time: nothing is cached.
            browser = playwright.chromium.launch(executable_path=chromium(), args=arguments())
            tab = browser.new_page(viewport={"width": 1440, "height": 900})
            tab.add_init_script(WATCH)
            tab.goto(page.as_uri())
            tab.wait_for_function("window.readyAfter !== undefined")
            ready.append(tab.evaluate("window.readyAfter") / 1000)
            steps += tab.evaluate(STEP)
            drawn += tab.evaluate(MAP)
            browser.close()
    return statistics.median(ready), statistics.median(steps), statistics.median(drawn)


def chromium() -> str:
    """Where Chromium is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("VLITQC_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit(f"report_page: none of {', '.join(names)} is installed; name one with VLITQC_CHROMIUM")
    return found


def arguments() -> list[str]:
    """Chromium's sandbox refuses to start as root."""
    return ["--no-sandbox"] if os.geteuid() == 0 else []


def measure(run: Path, opens: int) -> Measured:
    """Write the page of a run, open it, use it."""
    n = json.loads((run / "scorecard.json").read_text(encoding="utf-8"))["counts"]["records"]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder).resolve() / "report.html"
        command = [sys.executable, __file__, "--write", str(run), str(page)]
        written = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        size = page.stat().st_size / 1e6
        return Measured(n, written["seconds"], written["peak_mb"], size, *browse(page, opens))


def runs(data: Path | None, records: Sequence[int], home: Path) -> Iterator[Path]:
    """The runs to measure, made where they are not there yet."""
    if data is not None:
        real = home / "llava"
        if not (real / "scorecard.json").is_file():
            from vlitqc import score

            score(data / REAL, out=real, report=False)
        yield real
    for n in records:
        made = home / f"{n}" / "data.vlitqc"
        if not (made / "scorecard.json").is_file():
            shutil.rmtree(home / f"{n}", ignore_errors=True)
            write_run(home / f"{n}", made, n)
        yield made


def main() -> int:
    """Print the table; 1 where a limit is passed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="the folder of the LLaVA-Pretrain excerpt")
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 200_000])
    parser.add_argument("--opens", type=int, default=OPENS)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--limit-mb", type=float, default=10.0)
    parser.add_argument("--limit-seconds", type=float, default=2.0)
    parser.add_argument("--write", type=Path, nargs=2, metavar=("RUN", "PAGE"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.write:
        print(json.dumps(write_page(*asked.write)))
        return 0
    over = []
    with tempfile.TemporaryDirectory() as passing:
        home = (asked.keep or Path(passing)).resolve()
        print(f"{'records':>9} {'write':>8} {'peak':>9} {'page':>9} {'ready':>8} {'step':>8} {'map':>8}")
        for run in runs(asked.data, asked.records, home):
            found = measure(run, asked.opens)
            fails = found.page_mb > asked.limit_mb or found.ready > asked.limit_seconds
            over += [found.records] * fails
            print(
                f"{found.records:>9,} {found.seconds:>6.1f} s {found.peak_mb:>6,.0f} MB {found.page_mb:>6.2f} MB "
                f"{found.ready:>6.2f} s {found.step:>5.0f} ms {found.drawn:>5.0f} ms"
                f"{'  over the limit' if fails else ''}",
                flush=True,
            )
    print(
        f"limits: {asked.limit_mb:g} MB, ready within {asked.limit_seconds:g} s: {'failed' if over else 'kept'}"
    )
    return int(bool(over))


if __name__ == "__main__":
    sys.exit(main())
