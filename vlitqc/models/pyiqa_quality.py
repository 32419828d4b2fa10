"""Picture quality without a reference, by any metric of pyiqa that one local file can serve.

pyiqa (github.com/chaofengc/IQA-PyTorch) gathers published metrics behind one call. The default is MANIQA (Yang
et al., *MANIQA: Multi-dimension Attention Network for No-Reference Image Quality Assessment*, CVPRW 2022), as
trained on KonIQ-10k. Run here with pyiqa 0.1.16 and random weights, on a CPU; neither the published weights nor
a GPU were tried.
"""

from __future__ import annotations

import inspect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable, UnknownName, UsageError
from vlitqc.models.batching import Passes, is_out_of_memory
from vlitqc.models.libraries import need
from vlitqc.models.state_dict import fit, read_state_dict, why_unreadable
from vlitqc.models.torch_device import autocast, check_precision, torch_device
from vlitqc.types import ModelRef, Rgb, Scale

_INSTALL = "vlitqc[models]"
_NETWORKS = {
    "CFANet": "topiq",
    "CNNIQA": "cnniqa",
    "DBCNN": "dbcnn",
    "HyperNet": "hypernet",
    "MANIQA": "maniqa",
    "MUSIQ": "musiq",
    "NIMA": "nima",
    "PAQ2PIQ": "paq2piq",
    "TReS": "tres",
    "UNIQUE": "unique",
    "URanker": "uranker",
    "WaDIQaM": "wadiqam",
}
"""Architectures whose checkpoint is the state dict of the whole network, with their modules in pyiqa.archs."""
_STATISTICS = {"BRISQUE": "brisque", "ILNIQE": "niqe", "NIQE": "niqe", "NRQM": "nrqm", "PIQE": "piqe"}
"""Those that compute statistics of a picture, with a small file of constants or (PIQE) none at all."""
_WITHOUT_FILE = ("PIQE",)
_FETCHES_FACES = "gfiqa"
"""In the name of a CFANet that also needs a detector of faces."""

_PIXELS = 2**22
"""Of one pass, unless it is of a single picture: so memory has a bound."""
_MOST_ENLARGED = 4 * _PIXELS
"""Of a picture that is enlarged: 1 × 2048 px would become 225 × 460,800 px and take gigabytes."""
_CROP = 225
"""The shorter side to which pyiqa enlarges a picture that is smaller than a crop."""

_building = threading.Lock()


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    """pyiqa's own table of metrics: architecture, mode, direction, range."""
    package = find_spec("pyiqa")
    assert package is not None and package.submodule_search_locations
    # The table alone: pyiqa itself takes seconds to import, and every process asks for the scale.
    source = Path(package.submodule_search_locations[0]) / "default_model_configs.py"
    spec = spec_from_file_location("_pyiqa_default_model_configs", source)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    table: Mapping[str, Mapping[str, Any]] = module.DEFAULT_CONFIGS
    return table


def metrics() -> list[str]:
    """The metrics that can be served, by name."""
    return sorted(name for name, entry in _table().items() if _served(entry))


def _served(entry: Mapping[str, Any]) -> bool:
    options = entry["metric_opts"]
    return (
        entry["metric_mode"] == "NR"
        and options["type"] in {**_NETWORKS, **_STATISTICS}
        and _FETCHES_FACES not in options.get("model_name", "")
    )


def _bounds(score_range: str | None) -> tuple[float, float]:
    """The range of pyiqa's table, such as ``0, 1``. An end that it marks as approximate (``~1``) is no bound."""
    low, _, high = (score_range or "").partition(",")

    def end(text: str, without: float) -> float:
        return without if not text.strip() or "~" in text else float(text)

    return end(low, -np.inf), end(high, np.inf)


