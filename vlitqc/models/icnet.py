"""ICNet: how complex a picture looks to people, from a network trained on 9,600 pictures that people rated.

Feng et al., *IC9600: A Benchmark Dataset for Automatic Image Complexity Assessment*, TPAMI 2023. The weights
``ck.pth`` come from their repository (github.com/tinglyfeng/IC9600) and are not shipped here. The layout of
their checkpoint (names, shapes, 246 tensors, 20,328,074 parameters) is followed exactly; what was run here had
random weights, on a CPU.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.models.batching import Passes
from vlitqc.models.state_dict import fit, read_state_dict
from vlitqc.models.torch_device import autocast, check_precision, torch_device
from vlitqc.types import ModelRef, Rgb, Scale

if TYPE_CHECKING:
    import torch

_SIDE = 512
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_WHAT = "ICNet"
_CURE = "get ck.pth as https://github.com/tinglyfeng/IC9600 says, and name its path in the profile"


def _resized(image: Rgb) -> NDArray[np.uint8]:
    """``uint8[512, 512, 3]``: resized whole, whatever its shape (bilinear, anti-aliased)."""
    from PIL import Image as Pillow

    return np.asarray(Pillow.fromarray(image).resize((_SIDE, _SIDE), Pillow.Resampling.BILINEAR))


class ICNet:
    """Image scorer; ``files["checkpoint"]`` is IC9600's ``ck.pth``, read with ``weights_only``.

    A value is 100 times the network's score, 0 (nothing to see) to 100 (most complex). ``batch_size`` pictures
    go through the network at once, which changes a value by float rounding only; by default 2 on a CPU, and on CUDA
    what trial finds fastest. ``precision``: ``auto``
    computes in bfloat16 on a GPU that has it, else in float16 there; ``fp32`` in float32; a CPU always computes
    in float32. Nothing loads before the first picture; loading happens once an object, and is safe from several
    threads.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        batch_size: int | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        if "checkpoint" not in files:
            raise ModelUnavailable(f"ICNet needs its weights: a file with the role 'checkpoint'; {_CURE}")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise TypeError(f"batch_size must be a whole number above 0, got {batch_size!r}")
        check_precision(precision)
        self.ref = ref
        self._checkpoint = files["checkpoint"]
        self._batch_size = batch_size
        self._precision = precision
        self._device_name = device
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Passes] | None = None

    @property
    def scale(self) -> Scale:
        """0 to 100, higher is more complex."""
        return Scale("", (0.0, 100.0), True, "ICNet (IC9600, Feng et al. 2023)")

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {
            "ref": self.ref,
            "files": {"checkpoint": self._checkpoint},
            "options": {
                "batch_size": self._batch_size,
                "precision": self._precision,
                "device": self._device_name,
            },
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ref"], state["files"], **state["options"])  # type: ignore[misc]

    def score_images(self, images: Sequence[Rgb]) -> NDArray[np.float64]:
        """100 times the network's score of each picture, ``float64[n]``.

        Raises ModelUnavailable where the file is not ICNet's checkpoint, and ValueError where it gives a number
        that is not finite.
        """
        if not images:
            return np.empty(0, np.float64)
        import torch

        network, passes = self.load()
        mean, std = (torch.tensor(colour, device=passes.device).view(3, 1, 1) for colour in (_MEAN, _STD))

        def forward(pixels: torch.Tensor) -> NDArray[np.float64]:
            inputs = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
            with autocast(passes.device, self._precision):
                scores = network(inputs.div_(255).sub_(mean).div_(std))
            found: NDArray[np.float64] = 100 * scores.double().cpu().numpy()
            return found

        values = np.concatenate(passes.images(images, _resized, forward))
        if not np.isfinite(values).all():
            raise ValueError(f"ICNet gives no finite score; {self._checkpoint} may be damaged")
        return values

    def load(self) -> tuple[Any, Passes]:
        """The network and its passes; reads the checkpoint at the first call."""
        with self._lock:
            if self._loaded is None:
                from vlitqc.models.icnet_network import ICNetwork

                device = torch_device(self._device_name)
                state = read_state_dict(self._checkpoint, _WHAT, _CURE)
                network = ICNetwork()
                fit(network, state, self._checkpoint, _WHAT, _CURE)
                passes = Passes(device, cpu=2, cuda=8, size=self._batch_size)
                self._loaded = network.eval().to(device), passes
            return self._loaded
