"""YOLO-World: objects in pictures, of any vocabulary that text can name.

Cheng et al., *YOLO-World: Real-Time Open-Vocabulary Object Detection*, CVPR 2024, as the library ``ultralytics``
8.4 runs it. What was run here had random weights, on a CPU: the published ``yolov8*-worldv2.pt`` could not be
had, and CUDA was not run.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlitqc.errors import ModelUnavailable
from vlitqc.models.batching import Passes
from vlitqc.models.libraries import need
from vlitqc.models.state_dict import check_values, fit
from vlitqc.models.torch_device import torch_device
from vlitqc.models.ultralytics_checkpoint import Shell, read_checkpoint, rebuilt
from vlitqc.types import Box, FloatArray, ModelRef, Rgb, TextEncoder

VOCABULARIES = ("coco", "lvis", "file")
ARCHITECTURE = re.compile(r"yolov8[nsmlx]-world(v2)?\.yaml")

_WHAT = "YOLO-World"
_CURE = "get yolov8s-worldv2.pt from github.com/ultralytics/assets and name its path in the profile"
_STRIDE = 32
_TEXT_CHUNK = 80
_MOST_NAMES = 20_000
# Quiet and on its own: no look-up of a name server, no package installed at run time, no log lines, no eval of a
# model's description. The folder of its settings is set beside these.
_ENVIRONMENT = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "YOLO_VERBOSE": "0",
    "ULTRALYTICS_SAFE_LOAD": "1",
}


class Loaded(NamedTuple):
    """The network with the vocabulary's text features in it, the names by class, the device, and its passes."""

    network: Any
    names: tuple[str, ...]
    device: str
    passes: Passes


