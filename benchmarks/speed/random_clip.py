"""CLIP ViT-B/32 with random weights, on which speed does not depend: a profile of vlitqc, and its bare forward."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

from inputs import Pair

ARCHITECTURE = "ViT-B-32-quickgelu"
BATCH = 32
PROFILE = f"""
name = "clip"
title = "CLIP with random weights"
summary = "For a comparison of speed."

[models.clip]
backend = "open_clip"
kind = "ImageText"
name = "CLIP ViT-B/32, random"
licence = "none"
options = {{ architecture = "{ARCHITECTURE}" }}
[[models.clip.files]]
role = "checkpoint"
path = "WEIGHTS"

[metrics.matching_degree]
models = {{ model = "clip" }}

[metrics.visual_semantic_diversity]
models = {{ encoder = "clip" }}
"""


def network() -> Any:
    """The network, with the scale of the trained one."""
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    torch.manual_seed(0)
    made = open_clip.create_model(ARCHITECTURE).eval()
    with torch.no_grad():
        made.logit_scale.fill_(math.log(100))
    return made


def write_profile(made: Any, root: Path) -> Path:
    """``clip.toml`` and the weights beside it."""
    weights = root / "clip.safetensors"
    save_file({key: value.contiguous() for key, value in made.state_dict().items()}, str(weights))
    profile = root / "clip.toml"
    profile.write_text(PROFILE.replace("WEIGHTS", str(weights)), encoding="utf-8")
    return profile


class Bare:
    """Both towers over tensors that were made before."""

    def __init__(self, made: Any, found: Sequence[Pair]) -> None:
        transform = open_clip.image_transform(224, is_train=False)
        tokenize = open_clip.get_tokenizer(ARCHITECTURE)
        parts = [found[start : start + BATCH] for start in range(0, len(found), BATCH)]
        self._network = made
        self._pictures = [torch.stack([transform(Pillow.open(path)) for path, _ in part]) for part in parts]
        self._tokens = [tokenize([caption for _, caption in part]) for part in parts]

    def pictures(self) -> None:
        """The image tower."""
        with torch.inference_mode():
            for part in self._pictures:
                self._network.encode_image(part, normalize=True)

    def texts(self) -> None:
        """The text tower, each text as long as the context, as open_clip computes it."""
        with torch.inference_mode():
            for part in self._tokens:
                self._network.encode_text(part, normalize=True)
