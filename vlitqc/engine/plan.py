"""What a run computes: the metrics with their models, settled before the first record is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from vlitqc.errors import ModelUnavailable, UsageError
from vlitqc.models.feature_cache import FILE_NAME, FeatureCache, device_in_words
from vlitqc.models.roles import check_roles
from vlitqc.models.store import ModelStore
from vlitqc.models.torch_device import has_gpu
from vlitqc.profiles import MetricEntry, Profile
from vlitqc.registry import METRICS, entries, find, load_metric
from vlitqc.types import DatasetMetric, Metric, MetricSpec, ModelRef, SampleMetric

if TYPE_CHECKING:
    from vlitqc.engine.mirror import Mirror

VERSIONS = (
    "numpy",
    "pandas",
    "pyarrow",
    "pillow",
    "torch",
    "sentence-transformers",
    "spacy",
    "scikit-image",
    "scipy",
    "scikit-learn",
    "wordfreq",
)
"""The packages whose versions can change a number."""

OPTIONAL_VERSIONS = (
    "open-clip-torch",
    "pyiqa",
    "ultralytics",
    "torchvision",
    "transformers",
    "tokenizers",
    "timm",
    "opencv-python",
    "opencv-python-headless",
    "thinc",
    "blis",
    "gguf",
    "openai",
    "hanlp",
)
"""Those that only some profiles need, or that come with another."""

SHARD_LAYOUT = 3
"""Rises whenever what a shard's folder holds changes its meaning."""


BATCH = 32
"""Records of a batch on the CPU. A larger one makes nothing faster there, and holds more pictures in memory."""

BATCH_CUDA = 256
"""Records of a batch on a GPU, which is idle for a part of every batch; a model divides what is too much for it."""


def batch_size(asked: int | str, device: str, gpu: bool | None = None) -> int:
    """The number asked for, or for ``auto`` what suits the device.

    ``gpu`` says whether models have a GPU where they are; None: they are in this process.
    Raises UsageError for any other text and for less than 1.
    """
    if asked == "auto":
        return BATCH_CUDA if device != "cpu" and (has_gpu() if gpu is None else gpu) else BATCH
    if not isinstance(asked, int) or asked < 1:
        raise UsageError(f"batch_size={asked}: expected 1 or more, or 'auto'")
    return asked


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides the numbers, small enough to send to a worker process.

    ``mirror`` says where the shards of a run at a URL go; they are the same wherever that is.
    """

    profile: Profile
    metrics: tuple[str, ...]
    image_root: Path
    device: str = "auto"
    batch_size: int = BATCH
    decode_threads: int = 2
    seed: int = 0
    allow_outside: bool = False
    allow_remote: bool = False
    judge_limit: int | None = None
    cache: bool | Path = False
    mirror: Mirror | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """One metric of a plan: built, or ``unavailable`` for the reason given.

    ``broken`` tells a model that is missing or not the one named from a metric that the profile does not serve.
    """

    spec: MetricSpec
    entry: MetricEntry
    metric: Metric | None
    unavailable: str | None
    models: tuple[tuple[str, ModelRef], ...]
    broken: bool = False


@cache
def versions() -> Mapping[str, str]:
    """The version of each of these packages that is installed, looked up once a process."""
    found = {name: metadata.version(name) for name in VERSIONS}
    for name in OPTIONAL_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return MappingProxyType(found)


def feature_cache(plan: Plan, device: str | None = None) -> FeatureCache | None:
    """The cache of features that the run goes by; None where it is to have none.

    ``device`` says in words where the models compute, where that is not this process.
    Raises UsageError where the environment names no size or no folder for it.
    """
    if not plan.cache:
        return None
    told = {
        "vlitqc": metadata.version("vlitqc"),
        **versions(),
        "device": device or device_in_words(plan.device),
    }
    if isinstance(plan.cache, Path):
        return FeatureCache(plan.cache / FILE_NAME, versions=told)
    return FeatureCache.in_folder(told)


def picture_cache() -> FeatureCache | None:
    """The same cache for what is made of pictures by this program and Pillow alone."""
    told = {name: metadata.version(name) for name in ("vlitqc", "pillow")}
    return FeatureCache.in_folder({**told, "device": device_in_words("cpu")})


def viewers(planned: Sequence[Planned]) -> str:
    """Names whatever looks at the pixels of pictures in this plan, exactly."""
    told = [
        [p.spec.name, p.spec.version, dict(p.entry.options), [(slot, ref.sha256) for slot, ref in p.models]]
        for p in planned
        if p.metric is not None and p.spec.image_side
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def without(planned: Planned, error: str) -> Planned:
    """The metric as one whose model cannot be had, for the reason given."""
    return replace(planned, metric=None, unavailable=f"model unavailable: {error}", broken=True)


def choose_metrics(profile: Profile, asked: str | Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, or the profile's own, in the order of the principles. Raises UnknownName."""
    names = set([asked] if isinstance(asked, str) else asked or profile.metrics)
    for name in sorted(names):
        find(METRICS, name)
    return tuple(name for name in entries(METRICS) if name in names)


