"""The network of ICNet, with the tensor names of its published checkpoint.

Feng et al., *IC9600: A Benchmark Dataset for Automatic Image Complexity Assessment*, TPAMI 2023. Two residual
branches see the picture: one at 512 px for detail, cut off after its second stage, one at 256 px for context.
Behind every stage each channel is weighed by what it shows as a whole (spatial layout attention). The branches
meet at 64 × 64 cells; from there one head draws a map of complexity and another gives the score.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 512
"""Pixels on both sides of the input."""

_CONTEXT_SIDE = 256
_WIDTH = 256
"""Channels of each branch where they meet."""


def _resample(planes: Tensor, side: int) -> Tensor:
    if planes.shape[-2:] == (side, side):
        return planes
    return functional.interpolate(planes, size=(side, side), mode="bilinear", align_corners=True)


class _Residual(nn.Module):
    """Two 3 × 3 convolutions beside a short cut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Identity()
            if (inputs, stride) == (outputs, 1)
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _Residual(inputs, outputs, 1 if inputs == outputs else 2), _Residual(outputs, outputs, 1)
    )


def _stem() -> nn.Sequential:
    """ResNet-18 up to its first stage: a quarter of the side, 64 channels."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        _stage(64, 64),
    )


class _LayoutAttention(nn.Module):
    """Weighs each channel between 0 and 1 by its plane, seen at ``side`` × ``side``."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.linear = nn.Sequential(nn.Linear(side * side, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        weights: Tensor = self.linear(_resample(x, self.side).flatten(2))
        return x * weights[..., None]


class _ConvBlock(nn.Module):
    """Convolution, batch normalisation, rectifier."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _MapHead(nn.Module):
    """One plane between 0 and 1."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.to_map = nn.Sequential(nn.Conv2d(inputs, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.to_map(x))


class ICNetwork(nn.Module):
    """246 tensors, 20,328,074 parameters; the map's head is part of the checkpoint and not of the score."""

    def __init__(self) -> None:
        super().__init__()
        self.b1_1, self.b1_1_slam = _stem(), _LayoutAttention(32)
        self.b1_2, self.b1_2_slam = _stage(64, 128), _LayoutAttention(32)
        self.b2_1, self.b2_1_slam = _stem(), _LayoutAttention(32)
        self.b2_2, self.b2_2_slam = _stage(64, 128), _LayoutAttention(32)
        self.b2_3, self.b2_3_slam = _stage(128, 256), _LayoutAttention(16)
        self.b2_4, self.b2_4_slam = _stage(256, 512), _LayoutAttention(8)
        self.up1 = _ConvBlock(128, _WIDTH, 1)
        self.up2 = _ConvBlock(512, _WIDTH, 1)
        self.to_map_f, self.to_map_f_slam = _ConvBlock(2 * _WIDTH, 2 * _WIDTH, 3), _LayoutAttention(32)
        self.to_map = _MapHead(2 * _WIDTH)
        self.to_score_f, self.to_score_f_slam = _ConvBlock(2 * _WIDTH, 2 * _WIDTH, 3), _LayoutAttention(32)
        self.head = nn.Sequential(nn.Linear(2 * _WIDTH, 512), nn.ReLU(), nn.Linear(512, 1), nn.Sigmoid())

    def forward(self, pictures: Tensor) -> Tensor:
        """Scores ``[n]`` between 0 and 1 of normalised pictures ``[n, 3, 512, 512]``."""
        detail = self.b1_1_slam(self.b1_1(pictures))
        detail = self.b1_2_slam(self.b1_2(detail))
        context = _resample(pictures, _CONTEXT_SIDE)
        context = self.b2_1_slam(self.b2_1(context))
        context = self.b2_2_slam(self.b2_2(context))
        context = self.b2_3_slam(self.b2_3(context))
        context = self.b2_4_slam(self.b2_4(context))
        both = torch.cat([self.up1(detail), self.up2(_resample(context, detail.shape[-1]))], dim=1)
        pooled = self.to_score_f_slam(self.to_score_f(both)).float().mean(dim=(2, 3))
        # Half precision knows 256 steps between two powers of 2: too coarse for a score.
        with torch.autocast(pooled.device.type, enabled=False):
            return cast(Tensor, self.head(pooled)).squeeze(1)
