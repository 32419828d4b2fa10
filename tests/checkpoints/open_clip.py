"""open_clip: tiny CLIP and SigLIP models, as folders of a hub repository or as state dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VISION = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP: dict[str, Any] = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 64,
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": {
        "context_length": 48,
        "vocab_size": 400,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2-256",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        "act_kwargs": {"approximate": "tanh"},
    },
}
SIGLIP_PREPROCESS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def write_open_clip(
    folder: Path,
    model: Mapping[str, Any] = CLIP,
    preprocess: Mapping[str, Any] | None = None,
    *,
    weights: str = "open_clip_model.safetensors",
    half: bool = False,
    seed: int = 0,
) -> Path:
    """A folder as of a hub repository: configuration, random weights (float16 if ``half``), no tokenizer.

    ``weights`` is the file's name; its ending says safetensors or torch.
    """
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    table = {"model_cfg": dict(model), "preprocess_cfg": dict(preprocess or {})}
    (folder / "open_clip_config.json").write_text(json.dumps(table), encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
        state = network.state_dict()
        # A fresh network has projections of next to nothing, and gives all pictures much the same vector.
        state = {
            key: value + 0.3 * value.abs().mean().clamp(min=0.02) * torch.randn_like(value)
            if value.ndim > 1
            else value.clone()
            for key, value in state.items()
        }
    if half:
        state = {key: value.half() for key, value in state.items()}
    if weights.endswith(".safetensors"):
        save_file(state, str(folder / weights))
    else:
        torch.save(state, folder / weights)
    return folder


def write_siglip(folder: Path, *, seed: int = 0, model: Mapping[str, Any] = SIGLIP) -> Path:
    """A SigLIP folder: as ``write_open_clip``, with a logit bias and a tokenizer of transformers."""
    write_open_clip(folder, model, SIGLIP_PREPROCESS, seed=seed)
    return write_tokenizer(folder)


def write_tokenizer(folder: Path) -> Path:
    """A SentencePiece-like fast tokenizer: letters, some words, end mark 1, padding 0."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS, "▁a", "▁the", "▁cat", "▁dog", "ing", "▁picture"]
    vocabulary = [(piece, -float(max(rank, 1)) / 10) for rank, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(str(folder))
    return folder