def prepare(plan: Plan, store: ModelStore) -> list[Planned]:
    """Build every metric of the plan. A missing model makes its metrics unavailable, not the run."""
    return [_prepare(plan.profile, name, store) for name in plan.metrics]


def _prepare(profile: Profile, name: str, store: ModelStore) -> Planned:
    metric_class = load_metric(name)
    spec: MetricSpec = metric_class.spec
    entry = profile.metrics.get(name, MetricEntry(name))
    if entry.floor is not None and spec.level == "dataset" and spec.name not in spec.columns:
        raise UsageError(
            f"profile {profile.name}: metrics.{name}.floor: the metric scores the data set, not samples, "
            "so no record can fall below a floor; remove the key"
        )
    if entry.unavailable is not None:
        return Planned(spec, entry, None, entry.unavailable, ())
    refs = tuple((slot, store.ref(slot)) for slot in entry.models.values())
    try:
        models = {role: store.get(slot) for role, slot in entry.models.items()}
        roles = {role: (entry.models[role], model) for role, model in models.items()}
        check_roles(metric_class, roles, f"profile {profile.name}: metrics.{name}.models")
        metric = metric_class(**models, **entry.options)
    except ModelUnavailable as error:
        return without(Planned(spec, entry, None, None, refs), str(error))
    except TypeError as error:
        where = (
            f"profile {profile.name}"
            if name in profile.metrics
            else f"metric {name}, which no profile sets up"
        )
        raise UsageError(f"{where}: metrics.{name}: {error}") from error
    protocol = SampleMetric if spec.level == "sample" else DatasetMetric
    if not isinstance(metric, protocol):
        raise UsageError(
            f"metric {name} says level={spec.level} but lacks the methods of {protocol.__name__}"
        )
    # The instance knows the scale of its model.
    return Planned(metric.spec, entry, metric, None, refs)


def image_side(profile: Profile, planned: Sequence[Planned]) -> int:
    """The longest side, in pixels, that the largest consumer of pictures needs.

    Every metric that the profile serves counts, also those that the run leaves out: a picture is then the same
    whichever metrics run, and so are their values. At least 1: where no metric looks at pixels, pictures are
    decoded all the same to find the broken ones.
    """
    installed = entries(METRICS)
    served = (
        name for name, entry in profile.metrics.items() if entry.unavailable is None and name in installed
    )
    specs: list[MetricSpec] = [load_metric(name).spec for name in served]
    specs += [p.spec for p in planned if p.metric is not None]
    return max([1, *(spec.image_side for spec in specs)])


def fingerprint(plan: Plan, planned: Sequence[Planned]) -> str:
    """A hash of everything but the records that decides what a shard holds."""
    text = json.dumps(
        {
            "layout": SHARD_LAYOUT,
            "vlitqc": metadata.version("vlitqc"),
            "image_root": str(plan.image_root),
            "versions": dict(versions()),
            "image_side": image_side(plan.profile, planned),
            "device": plan.device,
            "batch_size": plan.batch_size,
            "allow_outside": plan.allow_outside,
            "metrics": [
                {
                    "name": p.spec.name,
                    "version": p.spec.version,
                    "options": dict(p.entry.options),
                    "unavailable": p.unavailable,
                    "models": [(slot, ref.sha256) for slot, ref in p.models],
                }
                for p in planned
            ],
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()
