"""ICNet a second time, for comparison: torchvision's ResNet-18 for both branches, plain formulas for the rest.

Works on a state dict by its names alone, so that a wrong name, shape or order shows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor
from torch.nn import functional

ATTENTION = {
    "b1_1_slam": 32,
    "b1_2_slam": 32,
    "b2_1_slam": 32,
    "b2_2_slam": 32,
    "b2_3_slam": 16,
    "b2_4_slam": 8,
    "to_map_f_slam": 32,
    "to_score_f_slam": 32,
}
CONVOLUTIONS = {
    "up1": (128, 256, 1),
    "up2": (512, 256, 1),
    "to_map_f": (512, 512, 3),
    "to_score_f": (512, 512, 3),
}
STEM = ["conv1", "bn1", "relu", "maxpool", "layer1"]
BRANCHES = {"b1": ["b1_2"], "b2": ["b2_2", "b2_3", "b2_4"]}


def branch(state: Mapping[str, Tensor] | None, name: str) -> torchvision.models.ResNet:
    """A ResNet-18 with the tensors of one branch, or, without a state, as torchvision initialises it."""
    network = torchvision.models.resnet18().eval()
    if state is not None:
        own = {theirs: state[ours] for ours, theirs in names(name).items()}
        network.load_state_dict(network.state_dict() | own)
    return network


def names(name: str) -> dict[str, str]:
    """The name of each of a branch's tensors in the checkpoint and in torchvision's ResNet-18."""
    found = {}
    for theirs in torchvision.models.resnet18().state_dict():
        part, _, rest = theirs.partition(".")
        if part in STEM:
            found[f"{name}_1.{STEM.index(part)}.{rest}"] = theirs
        elif part in ("layer2", "layer3", "layer4") and f"{name}_{part[-1]}" in BRANCHES[name]:
            found[f"{name}_{part[-1]}.{rest}"] = theirs
    return found


def random_state(seed: int = 0) -> dict[str, Tensor]:
    """A checkpoint with random weights, in the published layout, whose scores differ from picture to picture."""
    torch.manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name in BRANCHES:
        network = branch(None, name).state_dict()
        state |= {ours: network[theirs].clone() for ours, theirs in names(name).items()}

    def linear(name: str, inputs: int, outputs: int, *kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, *kernel) / inputs**0.5 / (kernel or (1,))[0]
        state[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    for name, side in ATTENTION.items():
        linear(f"{name}.linear.0", side * side, 512)
        linear(f"{name}.linear.2", 512, 1)
    for name, (inputs, outputs, kernel) in CONVOLUTIONS.items():
        linear(f"{name}.conv", inputs, outputs, kernel, kernel)
        state[f"{name}.bn.weight"] = 0.5 + torch.rand(outputs)
        state[f"{name}.bn.bias"] = 0.1 * torch.randn(outputs)
        state[f"{name}.bn.running_mean"] = 0.1 * torch.randn(outputs)
        state[f"{name}.bn.running_var"] = 0.5 + torch.rand(outputs)
        state[f"{name}.bn.num_batches_tracked"] = torch.tensor(1)
    linear("to_map.to_map.0", 512, 1, 1, 1)
    linear("head.0", 512, 512)
    linear("head.2", 512, 1)
    # Untrained, the head gives nearly the same for every picture.
    state["head.2.weight"] *= 30
    return state


def score(state: Mapping[str, Tensor], pictures: Tensor) -> Tensor:
    """``[n]`` scores of ``[n, 3, 512, 512]`` normalised pictures."""

    def attend(x: Tensor, name: str) -> Tensor:
        side = ATTENTION[name]
        small = functional.interpolate(x, (side, side), mode="bilinear", align_corners=True)
        rows = small.reshape(-1, side * side)
        hidden = (rows @ state[f"{name}.linear.0.weight"].T + state[f"{name}.linear.0.bias"]).clamp(min=0)
        weights = torch.sigmoid(hidden @ state[f"{name}.linear.2.weight"].T + state[f"{name}.linear.2.bias"])
        return x * weights.reshape(len(x), -1, 1, 1)

    def block(x: Tensor, name: str) -> Tensor:
        kernel = CONVOLUTIONS[name][2]
        x = functional.conv2d(
            x, state[f"{name}.conv.weight"], state[f"{name}.conv.bias"], padding=(kernel - 1) // 2
        )
        mean, var, weight, bias = (
            state[f"{name}.bn.{part}"].reshape(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(var + 1e-5) * weight + bias).clamp(min=0)

    with torch.no_grad():
        planes = {}
        for name, side in {"b1": 512, "b2": 256}.items():
            network = branch(state, name)
            x = functional.interpolate(pictures, (side, side), mode="bilinear", align_corners=True)
            x = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
            x = attend(x, f"{name}_1_slam")
            for stage in BRANCHES[name]:
                x = attend(getattr(network, f"layer{stage[-1]}")(x), f"{stage}_slam")
            planes[name] = x
        context = functional.interpolate(planes["b2"], (64, 64), mode="bilinear", align_corners=True)
        both = torch.cat([block(planes["b1"], "up1"), block(context, "up2")], dim=1)
        pooled = attend(block(both, "to_score_f"), "to_score_f_slam").mean(dim=(2, 3))
        hidden = (pooled @ state["head.0.weight"].T + state["head.0.bias"]).clamp(min=0)
        return torch.sigmoid(hidden @ state["head.2.weight"].T + state["head.2.bias"])[:, 0]
