"""What is done to a data set as a whole: less variety, less balance, copies.

Each corruption is aimed at what its principle asks for. Where a metric counts clusters, a few copies can make a
cluster where there was none; so the strongest fault leaves one thing of many, which no measure of variety may
take for more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vlitqc.types import Principle, Rgb
from vlitqc.validity.case import Case
from vlitqc.validity.corruptions.anatomy import pictures_key, share_of, with_turns
from vlitqc.validity.corruptions.corruption import Corruption
from vlitqc.validity.corruptions.pairs import with_responses
from vlitqc.validity.corruptions.reasons import OF_INSTRUCTIONS, OF_PICTURES, OF_RESPONSES, without
from vlitqc.validity.corruptions.vocabulary import vocabulary

Changed = list[Case | None]
Frame = Callable[[Rgb, np.random.Generator], Rgb]

MARGIN = 0.1
"""Share of a picture's side that may be lost on each side of a like picture, as from frame to frame of a film."""


def _unchanged(cases: Sequence[Case]) -> Changed:
    """The answer for a data set in which there is nothing to corrupt."""
    return [None] * len(cases)


def _or_unchanged(changed: list[Case], cases: Sequence[Case]) -> Changed:
    same = all(new is case for new, case in zip(changed, cases, strict=True))
    return _unchanged(cases) if same else [*changed]


def _chosen(n: int, share: float, rng: np.random.Generator) -> set[int]:
    """``share`` of ``n``; those chosen at a lower share are chosen at a higher one."""
    return set(rng.permutation(n)[: share_of(n, share)].tolist())


