"""A tiny multi-task HanLP model with random weights, saved by HanLP itself in its own format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = (
    *("what", "is", "the", "dog", "cat", "ball", "on", "table", "he", "it", "count", "see"),
    *("picture", "of", "in", "and", "a", "many", "how", "find", "red"),
)
ROLES = ("PRED", "ARG0", "ARG1", "ARG2", "ARGM-LOC")
RELATIONS = ("ROOT", "ARG1", "ARG2", "ARG3")
PARTS_OF_SPEECH = ("NN", "NNS", "NNP", "PRP")


def write_encoder(folder: Path) -> Path:
    """Configuration and tokenizer of a BERT with two layers of 16 units, as HanLP's config names them by an id."""
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789.,?!'-")
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *letters,
        *(f"##{c}" for c in letters),
    ]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n", encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(str(folder))
    BertConfig(
        vocab_size=len(dict.fromkeys(vocabulary)),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=512,
    ).save_pretrained(str(folder))
    return folder


def write_hanlp(folder: Path, encoder: Path, *, seed: int = 0) -> Path:
    """A model with the tasks ``tok``, ``pos``, ``srl`` and ``sdp/dm`` over the encoder at ``encoder``."""
    import torch
    from hanlp.common.dataset import SortingSamplerBuilder
    from hanlp.common.vocab import Vocab
    from hanlp.components.mtl.multi_task_learning import MultiTaskLearning
    from hanlp.components.mtl.tasks.pos import TransformerTagging
    from hanlp.components.mtl.tasks.sdp import BiaffineSemanticDependencyParsing
    from hanlp.components.mtl.tasks.srl.bio_srl import SpanBIOSemanticRoleLabeling
    from hanlp.components.mtl.tasks.tok.tag_tok import TaggingTokenization
    from hanlp.layers.embeddings.contextual_word_embedding import ContextualWordEmbedding

    def vocabulary(words: list[str], pad: str | None = None) -> Any:
        found = Vocab(pad_token=pad, unk_token=None)
        for word in words:
            found.add(word)
        found.lock()
        return found

    def sampler() -> Any:
        return SortingSamplerBuilder(batch_size=32)

    torch.manual_seed(seed)
    tasks = {
        "tok": TaggingTokenization(sampler_builder=sampler(), tagging_scheme="BMES"),
        "pos": TransformerTagging(sampler_builder=sampler(), dependencies="tok"),
        "srl": SpanBIOSemanticRoleLabeling(
            sampler_builder=sampler(), dependencies="tok", n_mlp_rel=8, delimiter=" "
        ),
        "sdp/dm": BiaffineSemanticDependencyParsing(
            sampler_builder=sampler(), dependencies="tok", n_mlp_arc=8, n_mlp_rel=8, tree=False
        ),
    }
    bio = ["O", *(f"{prefix}-{role}" for role in ROLES[1:] for prefix in "BI")]
    tasks["tok"].vocabs.tag = vocabulary(["B", "M", "E", "S"])
    tasks["pos"].vocabs.tag = vocabulary(list(PARTS_OF_SPEECH))
    tasks["srl"].vocabs.srl = vocabulary(bio)
    tasks["sdp/dm"].vocabs.rel = vocabulary(list(RELATIONS))
    model = MultiTaskLearning()
    model.config.update(
        encoder=ContextualWordEmbedding(
            "token", str(encoder), average_subwords=True, max_sequence_length=512
        ),
        task_names=list(tasks),
        **tasks,
    )
    model.config.classpath = "hanlp.components.mtl.multi_task_learning.MultiTaskLearning"
    model.on_config_ready()
    model.model = model.build_model(training=False)
    with torch.no_grad():
        # Random layers give the same answer everywhere; wider ones do not. Each word piece is a token.
        for parameter in model.model.decoders.parameters():
            parameter.normal_(std=2.0)
        splitter = model.model.decoders["tok"].classifier
        splitter.weight.zero_()
        splitter.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder))
    return folder