class PyiqaQuality:
    """Image scorer; ``files["checkpoint"]`` is the metric's file as pyiqa publishes it, of whatever path.

    ``metric`` is a name of pyiqa's table; ``metrics()`` lists those served. Refused are metrics that compare with
    a reference, with a text or over a set of pictures, and those that fetch further models by themselves (CLIP,
    language models, detectors of faces), since nothing is fetched here; and ``metaiqa``, whose file pyiqa does not
    check, and ``entropy``, which takes 2 kB a pixel. ``settings`` are laid over pyiqa's arguments of the metric,
    such as ``{test_sample = 5}`` for fewer of MANIQA's 20 crops.

    The scale's direction and range are pyiqa's. A picture is given to the metric in its own size: only pictures
    of equal size share a pass, at most ``batch_size`` of them (by default 4 on a CPU, and on CUDA what trial finds
    fastest), and what is done to a size that the network cannot
    take is pyiqa's own way, but that a picture which would be enlarged to over 2²⁴ pixels is refused as too thin.
    MANIQA's is 20 crops of 224 px on a grid, the same every time, of a picture whose
    shorter side is enlarged to 225 px (bilinear) if it is less. A pass of MANIQA needs about 1 GB a picture.

    ``precision``: ``fp32`` computes in float32; ``auto`` lets networks compute in bfloat16 on a GPU that has it,
    else in float16 there, which is faster and leaves a score about three digits where the last layer gives it
    alone. A CPU, and metrics that are statistics, compute in float32 or more.

    Nothing loads before the first picture; loading happens once an object, and is safe from several threads. A
    network's checkpoint must fit it exactly and is read with ``weights_only``.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        metric: str = "maniqa",
        batch_size: int | None = None,
        precision: str = "fp32",
        settings: Mapping[str, Any] | None = None,
        device: str = "auto",
    ) -> None:
        for library in ("pyiqa", "torchvision"):
            need(library, _INSTALL)
        self._entry = _entry(metric)
        if self._type not in _WITHOUT_FILE and "checkpoint" not in files:
            raise ModelUnavailable(
                f"pyiqa's {metric} needs its weights: a file with the role 'checkpoint' from "
                "huggingface.co/chaofengc/IQA-PyTorch-Weights"
            )
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise TypeError(f"batch_size must be a whole number above 0, got {batch_size!r}")
        check_precision(precision)
        fixed = sorted(key for key in settings or {} if key == "type" or "pretrain" in key)
        if fixed:
            raise TypeError(
                f"settings may not name {', '.join(fixed)}: weights come from the file 'checkpoint'"
            )
        self.ref = ref
        self._metric = metric
        self._files = dict(files)
        self._batch_size = batch_size
        self._precision = precision
        self._settings = dict(settings or {})
        self._device_name = device
        self._lock = threading.RLock()
        self._loaded: tuple[Any, Passes] | None = None

    @property
    def scale(self) -> Scale:
        """Range and direction from pyiqa's table; unbounded where the table gives an end only roughly."""
        return Scale(
            "",
            _bounds(self._entry.get("score_range")),
            not self._entry.get("lower_better", False),
            f"{self._metric} (pyiqa)",
        )

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": self._files,
            "options": {
                "metric": self._metric,
                "batch_size": self._batch_size,
                "precision": self._precision,
                "settings": self._settings,
                "device": self._device_name,
            },
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ref"], state["files"], **state["options"])  # type: ignore[misc]

    def score_images(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """The metric of each picture, ``float64[n]``.

        Raises ModelUnavailable where the checkpoint is not the metric's, and ValueError where the metric has no
        finite number for a picture or cannot take its size.
        """
        values = np.empty(len(images), np.float64)
        if not images:
            return values
        network, passes = self.load()
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            by_shape[image.shape[0], image.shape[1]].append(i)
        at_once = {shape: self._at_once(*shape) for shape in by_shape}
        for shape, places in by_shape.items():
            values[places] = self._alike(network, passes, [images[i] for i in places], at_once[shape])
        return values

    def load(self) -> tuple[Any, Passes]:
        """The metric and its passes; reads the checkpoint at the first call."""
        with self._lock:
            if self._loaded is None:
                device = torch_device(self._device_name)
                # MANIQA keeps the outputs of its blocks during a pass.
                passes = Passes(device, cpu=4, cuda=4, size=self._batch_size, side_by_side=False)
                self._loaded = self._build().to(device), passes
            return self._loaded

    @property
    def _type(self) -> str:
        return str(self._entry["metric_opts"]["type"])

    def _at_once(self, height: int, width: int) -> int:
        """How many pictures of that size share a pass at most."""
        if self._type in _STATISTICS:
            return 1  # they gain nothing from company
        # Networks enlarge what is smaller than their crop, so that a thin picture may become a large one.
        enlarged = max(1.0, _CROP / min(height, width)) ** 2
        pixels = height * width * enlarged
        if enlarged > 1 and pixels > _MOST_ENLARGED:
            raise ValueError(f"a picture of {width} × {height} px is too thin to be measured")
        return max(1, int(_PIXELS / pixels))

    def _alike(
        self, network: Any, passes: Passes, images: Sequence[Rgb], at_once: int
    ) -> NDArray[np.float64]:
        """The values of pictures of one size."""

        def forward(part: slice) -> NDArray[np.float64]:
            return self._forward(network, passes.device, images[part])

        return np.concatenate(passes.parts(len(images), forward, images[0].shape, most=at_once))

    def _forward(self, network: Any, device: str, images: Sequence[Rgb]) -> NDArray[np.float64]:
        import torch

        pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
        height, width = images[0].shape[:2]
        where = f"{self._metric} of a picture of {width} × {height} px"
        precision = "fp32" if self._type in _STATISTICS else self._precision
        with self._lock, autocast(device, precision):
            # MANIQA gathers the outputs of its blocks in a list, and would read those of a pass that failed.
            gathered = getattr(network, "save_output", None)
            if gathered is not None:
                gathered.clear()
            try:
                found = network(pixels)
            except (RuntimeError, AssertionError, IndexError, ZeroDivisionError) as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(f"{where}: {(str(error).splitlines() or ['fails'])[0]}") from error
        values: NDArray[np.float64] = found.double().reshape(-1).cpu().numpy()
        if len(values) != len(images):
            raise ValueError(f"{where}: {len(values)} values for {len(images)} pictures")
        if not np.isfinite(values).all():
            raise ValueError(f"{where} is not finite")
        return values

    def _build(self) -> Any:
        kind = self._type
        with _building:
            module = import_module(f"pyiqa.archs.{({**_NETWORKS, **_STATISTICS})[kind]}_arch")
            published: list[str] = []
            options = {k: v for k, v in self._entry["metric_opts"].items() if k != "type"} | self._settings
            checkpoint = self._files.get("checkpoint")
            architecture = getattr(module, kind)
            unknown = set(self._settings) - set(inspect.signature(architecture).parameters)
            if unknown:
                raise UsageError(f"pyiqa's {self._metric} has no setting called {', '.join(sorted(unknown))}")
            with _nothing_fetched(module, checkpoint, published):
                try:
                    network = architecture(**options)
                except Exception as error:
                    if kind in _NETWORKS:
                        raise
                    raise ModelUnavailable(
                        f"{checkpoint} cannot be read as the file of pyiqa's {self._metric} "
                        f"({why_unreadable(error)}); {_cure(published)}"
                    ) from error
        if kind in _NETWORKS:
            assert checkpoint is not None
            what, cure = f"pyiqa's {self._metric}", _cure(published)
            fit(network, read_state_dict(checkpoint, what, cure), checkpoint, what, cure)
        return network.eval()


def _entry(metric: str) -> Mapping[str, Any]:
    table = _table()
    if metric not in table:
        raise UnknownName("pyiqa metric", str(metric), metrics())
    if table[metric]["metric_mode"] != "NR":
        raise UsageError(
            f"pyiqa's {metric} compares a picture with a reference, and a data set has none; "
            f"served are {', '.join(metrics())}"
        )
    if not _served(table[metric]):
        raise UsageError(
            f"pyiqa's {metric} cannot be computed from a picture and one local file; "
            f"served are {', '.join(metrics())}"
        )
    return table[metric]


def _cure(published: Sequence[str]) -> str:
    name = published[-1].rsplit("/", 1)[-1] if published else "the file"
    return f"get {name} from huggingface.co/chaofengc/IQA-PyTorch-Weights"


class _Untrained:
    """A library seen through a veil: what is built with it gets no weights, and what is read is not unpickled."""

    _FORCED: Mapping[str, Any] = {"pretrained": False, "weights": None, "weights_only": True}

    def __init__(self, library: ModuleType) -> None:
        self._library = library

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._library, name)
        if isinstance(found, ModuleType):
            return _Untrained(found)
        return found if isinstance(found, type) or not callable(found) else self._forced(found)

    @classmethod
    def _forced(cls, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            return function(*args, **{key: cls._FORCED.get(key, value) for key, value in options.items()})

        return call


@contextmanager
def _nothing_fetched(module: ModuleType, checkpoint: Path | None, published: list[str]) -> Iterator[None]:
    """While a metric of ``module`` is built, its names for what fetches weights stand for what does not.

    Constructors of pyiqa ask hubs for the weights of a backbone, whatever ``pretrained`` says, only to overwrite
    them with the metric's own, and unpickle these. Within the one module, builders of timm and torchvision
    therefore give bare networks, nothing is loaded into them, and a file of constants is the user's. The URLs
    asked for are noted in ``published``.
    """

    def leave(_network: Any, url: str, *_: Any, **__: Any) -> None:
        published.append(url)

    def local(url: str, *_: Any, **__: Any) -> str:
        published.append(url)
        return str(checkpoint)

    stand_ins: dict[str, Any] = {"load_pretrained_network": leave, "load_file_from_url": local}
    for name, value in vars(module).items():
        if isinstance(value, ModuleType) and value.__name__.split(".")[0] in ("timm", "torch", "torchvision"):
            stand_ins[name] = _Untrained(value)
        elif name == "create_swin":
            stand_ins[name] = _Untrained._forced(value)
    before = {name: vars(module)[name] for name in stand_ins if name in vars(module)}
    vars(module).update({name: stand_ins[name] for name in before})
    try:
        yield
    finally:
        vars(module).update(before)
