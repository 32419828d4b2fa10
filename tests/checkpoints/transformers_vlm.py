"""Tiny chat models in the format of transformers: LLaVA (pictures and text) and Llama (text), random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "[{{ message['role'] | upper }}] {{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[ASSISTANT]{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'] | upper }}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""As LLaVA-1.5 writes a conversation: role marks in plain text, and a space before and after an answer."""
QWEN = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_WORDS = [
    "You rate what a picture shows and reply with one number from 1 to 10 and nothing else.",
    "system user assistant USER: ASSISTANT: instruction response score level correct picture",
    '{"score": 1} {"score": 0} {"level": 10} {"level": 2}',
]


def write_llava(folder: Path, *, seed: int = 0, picture_side: int = 28) -> Path:
    """A LLaVA-1.5 folder: CLIP tower, projector, Llama, processor, tokenizer with a chat template."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(["<s>", "</s>", "<pad>", "<image>"], LLAVA, bos="<s>", eos="</s>", pad="<pad>")
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=picture_side,
        patch_size=14,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=_llama_config(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(picture_side // 14) ** 2,
    )
    pictures = CLIPImageProcessor(
        size={"shortest_edge": picture_side}, crop_size={"height": picture_side, "width": picture_side}
    )
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    _sharpened(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_qwen_vl(folder: Path, *, seed: int = 0) -> Path:
    """A Qwen2.5-VL folder: pictures of any size, places counted in two dimensions (M-RoPE)."""
    torch.manual_seed(seed)
    pads = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _tokenizer(
        ["<|im_start|>", "<|im_end|>", "<pad>", *pads],
        QWEN,
        bos="<|im_start|>",
        eos="<|im_end|>",
        pad="<pad>",
    )
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    start, end, image, video = tokenizer.convert_tokens_to_ids(pads)
    text = {
        **_llama_config(tokenizer).to_dict(),
        "model_type": "qwen2_5_vl_text",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }
    for key in ("architectures", "head_dim", "attention_bias", "mlp_bias", "pretraining_tp"):
        text.pop(key, None)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=QWEN,
    )
    _sharpened(Qwen2_5_VLForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_chat_llama(
    folder: Path, *, seed: int = 0, template: str | None = CHATML, longest: int = 8192
) -> Path:
    """A Llama folder of text alone, with a tokenizer that carries ``template``."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(
        ["<|im_start|>", "<|im_end|>", "</s>"], template, bos="<|im_start|>", eos="<|im_end|>", pad="</s>"
    )
    config = _llama_config(tokenizer, longest)
    _sharpened(LlamaForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _llama_config(tokenizer: Any, longest: int = 8192) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=longest,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _sharpened(model: Any) -> Any:
    # Freshly drawn weights give every token almost the same probability, which would hide mistakes.
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            weight.data *= 8
    return model.eval()


def _tokenizer(special: list[str], template: str | None, *, bos: str, eos: str, pad: str) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_WORDS, trainer)
    if template == LLAVA:
        # As LLaVA's own: the template does not write the mark of the beginning, the tokenizer adds it.
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [t for t in special if t not in (bos, eos, pad)]}
    )
    tokenizer.chat_template = template
    return tokenizer
