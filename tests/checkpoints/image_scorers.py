"""Files of models that score pictures, in their published formats, with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import scipy.io
import timm
import torch
from oracles import icnet

SMALL_MANIQA: dict[str, Any] = {"embed_dim": 96, "dim_mlp": 96, "test_sample": 3}
"""Settings of a MANIQA that a CPU runs in a second."""


def write_icnet(folder: Path, seed: int = 0) -> Path:
    """``ck.pth`` of IC9600: a plain state dict; 81 MB, since the published layout has one size only."""
    path = folder / "ck.pth"
    torch.save(icnet.random_state(seed), path)
    return path


def write_cnniqa(folder: Path, seed: int = 0) -> Path:
    """``CNNIQA_koniq10k.pth`` of pyiqa: a state dict under ``params``; 3 MB."""
    torch.manual_seed(seed)
    state = {"conv1.weight": torch.randn(50, 3, 7, 7) / 12, "conv1.bias": torch.randn(50) / 10}
    for name, inputs, outputs in (("fc1", 100, 800), ("fc2", 800, 800), ("fc3", 800, 1)):
        state[f"{name}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
        state[f"{name}.bias"] = torch.randn(outputs) / 10
    path = folder / "CNNIQA_koniq10k.pth"
    torch.save({"params": state}, path)
    return path


@contextmanager
def timm_without_hub(**options: Any) -> Iterator[None]:
    """``timm.create_model`` fetches no weights, and builds with ``options``."""
    build = timm.create_model

    def bare(name: str, **given: Any) -> Any:
        return build(name, **{**given, **options, "pretrained": False})

    with mock.patch.object(timm, "create_model", bare):
        yield


def small_backbone() -> Any:
    """The context in which pyiqa builds a MANIQA that fits ``SMALL_MANIQA``."""
    return timm_without_hub(embed_dim=SMALL_MANIQA["embed_dim"], num_heads=3)


def write_maniqa(folder: Path, seed: int = 0, **settings: Any) -> Path:
    """``ckpt_koniq10k.pt`` of pyiqa: a state dict; 543 MB, or 35 MB of a small one.

    Small with the settings ``SMALL_MANIQA`` and within ``small_backbone()``, where it must be used too.
    """
    from pyiqa.archs.maniqa_arch import MANIQA

    torch.manual_seed(seed)
    with timm_without_hub():
        network = MANIQA(pretrained=False, scale=0.8, **settings)
    with torch.no_grad():
        # Rectified at the end: without this a random network gives 0 for every picture.
        network.fc_score[0].weight *= 20
        network.fc_score[3].weight *= 20
        network.fc_score[3].bias.fill_(0.5)
    path = folder / "ckpt_koniq10k.pt"
    torch.save(network.state_dict(), path)
    return path


def write_niqe(folder: Path, seed: int = 0) -> Path:
    """``niqe_modelparameters.mat`` of pyiqa: mean and covariance of 36 features."""
    rng = np.random.default_rng(seed)
    spread = rng.normal(size=(36, 36))
    path = folder / "niqe_modelparameters.mat"
    scipy.io.savemat(
        path,
        {"mu_prisparam": rng.normal(size=(1, 36)), "cov_prisparam": spread @ spread.T / 36 + np.eye(36)},
    )
    return path


def write_brisque(folder: Path, seed: int = 0) -> Path:
    """``brisque_svm_weights.pth`` of pyiqa: coefficients and support vectors of a regression, as a pair."""
    torch.manual_seed(seed)
    path = folder / "brisque_svm_weights.pth"
    torch.save((torch.randn(40, dtype=torch.float64), torch.rand(40, 36, dtype=torch.float64) * 2 - 1), path)
    return path
