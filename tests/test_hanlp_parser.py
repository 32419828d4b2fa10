"""Semantic roles and dependencies: the reading of documents written by hand, and HanLP itself on a tiny model."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from checkpoints.hanlp import write_encoder, write_hanlp

from vlitqc.errors import ModelUnavailable
from vlitqc.models.hanlp_parser import (
    MAX_SENTENCE,
    HanlpParser,
    dependency_elements,
    role_elements,
    split_sentences,
)
from vlitqc.types import ModelRef

REF = ModelRef("Parser", "hanlp", "1", "0" * 64)
needs_hanlp = pytest.mark.skipif(find_spec("hanlp") is None, reason="hanlp is not installed")


# ---------------------------------------------------------------- HanLP's documents, written by hand

ENGLISH = {
    "tok": [["Dogs", "chase", "a", "red", "ball", "on", "the", "lawn", "and", "show", "me", "the", "Ball"]],
    "pos": [["NNS", "VBP", "DT", "JJ", "NN", "IN", "DT", "NN", "CC", "VB", "PRP", "DT", "NN"]],
}


def test_numbered_arguments_with_a_noun_are_elements() -> None:
    srl = [
        [
            ["Dogs", "ARG0", 0, 1],
            ["chase", "PRED", 1, 2],
            ["a red ball", "ARG1", 2, 5],
            ["on the lawn", "ARGM-LOC", 5, 8],
        ],
        [
            ["show", "PRED", 9, 10],
            ["me", "ARG2", 10, 11],
            ["the Ball", "ARG1-PSE", 11, 13],
            ["Dogs", "R-ARG1", 0, 1],
            ["lawn", "C-ARG1", 7, 8],
        ],
    ]
    assert role_elements({**ENGLISH, "srl": [srl]}) == [["ball"]]
    lawn = [[["a red ball on the lawn", "ARG1", 2, 8], ["Dogs", "A2", 0, 1]]]
    assert role_elements({**ENGLISH, "srl": [lawn]}) == [["dogs", "ball lawn"]]
    assert role_elements({**ENGLISH, "srl": [[]]}) == [[]]
    assert role_elements({"tok": [], "pos": [], "srl": []}) == []


def test_dependents_that_are_nouns_are_elements() -> None:
    edges: list[list[tuple[int, str]]] = [[] for _ in range(13)]
    edges[0] = [(2, "ARG1")]  # the one who chases
    edges[4] = [(4, "ARG1"), (2, "ARG2")]
    edges[7] = [(6, "ARG2")]
    edges[10] = [(10, "ARG3")]  # a pronoun
    edges[12] = [(10, "ARG2")]
    edges[1] = [(0, "ROOT"), (5, "ARG2")]  # a verb
    assert dependency_elements({**ENGLISH, "sdp/dm": [edges]}, "sdp/dm") == [["ball", "lawn"]]


@pytest.mark.parametrize(
    ("relation", "is_object"),
    [
        ("ARG1", False),
        ("ARG2", True),
        ("ARG4", True),
        ("verb_ARG1", False),
        ("verb_ARG2", True),
        ("prep_ARG2", True),
        ("noun_ARG2", False),
        ("coord_ARG2", False),
        ("ACT-arg", False),
        ("PAT-arg", True),
        ("ADDR-arg", True),
        ("RSTR", False),
        ("Agt", False),
        ("Pat", True),
        ("dCont", True),
        ("rPat", False),
        ("compound", False),
        ("", False),
    ],
)
def test_object_relations_of_each_scheme(relation: str, is_object: bool) -> None:
    edges = [[(0, "Root")], [(1, relation)]]
    document = {"tok": [["见", "狗"]], "pos/ctb": [["VV", "NN"]], "sdp": [edges]}
    assert dependency_elements(document, "sdp") == [["狗"] if is_object else []]
    edges[1] = [(0, relation)]
    assert dependency_elements(document, "sdp") == [[]]


@pytest.mark.parametrize(
    ("tag", "is_noun"),
    [
        *((tag, True) for tag in ("NN", "NNS", "NNPS", "NR", "NOUN", "PROPN", "n", "nr", "ns")),
        *((tag, False) for tag in ("PRP", "PN", "PRON", "VB", "NUM", "r", "v", "NT", "")),
    ],
)
def test_nouns_of_each_tag_set(tag: str, is_noun: bool) -> None:
    document = {"tok": [["x"]], "pos": [[tag]], "srl": [[[["x", "ARG1", 0, 1]]]]}
    assert role_elements(document) == [["x"] if is_noun else []]


def test_a_name_needs_a_letter() -> None:
    assert role_elements({"tok": [["##"]], "pos": [["NN"]], "srl": [[[["##", "ARG1", 0, 1]]]]}) == [[]]


def test_sentences() -> None:
    assert split_sentences("Look. Is 3.5 it?\n\nYes!  好。看") == [
        "Look.",
        "Is 3.5 it?",
        "Yes!",
        "好。",
        "看",
    ]
    assert split_sentences("") == split_sentences(" \n ") == []
    assert split_sentences("\ud800a") == ["?a"]
    long = split_sentences("a" * 50_000)
    assert {len(piece) for piece in long} == {MAX_SENTENCE} and len(long) == 50
    assert split_sentences("word " * 100) == ["word " * 79 + "word", "word " * 19 + "word"]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("options", [{"task": "dep"}, {"scheme": 3}, {"batch_size": 0}, {"batch_size": True}])
def test_options_out_of_range_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        HanlpParser(REF, {"folder": tmp_path, "encoder": tmp_path}, **options)


def test_without_the_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vlitqc.models.libraries.find_spec", lambda name: None)
    with pytest.raises(ModelUnavailable, match="pip install 'hanlp"):
        HanlpParser(REF, {"folder": tmp_path, "encoder": tmp_path})


MULTI_TASK = "hanlp.components.mtl.multi_task_learning.MultiTaskLearning"
CONFIG = {"classpath": MULTI_TASK, "task_names": ["tok", "pos", "dep"], "encoder": {"transformer": "a/b"}}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "expected the config"),
        ("[]", "expected the config"),
        ("[" * 100_000, "expected the config"),
        (json.dumps({**CONFIG, "encoder": None}), "expected the config"),
        (json.dumps({**CONFIG, "classpath": "hanlp.components.srl.X"}), "expected a multi-task model"),
        (json.dumps({**CONFIG, "x": [{"y": {"classpath": "os.system"}}]}), "names the class os.system"),
        (json.dumps({**CONFIG, "x": {"function": "shutil.rmtree"}}), "names the class shutil.rmtree"),
        (json.dumps(CONFIG), "tok, pos or ud, and srl, found tok, pos, dep"),
        (json.dumps({**CONFIG, "task_names": ["pos", "srl"]}), "found pos, srl"),
        (json.dumps({**CONFIG, "task_names": ["tok", "srl"]}), "found tok, srl"),
    ],
)
def test_a_wrong_folder_is_refused_before_hanlp_sees_it(
    config: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vlitqc.models.libraries.find_spec", lambda name: object())
    parser = HanlpParser(REF, {"folder": tmp_path, "encoder": tmp_path})
    assert parser.ref is REF and parser.elements([]) == parser.elements([])
    with pytest.raises(ModelUnavailable, match=r"config\.json"):
        parser.elements(["a"])
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelUnavailable, match=said):
        parser.elements(["a"])


def test_a_vocabulary_may_not_name_a_class_of_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vlitqc.models.libraries.find_spec", lambda name: object())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "sdp").mkdir()
    (tmp_path / "sdp" / "dm_vocabs.json").write_text('{"rel": {"idx_to_token": [], "type": "evil.Vocab"}}')
    with pytest.raises(ModelUnavailable, match=r"names the class evil\.Vocab"):
        HanlpParser(REF, {"folder": tmp_path, "encoder": tmp_path}).elements(["a"])


# ---------------------------------------------------------------- HanLP itself

TEXTS = [
    "How many dogs see the red ball on the table? Count the cat and the ball.",
    "He is in the picture.",
    "",
    "What is it?\nFind the dog in the picture of a table.",
    "\u200b\x00 \ud800 <b>dog</b> " + "cat " * 700,
    "在桌子上找狗。",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("hanlp")
    built = write_encoder(home / "built")
    folder = write_hanlp(home / "model", built)
    # A published model names its encoder by the id of a hub.
    config = json.loads((folder / "config.json").read_text())
    config["encoder"]["transformer"] = "example/tiny-bert"
    (folder / "config.json").write_text(json.dumps(config))
    return {"folder": folder, "encoder": built.rename(home / "encoder")}


@needs_hanlp
@pytest.mark.parametrize("task", ["srl", "sdp"])
def test_elements_are_those_of_hanlps_own_call(
    model: dict[str, Path], task: str, equals: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", connect)
    parser = HanlpParser(REF, model, task=task, device="cpu")
    ours = parser.elements(TEXTS)
    assert parser.elements(TEXTS) == ours
    assert HanlpParser(REF, model, task=task, device="cpu", batch_size=1).elements(TEXTS) == ours

    import hanlp

    reference = hanlp.load(str(model["folder"]), devices=-1, verbose=False)
    theirs = []
    for text in TEXTS:
        names: dict[str, None] = {}
        for sentence in split_sentences(text):
            document = reference(sentence, tasks=["tok", "pos", task])
            names |= dict.fromkeys(by_hand(document, task))
        theirs.append(list(names))
    assert ours == theirs
    assert sum(map(len, ours)) > 3 and ours[2] == []
    counts = [len(names) for names in ours]
    equals(
        counts, [len(n) for n in theirs], backend=f"HanLP parser, {task}", reference="hanlp.load", within=0
    )


def by_hand(document: Any, task: str) -> list[str]:
    """The elements of one sentence, written another way."""
    words, tags = document["tok"], document["pos"]
    found = []
    if task == "srl":
        arguments = [a for predicate in document["srl"] for a in predicate if a[1] in ("ARG1", "ARG2")]
        ranges = [range(a[2], a[3]) for a in sorted(arguments, key=lambda a: (a[2], a[3]))]
    else:
        edges = document["sdp/dm"]
        ranges = [
            range(i, i + 1)
            for i in range(len(words))
            if any(h and r in ("ARG2", "ARG3") for h, r in edges[i])
        ]
    for span in ranges:
        name = " ".join(words[i].lower() for i in span if tags[i].startswith("NN"))
        if any(c.isalpha() for c in name):
            found.append(name)
    return found


@needs_hanlp
def test_damaged_weights_and_a_missing_task_are_told(model: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    import torch

    folder = tmp_path / "copy"
    shutil.copytree(model["folder"], folder)
    files = {**model, "folder": folder}
    state = torch.load(folder / "model.pt", weights_only=True)
    lost = next(name for name in state if name.startswith("decoders.srl"))
    torch.save({name: value for name, value in state.items() if name != lost}, folder / "model.pt")
    with pytest.raises(ModelUnavailable, match=f"lacks 1 of the model's weights, the first {lost}"):
        HanlpParser(REF, files, device="cpu").elements(["a"])
    torch.save({**state, lost: torch.zeros(3)}, folder / "model.pt")
    with pytest.raises(ModelUnavailable, match="does not hold a HanLP model"):
        HanlpParser(REF, files, device="cpu").elements(["a"])
    (folder / "model.pt").write_bytes(b"no weights")
    with pytest.raises(ModelUnavailable, match="does not hold a HanLP model"):
        HanlpParser(REF, files, device="cpu").elements(["a"])
    with pytest.raises(ModelUnavailable, match="does not hold a HanLP model"):
        HanlpParser(REF, {**model, "encoder": tmp_path}, device="cpu").elements(["a"])
    with pytest.raises(ModelUnavailable, match="and sdp/pas, found"):
        HanlpParser(REF, model, task="sdp", scheme="pas").elements(["a"])
    assert HanlpParser(REF, model, task="sdp", scheme="dm", device="cpu").elements(["a cat"])
