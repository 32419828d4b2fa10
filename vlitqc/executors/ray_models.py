"""Models on the GPUs of a Ray cluster: for each a pool of actors that hold it, and what stands for it in a worker.

A worker then needs a processor alone: it reads, decodes, tokenises and counts, and hands the calls that compute whole
to an actor, with the batches that it would have given a model of its own; so a model says the same, wherever it is.
While one worker waits for an answer its threads decode what comes next, and others keep the GPU busy. Each model has
actors of its own, so that none waits for a slower one and several workers share the memory of one.

A model that uses another one (a detector the names of its categories) has that within its actor.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from math import floor
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError, UnserializableException

from vlitqc.engine.plan import Plan, versions
from vlitqc.engine.scorer import used_since
from vlitqc.errors import RunError, UsageError, VlitqcError
from vlitqc.executors.local import share
from vlitqc.models.feature_cache import device_in_words
from vlitqc.models.store import ModelStore
from vlitqc.types import processors, torch_threads

COMPUTED = (
    "forward",
    "encode_images",
    "encode_texts",
    "score_images",
    "likelihood",
    "conditional",
    "elements",
    "propose",
    "detect",
    "ask",
    "weigh",
)
"""The methods of the protocols of models that compute in a worker. The others are cheap, or for the driver alone."""

MAX_RESTARTS = 100
"""So many times Ray starts a model's actor again."""

START_SECONDS = 600.0
"""How long a run waits for models; a cluster that grows on demand needs minutes for a node."""

PATIENCE = 120.0
"""How long a call waits for its turn before its actor is asked whether it is there, and how long that may take: where
a node is lost, its actors may find no other GPU."""

STEPS = 10_000
"""Ray counts a share of a GPU in so many parts."""


@dataclass(frozen=True, slots=True)
class Layout:
    """``each`` actors of every slot, each with ``share`` of a GPU; no slots: workers hold their models."""

    slots: tuple[str, ...] = ()
    share: float = 0.0
    each: int = 0