def few_tasks(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """Without ``share`` of the tasks, at least one stays: in the place of their cases stand others', drawn again.

    Cases of no known task stay as they are.
    """
    tasks = sorted({case.task for case in cases} - {""})
    if len(tasks) < 2:
        return _unchanged(cases)
    lost = min(len(tasks) - 1, share_of(len(tasks), share))
    order = [tasks[i] for i in rng.permutation(len(tasks))]
    gone, left = set(order[:lost]), set(order[lost:])
    stay = [case for case in cases if case.task in left]
    draws = rng.random(len(cases))
    return [
        replace(stay[int(draw * len(stay))], id=case.id) if case.task in gone else case
        for case, draw in zip(cases, draws, strict=True)
    ]


def long_tail(cases: Sequence[Case], exponent: float, rng: np.random.Generator) -> Changed:
    """Drawn again with the weight of the r-th largest task times r^−``exponent``; of each task one case stays.

    Cases of no known task stay as they are.
    """
    of_task: dict[str, list[int]] = {}
    for i, case in enumerate(cases):
        if case.task:
            of_task.setdefault(case.task, []).append(i)
    if len(of_task) < 2:
        return _unchanged(cases)
    members = [of_task[task] for task in sorted(of_task, key=lambda task: (-len(of_task[task]), task))]
    weights = [len(of) * (rank + 1.0) ** -exponent for rank, of in enumerate(members)]
    steps = np.cumsum(weights)[:-1] / sum(weights)
    # One draw says the task, one the case; the same draws at every exponent.
    draws = rng.random((len(cases), 2))
    stays = {of[int(rng.integers(len(of)))] for of in members}
    changed = list(cases)
    for i in sorted(set().union(*members) - stays):
        of = members[int(np.searchsorted(steps, draws[i, 0], side="right"))]
        changed[i] = replace(cases[of[int(draws[i, 1] * len(of))]], id=cases[i].id)
    return _or_unchanged(changed, cases)


def same_instructions(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """``share`` of the cases ask what one of their task asks, so that the tasks stay as they are.

    Turn by turn, and from the first again where the other has fewer turns.
    """
    able = [case for case in cases if case.turns]
    model = {able[i].task: able[i].turns for i in rng.permutation(len(able))}
    changed = list(cases)
    for i in sorted(_chosen(len(cases), share, rng)):
        case = cases[i]
        turns = tuple(
            replace(turn, instruction=model[case.task][k % len(model[case.task])].instruction)
            for k, turn in enumerate(case.turns)
        )
        changed[i] = with_turns(case, turns) or case
    return _or_unchanged(changed, cases)


def same_responses(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """``share`` of the cases give one and the same response, in every turn."""
    told = [turn.response for case in cases for turn in case.turns if turn.response]
    if not told:
        return _unchanged(cases)
    one = told[int(rng.integers(len(told)))]
    chosen = _chosen(len(cases), share, rng)
    changed = [(with_responses(case, [one]) or case) if i in chosen else case for i, case in enumerate(cases)]
    return _or_unchanged(changed, cases)


def same_pictures(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """``share`` of the cases with pictures show one and the same."""
    return _pictured(cases, share, rng, lambda picture, _: picture)


def like_pictures(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """``share`` of the cases with pictures show one, each cut a little otherwise, as the frames of a film are."""
    return _pictured(cases, share, rng, _frame)


def _pictured(cases: Sequence[Case], share: float, rng: np.random.Generator, frame: Frame) -> Changed:
    shown = [i for i, case in enumerate(cases) if case.pictures]
    if len({pictures_key(cases[i]) for i in shown}) < 2:
        return _unchanged(cases)
    picture = cases[shown[int(rng.integers(len(shown)))]].pictures[0]
    chosen = {shown[i] for i in _chosen(len(shown), share, rng)}
    streams = rng.spawn(len(cases))
    changed = [
        replace(case, pictures=tuple(frame(picture, streams[i]) for _ in case.pictures))
        if i in chosen
        else case
        for i, case in enumerate(cases)
    ]
    return _or_unchanged(changed, cases)


def _frame(picture: Rgb, rng: np.random.Generator) -> Rgb:
    height, width = picture.shape[:2]
    top, bottom = (int(MARGIN * draw * height) for draw in rng.random(2))
    left, right = (int(MARGIN * draw * width) for draw in rng.random(2))
    # A view: of all the frames of a large set no pixel is in memory twice.
    return picture[top : height - bottom, left : width - right]


def copied_records(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """In the place of ``share`` of the cases stand copies of those that stay."""
    sources = _sources(cases, share, rng)
    return (
        [*(replace(sources.get(i, case), id=case.id) for i, case in enumerate(cases))]
        if sources
        else _unchanged(cases)
    )


def reworded_records(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """Copies as of ``copied_records``, each response begun with a few idle words."""
    sources = _sources(cases, share, rng)
    openers = vocabulary().openers
    said = rng.integers(len(openers), size=len(cases)).tolist()
    changed: Changed = [*cases]
    for i, source in sources.items():
        turns = tuple(replace(turn, response=openers[said[i]] + turn.response) for turn in source.turns)
        changed[i] = replace(source, id=cases[i].id, turns=turns)
    return changed if sources else _unchanged(cases)


def _sources(cases: Sequence[Case], share: float, rng: np.random.Generator) -> dict[int, Case]:
    """For ``share`` of the cases one of those that stay, of which there is at least one."""
    lost = min(len(cases) - 1, share_of(len(cases), share)) if cases else 0
    order = rng.permutation(len(cases)).tolist()
    draws = rng.random(len(cases)).tolist()
    stay = [cases[i] for i in sorted(order[lost:])]
    return {i: stay[int(draws[i] * len(stay))] for i in order[:lost]}


def without_pictures(cases: Sequence[Case], share: float, rng: np.random.Generator) -> Changed:
    """``share`` of the cases with pictures have lost them."""
    shown = [i for i, case in enumerate(cases) if case.pictures]
    if not shown:
        return _unchanged(cases)
    gone = {shown[i] for i in _chosen(len(shown), share, rng)}
    return [replace(case, pictures=()) if i in gone else case for i, case in enumerate(cases)]


# Records drawn again are other records: what is measured of each one moves with the draw.
_DRAWN_AGAIN = dict.fromkeys(
    (
        "text_readability",
        "image_readability",
        "matching_degree",
        "matching_percentile",
        "correctness",
        "task_diversity",
        "task_balance",
        "instruction_diversity",
        "response_diversity",
        "visual_semantic_diversity",
        "object_diversity",
        "object_categories",
        "instruction_complexity",
        "ifd",
        "granularity_complexity",
        "visual_complexity",
        "composition",
        "duplicates",
    ),
    "other records are left, some of them several times",
)

SETS = (
    Corruption(
        name="duplicated_tasks",
        principle=Principle.TASK_DIVERSITY,
        summary="Only records of a few tasks are left, drawn again and again.",
        targets={"task_diversity": "falls"},
        strengths=(0.25, 0.5, 0.9),
        unit="share of tasks lost",
        scope="set",
        apply=few_tasks,
        may_move=without(_DRAWN_AGAIN, "task_diversity"),
    ),
    Corruption(
        name="long_tail",
        principle=Principle.BALANCE,
        summary="Records are drawn again, the more of a task the larger it is, so that few tasks have nearly all.",
        targets={"task_balance": "rises"},
        strengths=(1.0, 2.0, 3.0),
        unit="exponent of the power law",
        scope="set",
        apply=long_tail,
        may_move=without(_DRAWN_AGAIN, "task_balance"),
    ),
    Corruption(
        name="duplicated_instructions",
        principle=Principle.INSTRUCTION_DIVERSITY,
        summary="All records of a task ask the same.",
        targets={"instruction_diversity": "falls"},
        strengths=(0.5, 0.8, 1.0),
        unit="share of records",
        scope="set",
        apply=same_instructions,
        may_move={
            **without(OF_INSTRUCTIONS, "instruction_diversity"),
            "text_readability": "another instruction is as readable as it is",
        },
    ),
    Corruption(
        name="duplicated_responses",
        principle=Principle.RESPONSE_DIVERSITY,
        summary="Records give one and the same response.",
        targets={"response_diversity": "falls"},
        strengths=(0.5, 0.8, 1.0),
        unit="share of records",
        scope="set",
        apply=same_responses,
        may_move={
            **without(OF_RESPONSES, "response_diversity"),
            "text_readability": "another response is as readable as it is",
        },
    ),
    Corruption(
        name="duplicated_pictures",
        principle=Principle.VISUAL_DIVERSITY,
        summary="Records show one and the same picture.",
        targets={"visual_semantic_diversity": "falls", "object_categories": "falls"},
        strengths=(0.25, 0.5, 0.8),
        unit="share of records",
        scope="set",
        apply=same_pictures,
        may_move=without(OF_PICTURES, "visual_semantic_diversity", "object_categories"),
    ),
    Corruption(
        name="similar_pictures",
        principle=Principle.VISUAL_DIVERSITY,
        summary="Records show one picture, each cut a little otherwise, as the frames of a film are.",
        targets={"visual_semantic_diversity": "falls", "object_categories": "falls"},
        strengths=(0.5, 0.8, 1.0),
        unit="share of records",
        scope="set",
        apply=like_pictures,
        may_move=without(OF_PICTURES, "visual_semantic_diversity", "object_categories"),
    ),
    Corruption(
        name="duplicated_records",
        principle=Principle.BEYOND,
        summary="Copies of other records stand in the place of records.",
        targets={"duplicates": "rises"},
        strengths=(0.1, 0.3, 0.6),
        unit="share of records",
        scope="set",
        apply=copied_records,
        may_move=without(_DRAWN_AGAIN, "duplicates"),
    ),
    Corruption(
        name="reworded_records",
        principle=Principle.BEYOND,
        summary="Copies stand in the place of records, their responses begun with a few idle words.",
        targets={"duplicates": "rises"},
        strengths=(0.1, 0.3, 0.6),
        unit="share of records",
        scope="set",
        apply=reworded_records,
        may_move=without(_DRAWN_AGAIN, "duplicates"),
    ),
    Corruption(
        name="lost_pictures",
        principle=Principle.BEYOND,
        summary="Records have lost their pictures.",
        targets={"composition": "rises"},
        strengths=(0.1, 0.3, 0.6),
        unit="share of records",
        scope="set",
        apply=without_pictures,
        may_move={
            **OF_PICTURES,
            "task_diversity": "a task may need a picture",
            "task_balance": "a task may need a picture",
            "instruction_diversity": "the tasks by which instructions are grouped may need a picture",
        },
    ),
)
"""The corruptions of data sets."""