class YoloWorld:
    """Detector; ``files["checkpoint"]`` is an ultralytics checkpoint of a YOLO-World model.

    A checkpoint as ultralytics saves it is a pickle of whole modules. It is read with ``weights_only``: the only
    names in it that are let in are those of the modules that a YOLO-World model is made of and of plain data,
    and even these stand for empty shells while it is read, so nothing that the file asks for is ever called. A
    plain state dict serves too, with ``architecture``, for instance ``yolov8s-worldv2.yaml``. It does not hold
    the activation after the first convolution of SPPF, which is SiLU in the published models and none in models
    that ultralytics 8.4 builds itself; ``sppf_activation`` (true) says which.

    ``vocabulary`` names the categories looked for: ``coco`` (80 names) or ``lvis`` (1,198 distinct names of
    1,203 categories; the first of a category's synonyms, as ultralytics trains), both from the lists that
    ultralytics ships, or ``file``: ``files["vocabulary"]``, UTF-8, one name a line. ``text`` gives each name its
    features, the bare name being the prompt; YOLO-World was trained with those of OpenAI's CLIP ViT-B/32, and
    with any others it finds nothing sensible.

    Pictures are scaled to fit ``image_size`` and padded, as ultralytics does with one picture at a time, so that
    ``batch_size`` (by default 8 on a CPU, and on CUDA what trial finds fastest) changes a value by float rounding
    only. ``confidence`` 0.25, ``iou`` 0.7 (non-maximum suppression within a category) and ``max_det`` 300 are
    ultralytics' defaults. Always float32: half precision would move the corners by pixels.

    Importing ultralytics asks a name server for an address, writes settings into the home folder and may install
    packages; here it does none of these. Nothing loads before the first picture; loading happens once an object,
    and is safe from several threads.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        text: TextEncoder,
        vocabulary: str = "coco",
        architecture: str | None = None,
        sppf_activation: bool = True,
        image_size: int = 640,
        batch_size: int | None = None,
        confidence: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        device: str = "auto",
    ) -> None:
        for library in ("ultralytics", "torchvision"):
            need(library, "vlitqc[models]")
        if "checkpoint" not in files:
            raise ModelUnavailable(f"{_WHAT} needs its weights: a file with the role 'checkpoint'; {_CURE}")
        if vocabulary not in VOCABULARIES:
            raise TypeError(f"vocabulary must be one of {', '.join(VOCABULARIES)}; got {vocabulary!r}")
        if (vocabulary == "file") != ("vocabulary" in files):
            raise TypeError("vocabulary = 'file' goes with a file of the role 'vocabulary', and only with it")
        if architecture is not None and not ARCHITECTURE.fullmatch(str(architecture)):
            raise TypeError(f"architecture must be like 'yolov8s-worldv2.yaml', got {architecture!r}")
        _whole(image_size=image_size, batch_size=1 if batch_size is None else batch_size, max_det=max_det)
        if image_size % _STRIDE:
            raise TypeError(f"image_size must be a multiple of {_STRIDE}, got {image_size}")
        _share(confidence=confidence, iou=iou)
        self.ref = ref
        self._files = dict(files)
        self._text = text
        self._options: dict[str, Any] = {
            "vocabulary": vocabulary,
            "architecture": architecture,
            "sppf_activation": sppf_activation,
            "image_size": image_size,
            "batch_size": batch_size,
            "confidence": confidence,
            "iou": iou,
            "max_det": max_det,
            "device": device,
        }
        self._lock = threading.RLock()
        self._loaded: Loaded | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {"ref": self.ref, "files": self._files, "options": {"text": self._text, **self._options}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ref"], state["files"], **state["options"])  # type: ignore[misc]

    def detect(self, images: Sequence[Rgb]) -> list[list[Box]]:
        """Every object found in each picture, most confident first; corners as shares of its width and height.

        Raises ModelUnavailable where the checkpoint, the vocabulary or the text features cannot serve.
        """
        if not images:
            return []
        with self._lock:
            loaded = self.load()
            from ultralytics.data.augment import LetterBox

            fitted = LetterBox(self._options["image_size"], auto=True, stride=_STRIDE)
            found: dict[int, list[Box]] = {}
            # Pictures of one padded shape go through together; there are few such shapes.
            waiting: dict[tuple[int, ...], list[tuple[int, Rgb]]] = {}
            for i, image in enumerate(images):
                padded: Any = fitted(image=np.ascontiguousarray(image))
                group = waiting.setdefault(padded.shape, [])
                group.append((i, padded))
                if len(group) == loaded.passes.size(padded.shape):
                    found |= self._forward(loaded, waiting.pop(padded.shape), images)
            for group in waiting.values():
                found |= self._forward(loaded, group, images)
        return [found[i] for i in range(len(images))]

    def load(self) -> Loaded:
        """The network, ready; reads the checkpoint and the vocabulary at the first call."""
        with self._lock:
            if self._loaded is None:
                import_ultralytics()
                names = self._names()
                device = torch_device(self._options["device"])
                network, width = self._network()
                # The head keeps the grids of the shape that it saw last.
                passes = Passes(device, cpu=8, cuda=8, size=self._options["batch_size"], side_by_side=False)
                network = _ready(network, self._features(names, width), device)
                self._loaded = Loaded(network, names, device, passes)
            return self._loaded

    def _forward(
        self, loaded: Loaded, group: Sequence[tuple[int, Rgb]], images: Sequence[Rgb]
    ) -> dict[int, list[Box]]:
        import torch
        from ultralytics.utils import nms, ops

        def forward(part: slice) -> dict[int, list[Box]]:
            pixels = torch.from_numpy(np.stack([padded for _, padded in group[part]])).to(loaded.device)
            inputs = pixels.permute(0, 3, 1, 2).contiguous().float().div_(255)
            kept = nms.non_max_suppression(
                loaded.network(inputs),
                self._options["confidence"],
                self._options["iou"],
                max_det=self._options["max_det"],
                # With its limit of time, what is found would depend on how busy the machine is.
                max_time_img=float("inf"),
            )
            found: dict[int, list[Box]] = {}
            for (i, padded), rows in zip(group[part], kept, strict=True):
                height, width = images[i].shape[:2]
                rows[:, :4] = ops.scale_boxes(padded.shape[:2], rows[:, :4], (height, width))
                size = np.array([width, height, width, height], np.float64)
                found[i] = [
                    Box(
                        loaded.names[int(row[5])],
                        float(row[4]),
                        *(np.clip(row[:4] / size, 0.0, 1.0).tolist()),
                    )
                    for row in rows.double().cpu().numpy()
                ]
            return found

        shape = group[0][1].shape
        return {i: own for part in loaded.passes.parts(len(group), forward, shape) for i, own in part.items()}

    def _names(self) -> tuple[str, ...]:
        if self._options["vocabulary"] == "file":
            return _read_names(self._files["vocabulary"])
        from ultralytics.utils import ROOT, YAML

        reader: Any = YAML
        table = reader.load(ROOT / "cfg" / "datasets" / f"{self._options['vocabulary']}.yaml")["names"]
        # Two names that are equal have equal features, so the second could never be found.
        return tuple(dict.fromkeys(str(name).split("/", 1)[0] for name in table.values()))

    def _features(self, names: Sequence[str], width: int) -> FloatArray:
        """Unit rows ``float32[n, width]``."""
        chunks = [names[start : start + _TEXT_CHUNK] for start in range(0, len(names), _TEXT_CHUNK)]
        rows = np.concatenate([np.asarray(self._text.encode_texts(chunk), np.float32) for chunk in chunks])
        if rows.shape != (len(names), width):
            raise ModelUnavailable(
                f"{self._files['checkpoint']} needs text features of width {width}, and {self._text.ref.name} "
                f"gives {rows.shape[-1]}; use the text encoder that it was trained with (CLIP ViT-B/32: 512)"
            )
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(length).all() or not (length > 0).all():
            raise ModelUnavailable(
                f"{self._text.ref.name} gives text features that are not finite or all zero"
            )
        unit: FloatArray = rows / length
        return unit

    def _network(self) -> tuple[Any, int]:
        """A WorldModel in float32 with the checkpoint's weights, and the width of its text features."""
        path = self._files["checkpoint"]
        found = read_checkpoint(path, _WHAT, _CURE)
        network: Any = (
            rebuilt(found, path, _WHAT, _CURE) if isinstance(found, Shell) else self._from_state(found)
        )
        check_values(network.state_dict(), path, _WHAT, _CURE)
        try:
            network = network.float().eval()
            width = int(network.model[-1].cv3[0][-1].out_channels)
        except (AttributeError, IndexError, TypeError, KeyError) as error:
            raise ModelUnavailable(f"{path} has no detection head of {_WHAT} ({error}); {_CURE}") from error
        return network, width

    def _from_state(self, state: Mapping[str, Any]) -> Any:
        import torch
        from ultralytics.nn.modules.block import SPPF
        from ultralytics.nn.tasks import WorldModel

        path = self._files["checkpoint"]
        if self._options["architecture"] is None:
            raise ModelUnavailable(
                f"{path} is a plain state dict; say which model it is of by the option architecture, "
                "for instance 'yolov8s-worldv2.yaml'"
            )
        build: Any = WorldModel
        with _same_random_state():
            network = build(self._options["architecture"], verbose=False)
        for module in network.modules():
            if isinstance(module, SPPF):
                module.cv1.act = torch.nn.SiLU() if self._options["sppf_activation"] else torch.nn.Identity()
        fit(network, state, path, f"{_WHAT} {self._options['architecture']}", _CURE)
        return network


