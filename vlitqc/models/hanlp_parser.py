"""What an instruction speaks of, by the semantic roles or semantic dependencies of a HanLP model.

He & Choi, *The Stem Cell Hypothesis: Dilemma behind Multi-Task Learning with Transformer Encoders*, EMNLP 2021.
"""

from __future__ import annotations

import json
import pickle
import re
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlitqc.errors import ModelUnavailable
from vlitqc.models.libraries import need
from vlitqc.models.torch_device import torch_device
from vlitqc.types import ModelRef

INSTALL = "hanlp>=2.1.5"
# Bounds the time that one hostile text can take.
MAX_CHARACTERS = 20_000
# About what fits into the 512 word pieces of most encoders. HanLP reads a longer sentence through a sliding
# window whose cuts depend on the sentences beside it; and roles take memory by the square of a sentence.
MAX_SENTENCE = 400

_MULTI_TASK = "hanlp.components.mtl.multi_task_learning.MultiTaskLearning"
_HANLP = ("hanlp.", "hanlp_common.", "hanlp_trie.")
_LOADING = threading.Lock()

# Of PropBank's numbered arguments the first above 0, whatever function tag follows ("ARG1-PSE"); C- and R-
# arguments continue another one or refer to it.
_SRL_OBJECT = re.compile(r"A(?:RG)?[1-5](?:-[A-Z0-9]+)?", re.IGNORECASE)
_SDP_OBJECT = re.compile(
    r"ARG[2-5]"  # DM
    r"|(?:verb|prep)_ARG[2-5]"  # PAS
    r"|(?:PAT|ADDR|EFF|ORIG)-arg"  # PSD
    r"|d?(?:Pat|Cont|Prod|Orig|Datv)"  # the Chinese scheme of SemEval-2016 task 9, "d" for nested ones
)
# Penn and OntoNotes (NN, NNS, NNP), CTB (NN, NR), Universal (NOUN, PROPN), PKU and 863 (n, nr, ns…), Kyoto (名詞).
_NOUN = re.compile(r"NN\w*|NR|NOUN|PROPN|n[a-z]*|名詞.*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")


def role_elements(document: Mapping[str, Any]) -> list[list[str]]:
    """Objects by semantic roles, for each sentence of a HanLP document, distinct, in order of appearance.

    An element is an argument that PropBank numbers from 1 up, of any predicate, with a noun in it; it goes by
    its nouns, lower-cased ("a red ball on the table" gives ``ball table``). So the agent (``ARG0``), adjuncts
    (``ARGM-…``), pronouns and clauses without a noun are none.

    ``document["srl"]`` holds for each sentence a list of predicates, each a list of ``(words, role, begin, end)``.
    """
    found = []
    rows = zip(document["tok"], _parts_of_speech(document), document["srl"], strict=True)
    for tokens, tags, predicates in rows:
        spans = sorted(
            (begin, end)
            for predicate in predicates
            for _, role, begin, end in predicate
            if _SRL_OBJECT.fullmatch(role)
        )
        names = (_nouns(tokens[begin:end], tags[begin:end]) for begin, end in spans)
        found.append(list(dict.fromkeys(name for name in names if name)))
    return found


def dependency_elements(document: Mapping[str, Any], key: str) -> list[list[str]]:
    """Objects by semantic dependencies, for each sentence of a HanLP document, distinct, in order of appearance.

    An element is a noun that is an object of any word: in DM ``ARG2`` and up, in PAS the same of verbs and
    prepositions, in PSD patient, addressee, effect and origin, in the Chinese scheme of SemEval-2016 the roles
    Pat, Cont, Prod, Orig and Datv. It goes by its word, lower-cased.

    ``document[key]`` holds for each sentence and token a list of ``(head, relation)``, heads counted from 1.
    """
    found = []
    rows = zip(document["tok"], _parts_of_speech(document), document[key], strict=True)
    for tokens, tags, edges in rows:
        names = (
            _nouns([token], [tag])
            for token, tag, heads in zip(tokens, tags, edges, strict=True)
            if any(head > 0 and _SDP_OBJECT.fullmatch(relation) for head, relation in heads)
        )
        found.append(list(dict.fromkeys(name for name in names if name)))
    return found


