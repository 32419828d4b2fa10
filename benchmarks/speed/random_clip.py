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
from vlitqc import profiles
from vlitqc.models.open_clip import OpenClip
from vlitqc.models.store import ModelStore

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
options = {{ architecture = "{ARCHITECTURE}", precision = "PRECISION" }}
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


def write_profile(made: Any, root: Path, precision: str = "fp32") -> Path:
    """``clip-fp32.toml``, or what the precision is, and the weights beside it."""
    weights = root / "clip.safetensors"
    if not weights.exists():
        save_file({key: value.contiguous() for key, value in made.state_dict().items()}, str(weights))
    profile = root / f"clip-{precision}.toml"
    text = PROFILE.replace("WEIGHTS", str(weights)).replace("PRECISION", precision)
    profile.write_text(text, encoding="utf-8")
    return profile


def model(profile: Path) -> OpenClip:
    """The model of such a profile."""
    made: OpenClip = ModelStore(profiles.load(str(profile)), device="cpu").get("clip")
    return made


class Bare:
    """Both towers over tensors that were made before."""

    def __init__(self, made: Any, found: Sequence[Pair]) -> None:
        transform = open_clip.image_transform(224, is_train=False)
        tokenize = open_clip.get_tokenizer(ARCHITECTURE)
        self._network = made
        self._pictures = torch.stack([transform(Pillow.open(path)) for path, _ in found])
        self._tokens = tokenize([caption for _, caption in found])

    def pictures(self, size: int = BATCH) -> None:
        """The image tower, on torch's own threads."""
        with torch.inference_mode():
            for part in self._pictures.split(size):
                self._network.encode_image(part, normalize=True)

    def side_by_side(self, of: OpenClip) -> None:
        """The image tower as a run has it, several passes at once: no run of that model is faster."""
        at = of._ready()

        def forward(part: slice) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=at.half is not None):
                rows: torch.Tensor = at.network.encode_image(self._pictures[part], normalize=True)
            return rows

        at.passes.parts(len(self._pictures), forward)

    def texts(self) -> None:
        """The text tower, each text as long as the context, as open_clip computes it."""
        with torch.inference_mode():
            for part in self._tokens.split(BATCH):
                self._network.encode_text(part, normalize=True)
