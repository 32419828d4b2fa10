"""Which records of one cluster to take so that they do not repeat each other."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlitqc.types import FloatArray

Members = NDArray[np.int64]
Take = Callable[[Members], FloatArray]
"""The unit vectors of some members, ``float32[n, d]``."""

BLOCK = 512
POINTS = 2_048
"""Records at most that the facilities of one stratum are judged by; of more, a seeded sample."""
CELLS = 1 << 26
"""Cosines of candidates with those records that are in memory at once."""
ROUNDING = 1e-6
"""By so much the cosine of two equal vectors may miss 1."""


@dataclass(frozen=True, slots=True)
class Walked:
    """``taken`` members; ``skipped`` ones, each with the member that it is too near to (``twin``) and their cosine."""

    taken: Members
    skipped: Members
    twin: Members
    cosine: FloatArray


def go_down(
    take: Take,
    ranked: Members,
    before: Members,
    stratum: NDArray[np.int64],
    room: NDArray[np.int64],
    tau: float,
) -> Walked:
    """The greedy filter: down the ranking, a member whose cosine with a taken one is ``tau`` or more is skipped.

    ``before`` are taken already. ``stratum`` is each member's, ``room`` how many more each stratum takes (changed
    here); members of a full stratum are passed over, neither taken nor skipped. In memory are the vectors of the
    taken members and of one block of others.
    """
    taken, held = [before], [take(before)]
    skipped: list[Walked] = []
    while len(ranked := ranked[room[stratum[ranked]] > 0]):
        size = int(min(BLOCK, max(32, 2 * room[np.unique(stratum[ranked])].sum())))
        block, ranked = ranked[:size], ranked[size:]
        rows = take(block)
        nearest, twin = _nearest(rows, held, taken)
        within = rows @ rows.T
        chosen, near = [], []
        for i, member in enumerate(block):
            if room[stratum[member]] == 0:
                continue
            if nearest[i] >= tau - ROUNDING:
                near.append(i)
                continue
            room[stratum[member]] -= 1
            chosen.append(i)
            # What comes later is compared with it, what was skipped before is not.
            nearer = np.flatnonzero(within[i, i + 1 :] > nearest[i + 1 :]) + i + 1
            nearest[nearer], twin[nearer] = within[i, nearer], member
        taken.append(block[chosen])
        held.append(rows[chosen])
        skipped.append(Walked(block[:0], block[near], twin[near], nearest[near]))
    none = before[:0]
    return Walked(
        np.concatenate([none, *taken[1:]]),
        np.concatenate([none, *(walked.skipped for walked in skipped)]),
        np.concatenate([none, *(walked.twin for walked in skipped)]),
        np.concatenate([np.empty(0, np.float32), *(walked.cosine for walked in skipped)]),
    )


def _nearest(rows: FloatArray, held: list[FloatArray], taken: list[Members]) -> tuple[FloatArray, Members]:
    """The largest cosine of each row with a held one, and whose that is; -inf and -1 without any."""
    nearest = np.full(len(rows), -np.inf, np.float32)
    twin = np.full(len(rows), -1, np.int64)
    for vectors, members in zip(held, taken, strict=True):
        if len(members):
            cosines = rows @ vectors.T
            best = cosines.argmax(axis=1)
            value = cosines[np.arange(len(rows)), best]
            nearer = value > nearest
            nearest[nearer], twin[nearer] = value[nearer], members[best[nearer]]
    return nearest, twin


def facilities(
    take: Take, members: Members, candidates: Members, before: Members, n: int, *, rng: np.random.Generator
) -> Members:
    """``n`` of ``candidates`` that stand best for all ``members`` together with those taken ``before``.

    Facility location: Σᵢ max(0, maxⱼ cos(i, j)) over members i and taken j, maximised greedily, which reaches at
    least 1 − 1/e of the best value (Nemhauser, Wolsey & Fisher 1978), and lazily: a gain can only shrink, so that only
    the candidate with the largest old gain is computed anew (Minoux 1978). Ties go to the first candidate. The sum is
    over a random 2,048 of the members where there are more, and over fewer where the candidates are above 32,768, so
    that memory is bounded.
    """
    n_points = min(POINTS, CELLS // len(candidates))
    if len(members) > n_points:
        members = np.sort(rng.choice(members, n_points, replace=False))
    points = take(members)
    cosines = take(candidates) @ points.T
    covered = np.zeros(len(members), np.float32)
    for start in range(0, len(before), BLOCK):
        np.maximum(covered, (take(before[start : start + BLOCK]) @ points.T).max(axis=0), out=covered)

    def gain(j: int) -> float:
        return float(np.maximum(cosines[j] - covered, 0).sum(dtype=np.float64))

    heap = [(-gain(j), j, 0) for j in range(len(candidates))]
    heapq.heapify(heap)
    picked: list[int] = []
    while heap and len(picked) < n:
        _, j, known = heapq.heappop(heap)
        if known < len(picked):
            heapq.heappush(heap, (-gain(j), j, len(picked)))
        else:
            picked.append(j)
            np.maximum(covered, cosines[j], out=covered)
    return candidates[picked]
