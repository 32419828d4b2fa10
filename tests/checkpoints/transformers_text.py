"""Tiny random text models in transformers' folder format, and as GGUF: BERT, Llama, Granite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    *(
        "a",
        "the",
        "dog",
        "cat",
        "runs",
        "sleeps",
        "along",
        "under",
        "beach",
        "table",
        "with",
        "stick",
        "and",
        "on",
    ),
    *(
        "in",
        "red",
        "brown",
        "small",
        "large",
        "is",
        "are",
        "what",
        "does",
        "show",
        "picture",
        "image",
        "answer",
    ),
    *("question", "man", "woman", "child", "holds", "looks", "at", "of", "to", "it"),
)
CONTROL = ("<unk>", "<s>", "</s>", "<|im_end|>")


def write_bert(
    folder: Path, *, seed: int = 0, max_length: int = 32, prefix: str = "", masked: bool = False
) -> Path:
    """A BERT of 2 layers and 32 dimensions with a WordPiece vocabulary; ``masked``: with its word head."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    pieces = [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *WORDS,
        *".,?!:",
        *(f"{mark}{c}" for c in "bcdefghijklmnopqrstuvwxyz" for mark in ("", "##")),
        "##a",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=max_length).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=max_length,
        initializer_range=0.3,
    )
    torch.manual_seed(seed)
    model = BertForMaskedLM(config) if masked else BertModel(config)
    model.save_pretrained(folder)
    return folder


def word_tokenizer(*, bos: bool = True) -> Any:
    """Byte-level BPE whose merges build the words of ``WORDS`` with their leading space; no letter is unknown."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*CONTROL, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        whole = ""
        for letter in f"Ġ{word}":
            if whole and (whole, letter) not in merges:
                merges.append((whole, letter))
                vocabulary.setdefault(whole + letter, len(vocabulary))
            whole += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL])
    named = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_end|>"],
        **named,
    )


def write_causal(
    folder: Path, *, seed: int = 0, context: int = 64, bos: bool = True, family: str = "llama"
) -> Path:
    """A Llama, or a Granite (which divides its logits), of 2 layers and 32 dimensions, with ``word_tokenizer``."""
    import torch
    from transformers import GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = word_tokenizer(bos=bos)
    tokenizer.save_pretrained(folder)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    if family == "granite":
        model: Any = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=3.0))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder)
    return folder


def write_gguf(folder: Path, path: Path) -> Path:
    """The Llama of a folder that ``write_causal`` wrote as one GGUF file of float32."""
    import json

    from gguf import GGUFWriter, TokenType
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    config = model.config
    body = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(body["vocab"], key=body["vocab"].__getitem__)
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in CONTROL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in body["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)

    def interleaved(name: str, heads: int) -> Any:
        # GGUF keeps the two halves of a rotary head interleaved.
        weight = state[name].numpy()
        return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape).copy()

    state = model.state_dict()
    tensors = {
        "token_embd": state["model.embed_tokens.weight"].numpy(),
        "output_norm": state["model.norm.weight"].numpy(),
        "output": state["lm_head.weight"].numpy(),
    }
    for i in range(config.num_hidden_layers):
        ours, theirs = f"model.layers.{i}", f"blk.{i}"
        tensors[f"{theirs}.attn_q"] = interleaved(
            f"{ours}.self_attn.q_proj.weight", config.num_attention_heads
        )
        tensors[f"{theirs}.attn_k"] = interleaved(
            f"{ours}.self_attn.k_proj.weight", config.num_key_value_heads
        )
        for short, long in (
            ("attn_v", "self_attn.v_proj"),
            ("attn_output", "self_attn.o_proj"),
            ("ffn_gate", "mlp.gate_proj"),
            ("ffn_up", "mlp.up_proj"),
            ("ffn_down", "mlp.down_proj"),
            ("attn_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        ):
            tensors[f"{theirs}.{short}"] = state[f"{ours}.{long}.weight"].numpy()
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
