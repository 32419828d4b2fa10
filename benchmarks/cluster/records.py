"""A synthetic set for runs on several nodes: the same arguments always give the same bytes.

As in a set of visual questions: there are some hundred questions and some dozen short answers, and one record
in sixteen has an answer of its own, of 6 to 70 words; all come out of a small grammar. One record in thirty
is that before it, another one nearly so. Every sixteenth shows one of a few hundred small pictures of shapes
on a gradient, with noise and blur of many strengths; one in five hundred is broken in one of three ways.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

PICTURES, WIDTH, HEIGHT = 300, 256, 192
EVERY = 16
"""One record in so many has a picture, and another one a long answer."""
ASKED, ANSWERED = 120, 60
"""How many questions and short answers there are."""

THINGS = [
    "dog",
    "boat",
    "woman",
    "bus",
    "child",
    "tower",
    "cat",
    "cyclist",
    "horse",
    "lamp",
    "bridge",
    "market",
    "violin",
    "glacier",
    "kitchen",
    "teapot",
    "violet",
    "ladder",
    "mountain",
    "engine",
    "pigeon",
    "shepherd",
    "carpet",
    "window",
    "orchard",
    "ferry",
    "statue",
    "dancer",
    "keyboard",
    "lantern",
    "meadow",
    "harbour",
]
QUALITIES = [
    "red",
    "old",
    "narrow",
    "bright",
    "wooden",
    "quiet",
    "heavy",
    "striped",
    "broken",
    "distant",
    "polished",
    "green",
    "crowded",
    "tiny",
    "frozen",
    "golden",
]
DOINGS = [
    "stands",
    "waits",
    "moves",
    "rests",
    "turns",
    "appears",
    "leans",
    "shines",
    "hides",
    "points",
    "falls",
    "grows",
    "floats",
    "sleeps",
    "swings",
]
PLACES = [
    "on a beach",
    "in a busy street",
    "under tall trees",
    "beside a white house",
    "at night",
    "in the snow",
    "near the river",
    "behind a fence",
    "above the roofs",
    "inside a museum",
    "along the wall",
    "across the square",
]
QUESTIONS = (
    "What is in the picture?",
    "Describe the {thing} in detail.",
    "How many {thing}s can be seen {place}?",
    "What colour is the {quality} {thing}?",
    "Is there a {thing} {place}?",
    "Where is the {thing} that {doing} {place}?",
    "Why does the {quality} {thing} look {quality}?",
    "Write a short story about a {quality} {thing} {place}.",
    "Compare the {thing} with the {thing} {place}.",
    "Which of the two is larger, the {thing} or the {quality} {thing}?",
    "What happens next to the {thing} {place}?",
    "Explain how a {thing} works, in simple words.",
)
CLAUSES = (
    "a {quality} {thing} {doing} {place}",
    "the {thing} {doing} next to a {quality} {thing}",
    "there is a {thing} {place}",
    "two {thing}s and a {quality} {thing} can be seen {place}",
    "the {quality} {thing} belongs to the {thing}",
)
ANSWERS = (
    "Yes.",
    "No.",
    "The {thing}.",
    "It is {quality}.",
    "A {quality} {thing}.",
    "Yes, {place}.",
    "No, the {thing} {doing} {place}.",
)
DEFECTS = ("missing picture", "empty answer", "broken line")


def write(folder: Path, n: int, every: int = EVERY) -> Path:
    """``n`` records, every so many with a picture, in ``folder``; returns the file of records."""
    (folder / "pictures").mkdir(parents=True)
    for i in range(PICTURES):
        picture(i).save(folder / "pictures" / f"{i:03d}.jpg", quality=40 + i % 56)
    path = folder / "records.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for i in range(n):
            stream.write(line(i, every) + "\n")
    return path


def line(i: int, every: int = EVERY) -> str:
    """Record number ``i``, or what stands in its place."""
    said = i - 1 if i % 30 in (14, 29) else i
    rng = random.Random(said)
    question = of_pool(QUESTIONS, rng.randrange(ASKED))
    answer = told(rng) if said % EVERY == EVERY // 2 else of_pool(ANSWERS, rng.randrange(ANSWERED))
    if i % 30 == 14:
        answer = answer.replace(".", " indeed.", 1)
    record: dict[str, object] = {"id": f"r{i}"}
    if i % every == 0:
        record["image"] = f"pictures/{rng.randrange(PICTURES):03d}.jpg"
        question = "<image>\n" + question
    defect = DEFECTS[i // 500 % len(DEFECTS)] if i % 500 == 250 else None
    if defect == "missing picture":
        record["image"] = "pictures/nowhere.jpg"
    elif defect == "empty answer":
        answer = ""
    record["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    text = json.dumps(record)
    return text[: len(text) // 2] if defect == "broken line" else text


@cache
def of_pool(forms: tuple[str, ...], i: int) -> str:
    """Number ``i`` of the texts that are made of these forms."""
    return filled(forms[i % len(forms)], random.Random(i))


def told(rng: random.Random) -> str:
    """One to four sentences of one or two clauses each; short ones are the more frequent."""
    sentences = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        clauses = [filled(rng.choice(CLAUSES), rng) for _ in range(rng.choice((1, 1, 2)))]
        sentences.append(" and ".join(clauses).capitalize() + ".")
    return " ".join(sentences)


def filled(form: str, rng: random.Random) -> str:
    """The form with a word drawn for each of its blanks."""
    words = {"thing": THINGS, "quality": QUALITIES, "doing": DOINGS, "place": PLACES}
    for blank, drawn in words.items():
        while f"{{{blank}}}" in form:
            form = form.replace(f"{{{blank}}}", rng.choice(drawn), 1)
    return form


def picture(i: int) -> Image.Image:
    """Shapes on a gradient; more of them, more noise and more blur by turns."""
    rng = np.random.default_rng(i)
    y, x = np.mgrid[0 : 1 : HEIGHT * 1j, 0 : 1 : WIDTH * 1j]
    pixels = np.stack([a * x + b * y + c for a, b, c in rng.uniform(-120, 200, (3, 3))], axis=-1)
    pixels += rng.normal(0, 3 * (i % 7), pixels.shape)
    made = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(made)
    for _ in range(1 + i % 12):
        left, right = sorted(rng.integers(0, WIDTH, 2).tolist())
        top, bottom = sorted(rng.integers(0, HEIGHT, 2).tolist())
        draw = pen.ellipse if rng.random() < 0.5 else pen.rectangle
        draw((left, top, right, bottom), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return made.filter(ImageFilter.GaussianBlur(i % 3))
