"""Checkpoints as the library ultralytics writes them, with few and random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXT_WIDTH = 512
WIDTH, MOST_CHANNELS = 0.125, 256


def tiny_world(text_width: int = TEXT_WIDTH, seed: int = 0) -> Any:
    """A ``WorldModel`` of the shape of yolov8-worldv2, an eighth as wide as the largest, that finds things in noise.

    ``text_width`` is that of the text features; in the published models it is 512.
    """
    from vlitqc.models.yolo_world import import_ultralytics

    import_ultralytics()
    import torch
    from ultralytics.nn.modules.block import SPPF, BNContrastiveHead, C2fAttn
    from ultralytics.nn.tasks import WorldModel
    from ultralytics.utils import ROOT, YAML

    shape = YAML.load(ROOT / "cfg" / "models" / "v8" / "yolov8-worldv2.yaml")
    shape |= {
        "scales": {"n": [0.33, WIDTH, MOST_CHANNELS]},
        "scale": "n",
        "yaml_file": "yolov8n-worldv2.yaml",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WorldModel(shape, verbose=False)
        head = model.model[-1]
        for module in model.modules():
            if isinstance(module, SPPF):
                # As in the published models, and unlike those that the library builds now.
                module.cv1.act = torch.nn.SiLU()
            if isinstance(module, C2fAttn):
                module.attn.gl = torch.nn.Linear(text_width, module.attn.gl.out_features)
        for layers in head.cv3:
            layers[-1] = torch.nn.Conv2d(layers[-1].in_channels, text_width, 1)
        head.cv4 = torch.nn.ModuleList(BNContrastiveHead(text_width) for _ in head.cv4)
        model.txt_feats = torch.nn.functional.normalize(torch.randn(1, head.nc, text_width), dim=-1)
        settle(model)
    model.names = dict(enumerate(f"thing {i}" for i in range(head.nc)))
    return model


def settle(model: Any) -> None:
    """Set the statistics and the head of a fresh ``WorldModel`` so that it finds some things in coarse noise."""
    import torch

    head = model.model[-1]
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        # Of what really flows, so that activations neither vanish nor explode.
        for _ in range(4):
            coarse = torch.nn.functional.interpolate(torch.rand(2, 3, 10, 10), scale_factor=16)
            model((coarse + 0.1 * torch.randn(coarse.shape)).clamp(0, 1))
        for contrast in head.cv4:
            contrast.bias.fill_(-4.0)
            contrast.logit_scale.fill_(0.0)
        for corners in head.cv2:
            # Short distances to the sides are the likeliest, so that boxes are smaller than the picture.
            corners[-1].bias.copy_(-0.5 * torch.arange(head.reg_max).repeat(4))
    model.eval()


def write_yolo_world(
    folder: Path, *, name: str = "yolov8n-worldv2.pt", text_width: int = TEXT_WIDTH, seed: int = 0
) -> Path:
    """A checkpoint that ``YOLOWorld.save`` writes: the whole model in half precision, pickled. Returns its path."""
    model = tiny_world(text_width, seed)
    from ultralytics.models import YOLOWorld

    holder = YOLOWorld("yolov8n-worldv2.yaml")
    holder.model = model
    path = folder / name
    holder.save(path)
    return path