def _nouns(tokens: Sequence[str], tags: Sequence[str]) -> str:
    nouns = [token for token, tag in zip(tokens, tags, strict=True) if _NOUN.fullmatch(tag)]
    name = " ".join(nouns).lower()
    return name if any(c.isalpha() for c in name) else ""


def _parts_of_speech(document: Mapping[str, Any]) -> list[list[str]]:
    tags: list[list[str]] = next(document[key] for key in sorted(document) if key.startswith("pos"))
    return tags


def split_sentences(text: str) -> list[str]:
    """The sentences of the first 20,000 characters, without empty ones; one above 400 is cut between words.

    A lone surrogate, which no tokenizer takes, becomes a question mark.
    """
    clean = text[:MAX_CHARACTERS].encode(errors="replace").decode()
    return [
        line
        for piece in _SENTENCE_END.split(clean)
        for line in textwrap.wrap(piece, MAX_SENTENCE, break_on_hyphens=False)
    ]


class HanlpParser:
    """A multi-task HanLP model with tokens, parts of speech and semantic roles or dependencies.

    Its elements are :func:`role_elements` or :func:`dependency_elements` of the text's sentences. The language
    is that of the model; every published one that has ``srl`` or ``sdp`` in its name will do, for instance
    ``EN_TOK_LEM_POS_NER_SRL_UDEP_SDP_CON_MODERNBERT_BASE``. Published weights are for non-commercial use
    (CC BY-NC-SA 4.0), HanLP itself is Apache-2.0.

    Run with hanlp 2.1.5, hanlp-common 0.0.23, transformers 5.23 and torch 2.13 on the CPU, on tiny models with
    random weights that HanLP saved itself (tokens, parts of speech, span roles by BIO, biaffine dependencies);
    no published weights, no GPU, and no model with a ``ud`` task or ranked role spans was run. HanLP 2.1.6 and
    later want hanlp-common 0.0.24 and were not run.

    Args:
        ref: what the model is.
        files: ``folder``, the model's folder (``config.json``, ``model.pt`` and vocabularies), unpacked; and
            ``encoder``, a folder with ``config.json`` and tokenizer of the transformer that the model's config
            names by an id of a model hub. HanLP would download the latter; given as a file, nothing is.
        task: ``srl`` or ``sdp``.
        scheme: which of several tasks: ``dm``, ``pas`` or ``psd`` for a model with ``sdp/dm`` and so on; empty
            for the first one in the model.
        batch_size: sentences given to HanLP at a time.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        TypeError: an option has another value.
        ModelUnavailable: hanlp is not installed.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        task: str = "srl",
        scheme: str = "",
        batch_size: int = 256,
        device: str = "auto",
    ) -> None:
        if task not in ("srl", "sdp"):
            raise TypeError(f"task must be 'srl' or 'sdp', got {task!r}")
        if not isinstance(scheme, str):
            raise TypeError(f"scheme must be a text such as 'dm', got {scheme!r}")
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise TypeError(f"batch_size must be a whole number from 1, got {batch_size!r}")
        need("hanlp", INSTALL)
        self._ref = ref
        self._folder = files["folder"]
        self._encoder = files["encoder"]
        self._wanted = f"{task}/{scheme}" if scheme else task
        self._batch_size = batch_size
        self._device = device
        self._loaded: tuple[Any, str, str] | None = None

    @property
    def ref(self) -> ModelRef:
        """What it is, exactly."""
        return self._ref

    def elements(self, texts: Sequence[str]) -> list[list[str]]:
        """Distinct elements of each text, in order. Equal sentences are parsed once."""
        split = [split_sentences(text) for text in texts]
        distinct = list(dict.fromkeys(sentence for sentences in split for sentence in sentences))
        found = dict(zip(distinct, self._parsed(distinct), strict=True))
        return [list(dict.fromkeys(name for s in sentences for name in found[s])) for sentences in split]

    def load(self) -> tuple[Any, str, str]:
        """The model, the name of its task and that of its parts of speech, read on first use.

        Raises ModelUnavailable where the folder holds no such model, or hanlp cannot be imported.
        """
        if self._loaded is None:
            with _LOADING:
                self._loaded = self._read()
        return self._loaded

    def _parsed(self, sentences: Sequence[str]) -> Iterator[list[str]]:
        for start in range(0, len(sentences), self._batch_size):
            model, task, tags = self.load()
            document = model(list(sentences[start : start + self._batch_size]), tasks=[task, tags])
            yield from (
                role_elements(document) if task.startswith("srl") else dependency_elements(document, task)
            )

    def _read(self) -> tuple[Any, str, str]:
        name, tasks = self._check()
        task = next((t for t in tasks if t == self._wanted or t.startswith(f"{self._wanted}/")), None)
        # "ud" gives parts of speech beside its trees.
        tags = next((t for t in sorted(tasks, reverse=True) if t == "ud" or t.split("/")[0] == "pos"), None)
        if task is None or tags is None or not any(t.split("/")[0] == "tok" for t in tasks):
            raise ModelUnavailable(
                f"{self._folder}: expected a HanLP model with the tasks tok, pos or ud, and {self._wanted}, found "
                f"{', '.join(tasks) or 'none'}; take another model, or set the options task and scheme"
            )
        try:
            import torch
            from hanlp.components.mtl.multi_task_learning import MultiTaskLearning
            from hanlp.layers.transformers import resource
        except ImportError as error:
            raise ModelUnavailable(
                f"hanlp cannot be imported: {error}; run: pip install '{INSTALL}'"
            ) from error
        device = torch_device(self._device)
        # HanLP's own table of where an encoder's files lie; what it names there is not looked for on a hub.
        for mirrors in (resource.tokenizer_mirrors, resource.model_mirrors):
            mirrors[name] = str(self._encoder)
        try:
            weights = torch.load(self._folder / "model.pt", map_location="cpu", weights_only=True, mmap=True)
            model = MultiTaskLearning()
            # hanlp.load would import any class that the config names, and ask PyPI after a failure.
            model.load(str(self._folder), devices=-1, verbose=False)
            # HanLP takes what fits and leaves the rest at random.
            lost = {n for n, p in model.model.named_parameters() if p.requires_grad} - set(weights)
        except (
            OSError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            ImportError,
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
        ) as error:
            raise ModelUnavailable(
                f"{self._folder} with the encoder {self._encoder} does not hold a HanLP model: "
                f"{type(error).__name__}: {error}; unpack both again"
            ) from error
        if lost:
            raise ModelUnavailable(
                f"{self._folder / 'model.pt'} lacks {len(lost)} of the model's weights, the first {min(lost)}; "
                "unpack it again, with the encoder that its config.json names"
            )
        model.model = model.model.to(device)
        return model, task, tags

    def _check(self) -> tuple[str, list[str]]:
        """The id of the encoder and the tasks in ``config.json``, once nothing in it leaves HanLP."""
        path = self._folder / "config.json"
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            # Vocabularies name classes too.
            others = [
                json.loads(p.read_text(encoding="utf-8")) for p in sorted(self._folder.rglob("*vocabs.json"))
            ]
            foreign = [name for name in _classes([config, *others]) if not name.startswith(_HANLP)]
            classpath, tasks, encoder = config["classpath"], list(config["task_names"]), config["encoder"]
            name = str(encoder["transformer"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnavailable(
                f"{path}: expected the config of a HanLP multi-task model, found {error!r}; unpack the model again"
            ) from error
        if classpath != _MULTI_TASK:
            raise ModelUnavailable(
                f"{path}: expected a multi-task model, found {classpath}; take one whose name lists several "
                "tasks, such as …_TOK_POS_…_SRL_…"
            )
        if foreign:
            raise ModelUnavailable(
                f"{self._folder}: names the class {foreign[0]}, which is not HanLP's and is not imported; "
                "take a published model"
            )
        return name, list(map(str, tasks))


def _classes(config: Any) -> Iterator[str]:
    """Every class or function that HanLP would import for a config, at any depth."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key in ("classpath", "class_path", "type", "function") and isinstance(value, str):
                yield value
            else:
                yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
