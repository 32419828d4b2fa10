"""Executors map shards to workers. Results come back in order; a bounded number is in flight.

Where a shard is scored changes nothing in it: the plan, the shards, their folders and markers know no executor, so
that a run that one has begun is taken up by another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlitqc.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from vlitqc.engine.clock import Clock
    from vlitqc.engine.plan import Plan, Planned
    from vlitqc.engine.shards import Done, Shard
    from vlitqc.models.store import ModelStore
    from vlitqc.types import Spread

ENGINES = ("local", "ray")


class Executor(AbstractContextManager["Executor"], Protocol):
    """Scores shards somewhere. What it needs is there within its context, and gone after it."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What ``run.json`` says of it."""
        ...

    @property
    def workers(self) -> int:
        """How many shards are scored at a time."""
        ...

    @property
    def apart(self) -> bool:
        """Whether its workers load models of their own and do not use those that it is given."""
        ...

    @property
    def spread(self) -> Spread | None:
        """What computes parts of the data-set metrics; None where that is this process."""
        ...

    def fit(self, planned: Sequence[Planned], models: ModelStore) -> bool | None:
        """Settle how models and workers share what there is, before the first shard.

        Returns whether models have GPUs; None: as this process has. Raises UsageError for a share that is too large.
        """
        ...

    def shards(
        self, plan: Plan, target: Path, shards: Iterable[Shard], *, models: ModelStore, clock: Clock
    ) -> Iterator[tuple[Shard, Done]]:
        """Score every shard into ``target``; yields each with its marker, in order, as it finishes.

        Of the records of a shard that comes back only the last one's origin is sure to be there. Raises RunError where
        workers cannot start or die again and again.
        """
        ...


def executor(
    engine: str = "local",
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus_per_worker: float | None = None,
    device: str = "auto",
) -> Executor:
    """The executor of this name; the others are arguments of ``score``.

    Raises UnknownName, and UsageError for an option of another engine, or where Ray is not installed.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    if engine == "ray":
        try:
            from vlitqc.executors.ray import RayExecutor
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "ray":
                raise
            raise UsageError("the engine ray needs Ray; install it with: pip install 'vlitqc[ray]'") from None
        return RayExecutor(ray_address, workers, gpus_per_worker, device=device)
    for option, value in (("ray_address", ray_address), ("gpus_per_worker", gpus_per_worker)):
        if value is not None:
            raise UsageError(f"{option}={value}: only for the engine ray; add --engine ray")
    from vlitqc.executors.local import LocalExecutor

    return LocalExecutor(workers or 1)
