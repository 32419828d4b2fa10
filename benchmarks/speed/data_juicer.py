"""Nearness of pictures and captions by the same CLIP ViT-B/32: vlitqc beside Data-Juicer and the bare forward.

Data-Juicer gets an environment of its own (``--venvs``; about 2 GB, more where pip's torch brings CUDA along) and runs
as its documentation says: ``dj-process`` with ``image_text_similarity_filter``, ``np`` as many as there are processors,
every other option at its default. vlitqc runs as ``vlitqc score --metrics matching_degree``, once as it is by default,
in float32, and once with ``precision = "bf16"`` in the profile, whose similarities are a little off; by how much the
rows say. Both tools read the same JPEG files and captions, both hold the same random weights with the same version of
torch, and in float32 their similarities must agree. Each whole command is timed, on few and on many pictures: what the
many take longer than the few, in the median turn, is the rate without start-up.

Each process of Data-Juicer, also the only one of ``np: 1``, gives torch one thread and computes one picture and its
caption a forward, with gradients prepared. A share of the bare forward that counts start-up is small where there are
few pictures; hence both are shown.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import yaml
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image as Pillow
from safetensors.torch import save_file

import random_clip
import vlitqc
from inputs import Pair, pairs, write_llava
from row import Options, Row, main, turns, without_start
from venvs import DATA_JUICER, environment
from vlitqc.types import processors

PROCESSES = processors()
FEW, MANY = 40, 240
RUNS = 3
BARE = 64
"""Pictures that the bare forward takes."""
ALIKE = {"fp32": 1e-3, "bf16": 1e-2}
"""By precision of ours: how far a similarity may be from theirs."""


def rows(options: Options) -> Iterator[Row]:
    """Rates in pairs a second, with and without start-up, and the share of the bare forward that is left."""
    tool = environment("data-juicer", options) / "dj-process"
    few, many = (2, 6) if options.quick else (FEW, MANY)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        network = random_clip.network()
        made = {precision: random_clip.write_profile(network, root, precision) for precision in ALIKE}
        write_transformers(network, root / "hf")
        found = pairs(many, root / "pictures", options.data)
        sides = [
            *(partial(score, profile=profile) for profile in made.values()),
            partial(data_juicer, tool=tool),
        ]
        calls = [partial(side, found[:n], root) for side in sides for n in (few, many)]
        taken = turns(1 if options.quick else RUNS, *calls)
        drifts = {precision: check_alike(found, root, precision) for precision in made}
        bare = random_clip.Bare(network, found[:BARE])
        models = [random_clip.model(profile) for profile in made.values()]
        towers = [partial(bare.side_by_side, model) for model in models]
        image, text, *fastest = map(statistics.median, turns(3, bare.pictures, bare.texts, *towers))
    n_bare = min(BARE, many)
    both = n_bare / (image + text)
    # No faster than the pictures alone: how long the texts of a pass are differs.
    ceilings = [n_bare / seconds for seconds in (*fastest, fastest[0])]
    # Of each side, few and many.
    timed_sides = list(zip(taken[::2], taken[1::2], strict=True))
    rates = [without_start(few, many, *each) for each in zip(timed_sides, ceilings, strict=True)]
    commands = [many / statistics.median(long) for _, long in timed_sides]
    *ours, (theirs, their_doubt) = rates
    *whole, their_whole = commands
    what = f"{many} pictures with captions, CLIP ViT-B/32"
    against = f"Data-Juicer {DATA_JUICER} in fp32, np: {PROCESSES}"
    for i, (precision, (rate, doubt)) in enumerate(zip(made, ours, strict=True)):
        drift = f"largest difference of a similarity: {drifts[precision]:.1g}"
        # Half the precision is no merit of what is around the model.
        fair = precision == "fp32"
        wanted = 2.0 if fair and not (doubt or their_doubt) else None
        told = [f"{side}: {why}" for side, why in (("ours", doubt), ("theirs", their_doubt)) if why]
        share = f"theirs is {theirs / both:.2f} of the bare forward, with start-up {their_whole / both:.2f}"
        note = "; ".join((drift, *(told or [share])))
        name = f"{what}, {precision}"
        yield Row(
            "data_juicer",
            f"{name}, whole command",
            whole[i],
            "pairs/s",
            against,
            their_whole,
            2.0 if fair else None,
            drift,
        )
        yield Row("data_juicer", f"{name}, without start-up", rate, "pairs/s", against, theirs, wanted, note)
    alone = f"the image tower alone: {n_bare / image:.3g} pictures/s, side by side {ceilings[0]:.3g}"
    yield Row(
        "data_juicer",
        f"{what}, fp32, without start-up",
        ours[0][0],
        "pairs/s",
        "bare forward of both towers, decoded pictures",
        both,
        None,
        f"{alone}, in bfloat16 {ceilings[1]:.3g}",
    )


def data_juicer(found: Sequence[Pair], root: Path, *, tool: Path) -> float:
    """Seconds that ``dj-process`` takes, from the configuration to the written file; its caches are empty."""
    work = fresh(root / "theirs")
    with (work / "data.jsonl").open("w", encoding="utf-8") as file:
        for picture, caption in found:
            file.write(json.dumps({"text": f"<__dj__image> {caption}", "images": [str(picture)]}) + "\n")
    config = {
        "project_name": "speed",
        "dataset_path": str(work / "data.jsonl"),
        "export_path": str(work / "kept" / "kept.jsonl"),
        "np": PROCESSES,
        "keep_stats_in_res_ds": True,
        # Random weights: every pair is kept, so that all are written.
        "process": [{"image_text_similarity_filter": {"hf_clip": str(root / "hf"), "min_score": -1.0}}],
    }
    (work / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    homes = {
        "HOME": str(work),
        "HF_HOME": str(work),
        "DATA_JUICER_CACHE_HOME": str(work),
        "HF_HUB_OFFLINE": "1",
    }
    return timed([tool, "--config", work / "config.yaml"], homes)


# ---------------------------------------------------------------- vlitqc


def score(found: Sequence[Pair], root: Path, *, profile: Path) -> float:
    """Seconds that ``vlitqc score`` takes, from the command to the finished run, its page included."""
    work = fresh(root / profile.stem)
    write_llava(found, work / "data.jsonl")
    call: list[str | Path] = [
        sys.executable,
        "-m",
        "vlitqc",
        "score",
        work / "data.jsonl",
        "--profile",
        profile,
    ]
    call += ["--metrics", "matching_degree", "--allow-outside", "--out", work / "run", "--quiet"]
    return timed(call, {"VLITQC_CACHE": str(work)})


# ---------------------------------------------------------------- both


def timed(call: Sequence[str | Path], settings: dict[str, str]) -> float:
    """Wall seconds of a command, with threads as its program sets them up by itself."""
    ours = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    start = time.perf_counter()
    done = subprocess.run(call, check=False, capture_output=True, text=True, env=ours | settings)
    took = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{call[0]} failed: {(done.stderr or done.stdout)[-2000:]}")
    return took


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def check_alike(found: Sequence[Pair], root: Path, precision: str) -> float:
    """Largest difference of the two similarities of a pair in what was written last. Raises RuntimeError.

    Compared are the pairs whose picture both crop alike: half of an odd margin open_clip rounds up or down to
    the even number, and transformers always down, so that what the network sees is shifted by a pixel.
    """
    scores = vlitqc.Run.open(root / f"clip-{precision}" / "run").scores
    ours = np.array(scores["matching_degree"], np.float64) / 100
    with (root / "theirs" / "kept" / "kept.jsonl").open(encoding="utf-8") as file:
        theirs = [json.loads(line)["__dj__stats__"]["image_text_similarity"][0] for line in file]
    # Data-Juicer leaves records out whose picture or model cannot be read, and ends well.
    if len(ours) != len(theirs):
        raise RuntimeError(f"{len(ours)} similarities of ours, {len(theirs)} of theirs")
    alike = np.array([margin(picture) % 2 == 0 for picture, _ in found])
    drift = float(np.abs(ours - np.array(theirs))[alike].max())
    # The spread shows that the comparison can tell: equal numbers for every pair would agree too.
    if not drift < ALIKE[precision] < float(np.std(ours)):
        raise RuntimeError(
            f"similarities differ by up to {drift}, with a deviation of {np.std(ours)} among pairs"
        )
    return drift


def margin(picture: Path) -> int:
    """Pixels of the longer side that the crop cuts off, after the shorter one was resized to 224."""
    with Pillow.open(picture) as opened:
        return 224 * max(opened.size) // min(opened.size) - 224


# ---------------------------------------------------------------- the same weights in two layouts


def write_transformers(network: Any, folder: Path) -> None:
    """A folder as ``openai/clip-vit-base-patch32`` is: configuration, weights, tokenizer, preprocessing."""
    folder.mkdir()
    state = dict(transformers_names(network.state_dict()))
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        str(folder / "model.safetensors"),
        {"format": "pt"},
    )
    own = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(token, token): i for token, i in own.encoder.items()}
    start, end = marks.values()
    tables: dict[str, Any] = {
        "config.json": {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": 512,
            "text_config": {"model_type": "clip_text_model", "bos_token_id": 49406, "eos_token_id": 49407},
            "vision_config": {"model_type": "clip_vision_model"},
        },
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": 224,
            "resample": 3,
            "do_center_crop": True,
            "crop_size": 224,
            "do_normalize": True,
            "image_mean": open_clip.OPENAI_DATASET_MEAN,
            "image_std": open_clip.OPENAI_DATASET_STD,
        },
        "vocab.json": vocabulary,
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "bos_token": start,
            "eos_token": end,
            "unk_token": end,
            "pad_token": end,
            "model_max_length": 77,
        },
        "special_tokens_map.json": {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end},
    }
    for name, table in tables.items():
        (folder / name).write_text(json.dumps(table, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{one} {other}\n" for one, other in own.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")


def transformers_names(state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The tensors of open_clip's ViT under the names of transformers' CLIPModel."""
    yield "logit_scale", state["logit_scale"]
    yield "visual_projection.weight", state["visual.proj"].T
    yield "text_projection.weight", state["text_projection"].T
    yield "text_model.embeddings.token_embedding.weight", state["token_embedding.weight"]
    yield "text_model.embeddings.position_embedding.weight", state["positional_embedding"]
    yield "vision_model.embeddings.class_embedding", state["visual.class_embedding"]
    yield "vision_model.embeddings.position_embedding.weight", state["visual.positional_embedding"]
    yield "vision_model.embeddings.patch_embedding.weight", state["visual.conv1.weight"]
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    parts = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    towers = {"visual.transformer.resblocks": "vision_model", "transformer.resblocks": "text_model"}
    for prefix, tower in towers.items():
        for i in range(12):
            own, layer = f"{prefix}.{i}", f"{tower}.encoder.layers.{i}"
            norms |= {f"{own}.{part}": f"{layer}.{name}" for part, name in parts.items()}
            for kind in ("weight", "bias"):
                joined = state[f"{own}.attn.in_proj_{kind}"].chunk(3)
                for name, tensor in zip("qkv", joined, strict=True):
                    yield f"{layer}.self_attn.{name}_proj.{kind}", tensor
    for own, name in norms.items():
        for kind in ("weight", "bias"):
            yield f"{name}.{kind}", state[f"{own}.{kind}"]


if __name__ == "__main__":
    main(rows)