def _ready(network: Any, features: FloatArray, device: str) -> Any:
    """The network with its vocabulary, fused and on its device. Raises ModelUnavailable where it does not run."""
    import torch

    head = network.model[-1]
    head.export = False
    # Grids of another picture may be stored with the model.
    head.shape = None
    try:
        network.txt_feats = torch.from_numpy(features)[None].to(device)
        head.nc = len(features)
        network = network.fuse(verbose=False).to(device).eval()
        with torch.inference_mode():
            shape = tuple(network(torch.zeros(1, 3, 64, 64, device=device))[0].shape[:2])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        said = (str(error).splitlines() or [""])[0]
        raise ModelUnavailable(
            f"the checkpoint's model of {_WHAT} does not run ({type(error).__name__}: {said}); {_CURE}"
        ) from error
    if shape != (1, 4 + len(features)):
        raise ModelUnavailable(
            f"the checkpoint's model gives {shape[1]} rows, not {4 + len(features)}; {_CURE}"
        )
    return network


def _read_names(path: Path) -> tuple[str, ...]:
    """The names in a text file, one a line, without empty lines."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelUnavailable(f"{path} cannot be read as a vocabulary in UTF-8: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not 0 < len(names) <= _MOST_NAMES:
        raise ModelUnavailable(f"{path} holds {len(names)} names; a vocabulary has 1 to {_MOST_NAMES:,}")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ModelUnavailable(f"{path} holds the name {twice!r} twice")
    return tuple(names)


def import_ultralytics() -> None:
    """Import what is needed of ultralytics, without its marks on the network, the home folder and the process.

    Left to itself its import looks up a name server, writes settings below the home folder, and puts functions of
    its own in the place of ``PIL.Image.open`` (which installs a package where a picture cannot be read),
    ``torch.save`` and the ways in which numpy and torch print.
    """
    # cv2 needs what it puts into the environment; ultralytics decides by torchvision how to suppress boxes.
    import cv2  # noqa: F401
    import PIL.Image
    import torch
    import torchvision  # noqa: F401

    if "ultralytics" in sys.modules:
        return
    before = dict(os.environ)
    numpy_prints = np.get_printoptions()
    torch_prints = dict(vars(torch._tensor_str.PRINT_OPTS))
    torch_save, open_picture = torch.save, PIL.Image.open
    with tempfile.TemporaryDirectory(prefix="vlitqc-") as folder:
        try:
            os.environ.update(_ENVIRONMENT, YOLO_CONFIG_DIR=folder)
            import ultralytics.data.augment
            import ultralytics.nn.tasks
            import ultralytics.utils.nms
            import ultralytics.utils.ops  # noqa: F401
            from ultralytics.utils import SETTINGS

            # In memory alone: its own way of setting writes a file.
            dict.update(SETTINGS, sync=False)
        finally:
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
            np.set_printoptions(**numpy_prints)
            vars(torch._tensor_str.PRINT_OPTS).update(torch_prints)
            torch.save, PIL.Image.open = torch_save, open_picture


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """Building a model draws random weights; the caller's random numbers stay as they would have been."""
    import torch

    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _whole(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise TypeError(f"{name} must be a whole number above 0, got {value!r}")


def _share(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
            raise TypeError(f"{name} must lie between 0 and 1, got {value!r}")