def layout(
    slots: Sequence[str], gpus: Sequence[float], free: float, asked: float | None, device: str
) -> Layout:
    """How the models of ``slots`` lie on the GPUs: ``gpus`` of every node, ``free`` of them in all.

    By default each of M models has 1/M of a GPU, so that every GPU holds one of each. Raises UsageError where
    ``asked``, the share of each, leaves a model without any.
    """
    wanted = asked if asked is not None else float(device == "cuda" or (device == "auto" and free >= 1))
    if not slots or not wanted or device == "cpu":
        return Layout()
    part = floor(STEPS / len(slots)) / STEPS if asked is None else asked
    room = min(sum(_fit(of_node, part) for of_node in gpus), _fit(free, part))
    # Where no share is asked for and nothing is free, one of each that waits: the cluster may grow.
    each = max(room // len(slots), int(asked is None))
    if not each:
        on_each = -(-len(slots) // int(free)) if free >= 1 else 0
        cure = f"{floor(STEPS / on_each) / STEPS:g} would fit" if on_each else "0 leaves them to processors"
        models = f"{len(slots)} model{'s' if len(slots) > 1 else ''} ({', '.join(slots)})"
        have = "1 free GPU has" if free == 1 else f"{free:g} free GPUs have"
        raise UsageError(
            f"gpus_per_worker={asked:g}: {models} with that share each, and the {have} room for {room}; {cure}"
        )
    return Layout(tuple(slots), part, each)


def _fit(gpus: float, part: float) -> int:
    """How many shares there are in GPUs of which a share below 1 never takes two."""
    steps = round(part * STEPS)
    if part >= 1:
        return round(gpus * STEPS) // steps
    return int(gpus) * (STEPS // steps) + round(gpus % 1 * STEPS) // steps


class ModelActor:
    """The actor: one process of the cluster with one model."""

    def __init__(self, plan: Plan, slot: str, limit: int | None, variables: Mapping[str, str]) -> None:
        plan = at_home(plan, variables)
        if limit is not None and ray.get_runtime_context().was_current_actor_reconstructed:
            # Nobody knows how much of its limit was spent.
            limit = 0
        self._models = ModelStore(plan.profile, device=plan.device, judge_limit=limit)
        self._device = plan.device
        self._slot = slot
        self._told: dict[str, Mapping[str, int]] = {}

    def start(self) -> tuple[str, str, Mapping[str, str], str, str]:
        """The model's hash, the machine and its versions, the node, and the device."""
        node: str = ray.get_runtime_context().get_node_id()
        with portable():
            found = self._models.ref(self._slot).sha256
            return found, socket.gethostname(), dict(versions()), node, device_in_words(self._device)

    @ray.method(concurrency_group="alive")
    def ping(self) -> None:
        """Answers while another call computes."""

    def call(self, method: str, given: Sequence[Any], options: Mapping[str, Any]) -> Iterator[Any]:
        """First None, when it is the call's turn; then the answer, and what was asked of a judge since the last."""
        yield None
        with portable():
            answer = getattr(self._models.get(self._slot), method)(*given, **options)
        now = self._models.usage()
        used = used_since(self._told, now).get(self._slot, {})
        self._told = now
        yield answer, used


def actor_class(kind: type[ModelActor]) -> Any:
    """The class as Ray's, whose actors answer ``ping`` beside a call."""
    remote: Any = ray.remote
    return remote(concurrency_groups={"alive": 1})(kind)


class ModelActors:
    """The actors of every pool, as the driver starts and ends them."""

    def __init__(
        self, plan: Plan, at: Layout, *, run: str, namespace: str, variables: Mapping[str, str]
    ) -> None:
        kind = actor_class(ModelActor)
        self._at = at
        self._actors: list[tuple[str, Any]] = []
        for slot in at.slots:
            for i in range(at.each):
                handle = kind.options(
                    name=f"vlitqc {run} {slot} {i + 1}",
                    namespace=namespace,
                    num_cpus=0,
                    num_gpus=at.share,
                    max_restarts=MAX_RESTARTS,
                    # A call that ends its actor is told to the worker, which knows whether it had begun.
                    max_task_retries=0,
                ).remote(plan, slot, share(plan.judge_limit, i, at.each), variables)
                self._actors.append((slot, handle))

    def started(self, models: ModelStore) -> Pools | None:
        """Those that have started, when all have or time is up; None where there are none.

        Raises RunError where a slot has none, or a model there is another than that of ``models``.
        """
        if not self._actors:
            return None
        calls = [handle.start.remote() for _, handle in self._actors]
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=START_SECONDS)
        members: dict[str, list[Member]] = {slot: [] for slot in self._at.slots}
        devices = set()
        for (slot, handle), call in zip(self._actors, calls, strict=True):
            if call not in ready:
                ray.kill(handle)
                continue
            try:
                found, host, theirs, node, device = ray.get(call)
            except RayTaskError as error:
                raise own(error) from error
            except RayActorError as error:
                raise RunError(
                    f"the model '{slot}' ends its process while it starts, perhaps for want of memory, or because "
                    "vlitqc is not installed on every node; the same command goes on"
                ) from error
            check_alike(found == models.ref(slot).sha256, host, theirs)
            members[slot].append(Member(handle, node))
            devices.add(device)
        lacking = [slot for slot, found in members.items() if not found]
        if lacking:
            gpus = ray.available_resources().get("GPU", 0)
            raise RunError(
                f"no actor of the model '{lacking[0]}' could start in {START_SECONDS / 60:g} minutes; each asks for "
                f"{self._at.share:g} GPUs, and {gpus:g} are free"
            )
        told = {slot: tuple(found) for slot, found in members.items()}
        return Pools(" and ".join(sorted(devices)), told)

    def end(self) -> None:
        """End the actors, also in the middle of their work."""
        for _, handle in self._actors:
            with suppress(RayError):
                ray.kill(handle)


@dataclass(frozen=True, slots=True)
class Member:
    """One of a pool's actors, and the node that it was started on."""

    handle: Any
    node: str


@dataclass(frozen=True, slots=True)
class Pools:
    """The members of each slot's pool, as they travel to workers, and where they compute."""

    device: str
    members: Mapping[str, tuple[Member, ...]]

    def of_worker(self, number: int) -> StandIns:
        """The same in the worker of that number, which this process is."""
        node: str = ray.get_runtime_context().get_node_id()
        return StandIns(
            self.device, {slot: Pool(slot, found, node, number) for slot, found in self.members.items()}
        )


@dataclass(frozen=True, slots=True)
class StandIns:
    """The pools as a worker's ``ModelStore`` sees them."""

    device: str
    pools: Mapping[str, Pool]

    def stand_in(self, slot: str, backend: Any) -> Any:
        """As ``Elsewhere.stand_in``."""
        return stand_in(backend, self.pools[slot].call) if slot in self.pools else backend


class PoolLost(BaseException):
    """No actor of a pool answers any more. No metric may take it for a fault of its own."""


class Pool:
    """One model's actors: calls go to those on the worker's own node in turn, and to others where these fail."""

    def __init__(self, slot: str, members: Sequence[Member], node: str, number: int) -> None:
        self._slot = slot
        self._all = [member.handle for member in members]
        near = [member.handle for member in members if member.node == node]
        self._turns = deque(near or self._all)
        # Workers that begin together begin with different ones.
        self._turns.rotate(-number)

    def call(self, method: str, given: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
        """The answer of ``method``, and what the call used; raises what it raises.

        A call waits for its turn as long as its actor answers at all. This process ends where the actor dies over the
        call, as it would if it held the model itself: so the record that kills is found in the same way. A call that
        had not begun is for another actor. Arrays that come back may be read-only. Raises PoolLost where nobody
        answers.
        """
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            actor = self._turns[0]
            self._turns.rotate(-1)
            # The actor waits until this process knows that its call has begun.
            parts = actor.call.options(num_returns="streaming", _generator_backpressure_num_objects=1).remote(
                method, given, options
            )
            begun = False
            while not (its_turn := ray.wait([parts], timeout=PATIENCE)[0]) and _is_there(actor):
                until = time.monotonic() + START_SECONDS
            if not its_turn:
                ray.cancel(parts)
            try:
                if its_turn:
                    ray.get(next(parts))
                    begun = True
                    answer: tuple[Any, Any] = ray.get(next(parts))
                    return answer
            except (RayTaskError, UnserializableException) as error:
                raise own(error) from None
            except RayError:
                if begun:
                    os._exit(1)
            self._turns.remove(actor)
            if not self._turns:
                self._turns.extend(self._all)
                time.sleep(1)
        raise PoolLost(
            f"no actor of the model '{self._slot}' has answered for {START_SECONDS / 60:g} minutes; "
            "the same command goes on"
        )


def _is_there(actor: Any) -> bool:
    try:
        ray.get(actor.ping.remote(), timeout=PATIENCE)
    except RayError:
        return False
    return True


def stand_in(
    backend: type, call: Callable[[str, Sequence[Any], Mapping[str, Any]], tuple[Any, Mapping[str, int]]]
) -> type:
    """A class of the backend's own in which ``COMPUTED`` are asked of ``call``, and so is what takes the weights.

    What an object of it is, knows and cuts it says itself. A backend lists in ``FROM_WEIGHTS`` its methods without
    arguments that need the weights and have a small answer; that is asked for once. ``usage`` is the sum of what the
    calls used.
    """
    used: dict[str, int] = {}
    known: dict[str, Any] = {}

    def asked(name: str, *given: Any, **options: Any) -> Any:
        answer, more = call(name, given, options)
        for key, n in more.items():
            used[key] = used.get(key, 0) + n
        return answer

    def forwarded(name: str) -> Callable[..., Any]:
        @wraps(getattr(backend, name))
        def method(_: Any, *given: Any, **options: Any) -> Any:
            return asked(name, *given, **options)

        return method

    def remembered(name: str) -> Callable[..., Any]:
        @wraps(getattr(backend, name))
        def method(_: Any) -> Any:
            if name not in known:
                known[name] = asked(name)
            return known[name]

        return method

    members: dict[str, Any] = {name: forwarded(name) for name in COMPUTED if hasattr(backend, name)}
    members |= {name: remembered(name) for name in getattr(backend, "FROM_WEIGHTS", ())}
    if hasattr(backend, "usage"):
        members["usage"] = property(lambda _: dict(used))
    return type(backend.__name__, (backend,), members)


def check_alike(same: bool, host: str, theirs: Mapping[str, str]) -> None:
    """Raises RunError unless ``same``: what another machine computes would not be what this one does."""
    if same:
        return
    ours = versions()
    other = [
        f"{name} {theirs.get(name, 'missing')} there and {ours.get(name, 'missing')} here"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    raise RunError(
        f"{host} would not score as this machine does ({', '.join(other) or 'files of models differ'}); "
        "install the same packages and models on every node"
    )


def at_home(plan: Plan, variables: Mapping[str, str]) -> Plan:
    """Set this process up with the ``variables``, and no more threads than it has processors; returns its plan."""
    threads = min(plan.decode_threads, processors())
    os.environ.update(variables)
    # Of the driver's own: Ray sets one in every process that it starts.
    os.environ["OMP_NUM_THREADS"] = str(torch_threads(threads, variables.get("OMP_NUM_THREADS")))
    return replace(plan, decode_threads=threads)


@contextmanager
def portable() -> Iterator[None]:
    """What is raised within can be taken by every process, also one that lacks its class.

    Errors of vlitqc stay what they are; others keep the name of their type, their message, and the error of Python that
    they are.
    """
    try:
        yield
    except VlitqcError:
        raise
    except Exception as error:
        kinds = (kind for kind in type(error).__mro__ if issubclass(kind, Exception))
        base = next(k for k in kinds if k.__module__ == "builtins" and not issubclass(k, ExceptionGroup))
        raise named(type(error).__name__, base, str(error)) from error


def named(name: str, base: type[BaseException], message: str) -> BaseException:
    """An error of a type of this name, derived from ``base``."""
    members = {
        "__init__": lambda *_: None,
        "__str__": lambda _: message,
        "__reduce__": lambda _: (named, (name, base, message)),
    }
    made: BaseException = type(name, (base,), members)()
    return made


def own(error: RayTaskError | UnserializableException) -> BaseException:
    """What was raised elsewhere, as it would have been here."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, VlitqcError):
        cause.__suppress_context__ = True
    return cause if isinstance(cause, Exception) else error
