"""A judge in process: any chat model of transformers, with pictures or of text alone, from a local folder or GGUF.

Where a question has choices, the model's probability of each is computed, not sampled: the log-probability of
the choice as the assistant's whole answer, its end of turn included, is summed over its tokens, and the softmax
over the choices taken. Votes are then drawn from these probabilities. Without choices the model writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vlitqc.errors import ModelUnavailable
from vlitqc.models.answer_cache import AnswerCache, answer_key
from vlitqc.models.libraries import need
from vlitqc.models.torch_device import check_precision, compute_dtype, torch_device
from vlitqc.types import Answers, ModelRef, Question, Rgb, Weights

SHARED_AT_LEAST = 32
"""Tokens that the prompts of a batch must have in common at their start to be computed once for all."""

_PROBES = ("Saphir1", "Topas2", "Rubin3", "Opal4")
_MESSAGE_LENGTH = 300
_LEAST_TEMPERATURE = 0.001

R = TypeVar("R")


class TransformersJudge:
    """Judge; ``files["folder"]`` is a transformers folder, or ``files["checkpoint"]`` a ``.gguf`` of a text model.

    A folder whose configuration is one of transformers' ``image-text-to-text`` models is given pictures; any
    other is a causal language model, and a question with pictures then fails. Nothing is run that comes with
    the weights: no code, and its chat template only in transformers' sandbox. A model without a chat template
    is asked in plain text, ``system``, a blank line, ``content``.

    ``temperature``, 0 or at least 0.001, sharpens (below 1) or flattens the votes; at 0 all votes are the
    likeliest answer. ``seed`` and the question alone decide what is drawn, so that a vote does not depend on the
    batch or on other votes.
    ``batch_size`` counts answers computed at once, ``image_side`` is the longest side of a picture in pixels,
    larger ones are reduced. ``limit`` is the highest number of answers that this process computes; ``cache``
    is the folder of the answers kept on disk (``AnswerCache``), by default the user's own. ``precision``: on
    CUDA ``auto`` loads the weights as bfloat16 where the GPU has it, else float16; ``fp32`` loads float32, as
    on a CPU.

    No text of the data can act as one of the model's control tokens (``<|im_end|>``, ``<image>``) or as a role
    mark of its template (``USER:``): a space is put into it. A question that the model cannot be asked (too
    long, a picture that its processor refuses) is an answer with its reason.

    Run here with SmolLM2-135M-Instruct (GGUF) and with tiny random Llama, LLaVA and Qwen2.5-VL folders, on the CPU;
    LLaVA-1.5-7B itself and CUDA were not run.
    """

    RUNTIME_OPTIONS = ("batch_size", "limit", "cache")

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        temperature: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        image_side: int = 672,
        limit: int | None = None,
        cache: str | None = None,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        if set(files) not in ({"folder"}, {"checkpoint"}):
            raise TypeError("expected one file with the role 'folder' or 'checkpoint'")
        _check("temperature", temperature, 0, (int, float), "a number from 0")
        if 0 < temperature < _LEAST_TEMPERATURE:
            # Log-probabilities divided by it would leave the range of numbers.
            raise TypeError(f"temperature must be 0, or {_LEAST_TEMPERATURE} or more; got {temperature!r}")
        for name, value, low in (
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("image_side", image_side, 1),
        ):
            _check(name, value, low, (int,), f"a whole number from {low}")
        if limit is not None:
            _check("limit", limit, 0, (int,), "a whole number from 0")
        check_precision(precision)
        need("transformers", "transformers")
        if "checkpoint" in files:
            need("gguf", "gguf>=0.10")
            need("accelerate", "accelerate")
        self.ref = ref
        self._files = dict(files)
        self._options: dict[str, Any] = {
            "temperature": temperature,
            "seed": seed,
            "batch_size": batch_size,
            "image_side": image_side,
            "limit": limit,
            "cache": cache,
            "precision": precision,
            "device": device,
        }
        self._cache = AnswerCache.in_folder(cache)
        self._lock = threading.RLock()
        self._chat: Chat | None = None
        self._left = limit
        self._counts = {"calls": 0, "cached": 0, "failed": 0}

    def __getstate__(self) -> dict[str, Any]:
        # Weights do not travel between processes, and a lock cannot.
        return {"ref": self.ref, "files": self._files, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["ref"], state["files"], **state["options"])  # type: ignore[misc]

    @property
    def usage(self) -> dict[str, int]:
        """Counts of this object in this process: ``calls`` are answers computed, ``failed`` those that were not.

        With choices, the probabilities of all of them are one answer, whatever the number of votes.
        ``tokens_in`` are those of the prompts without padding, ``tokens_out`` those written.
        """
        tokens = (self._chat.tokens_in, self._chat.tokens_out) if self._chat else (0, 0)
        return {**self._counts, "retries": 0, "tokens_in": tokens[0], "tokens_out": tokens[1]}

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        """``votes`` answers to each question, in order.

        With choices each answer is one of them, drawn from ``weigh`` at the judge's temperature; without, the
        model writes at most ``max_tokens`` tokens. With a schema its answer is begun for it (:func:`opening`)
        and ends with its JSON object. Raises ModelUnavailable where the model cannot be loaded.
        """
        found: list[Answers | None] = [None] * len(questions)
        closed = [i for i, question in enumerate(questions) if question.choices]
        for i, weights in zip(closed, self.weigh([questions[i] for i in closed]), strict=True):
            found[i] = self._draw(questions[i], weights, votes)
        open_ = [i for i, question in enumerate(questions) if not question.choices]
        for i, answers in zip(open_, self._write([questions[i] for i in open_], votes), strict=True):
            found[i] = answers
        return [answers for answers in found if answers is not None]

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        """The probability of each choice, ``softmax(Σ log P(token))`` over the choices, at temperature 1.

        A question without choices fails. Raises ModelUnavailable where the model cannot be loaded.
        """
        pictures = [self._pictures(question) for question in questions]
        keys = [self._key("weigh", q, p, 1.0) for q, p in zip(questions, pictures, strict=True)]

        def compute(places: Sequence[int]) -> list[str | Failed]:
            rows = self._chat_model().log_probabilities(
                [questions[i] for i in places], [pictures[i] for i in places]
            )
            return [
                json.dumps(_softmax(row).tolist()) if isinstance(row, np.ndarray) else row for row in rows
            ]

        def alike(i: int) -> Any:
            return questions[i].choices

        kept = self._cached(keys, [None if q.choices else Failed("it has no choices") for q in questions])
        self._fill(kept, keys, compute, alike)
        return [
            Weights(None, text.reason, text.retry)
            if isinstance(text, Failed)
            else Weights(dict(zip(question.choices, json.loads(text), strict=True)))
            for question, text in zip(questions, kept, strict=True)
            if text is not None
        ]

    def _draw(self, question: Question, weights: Weights, votes: int) -> Answers:
        if weights.probabilities is None:
            return Answers((), weights.failure, weights.retry)
        choices = list(weights.probabilities)
        p = np.array([weights.probabilities[choice] for choice in choices])
        if self._options["temperature"] == 0:
            return Answers((choices[int(p.argmax())],) * votes)
        key = self._key("ask", question, self._pictures(question), self._options["temperature"])
        with np.errstate(divide="ignore"):
            p = _softmax(np.log(p) / self._options["temperature"])
        drawn = np.random.default_rng(int(key, 16)).choice(len(choices), size=votes, p=p)
        return Answers(tuple(choices[i] for i in drawn))

    def _write(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        temperature = self._options["temperature"]
        distinct = votes if temperature else min(votes, 1)
        rows = [(i, vote) for i in range(len(questions)) for vote in range(distinct)]
        pictures = [self._pictures(question) for question in questions]
        keys = [self._key("write", questions[i], pictures[i], temperature, vote) for i, vote in rows]

        def compute(places: Sequence[int]) -> list[str | Failed]:
            asked = [rows[place][0] for place in places]
            return self._chat_model().written(
                [questions[i] for i in asked],
                [pictures[i] for i in asked],
                temperature,
                [int(keys[place], 16) for place in places],
            )

        def alike(place: int) -> Any:
            return questions[rows[place][0]].max_tokens

        kept = self._cached(keys, [None] * len(keys))
        self._fill(kept, keys, compute, alike)
        answers: list[Answers] = []
        for i in range(len(questions)):
            own = kept[i * distinct : (i + 1) * distinct]
            texts = [text for text in own if isinstance(text, str)]
            failed = next((text for text in own if isinstance(text, Failed)), None)
            repeated = tuple(texts) if temperature else tuple(texts) * votes
            answers.append(Answers(repeated, failed.reason, failed.retry) if failed else Answers(repeated))
        return answers

    def _cached(self, keys: Sequence[str], known: Sequence[Failed | None]) -> list[str | Failed | None]:
        return [
            self._cache.get(key) if failed is None else failed
            for key, failed in zip(keys, known, strict=True)
        ]

    def _fill(
        self,
        kept: list[str | Failed | None],
        keys: Sequence[str],
        compute: Callable[[Sequence[int]], list[str | Failed]],
        alike: Callable[[int], Any],
    ) -> None:
        """Compute what ``kept`` lacks, in batches of places that are ``alike``, and keep it on disk."""
        with self._lock:
            first: dict[str, int] = {}
            self._counts["cached"] += sum(isinstance(text, str) for text in kept)
            for i, key in enumerate(keys):
                if kept[i] is None:
                    first.setdefault(key, i)
            groups: dict[Any, list[int]] = {}
            for i in first.values():
                if self._left == 0:
                    # Without its number, which is this process's share of what the user gave.
                    kept[i] = Failed("the limit of calls (--judge-limit) is reached", retry=True)
                    continue
                if self._left is not None:
                    self._left -= 1
                groups.setdefault(alike(i), []).append(i)
            size = self._options["batch_size"]
            for places in groups.values():
                for start in range(0, len(places), size):
                    part = places[start : start + size]
                    for i, text in zip(part, compute(part), strict=True):
                        kept[i] = text
                        self._counts["calls"] += 1
                        if isinstance(text, str):
                            self._cache.put(keys[i], text)
            for i, key in enumerate(keys):
                if kept[i] is None:
                    kept[i] = kept[first[key]]
            self._counts["failed"] += sum(isinstance(text, Failed) for text in kept)

    def _pictures(self, question: Question) -> list[Rgb]:
        return [_reduced(image, self._options["image_side"]) for image in question.images]

    def _key(
        self,
        kind: Any,
        question: Question,
        pictures: Sequence[Rgb],
        temperature: float,
        vote: int = 0,
    ) -> str:
        return answer_key(
            question,
            kind=kind,
            backend="transformers_judge",
            model=self.ref.name,
            revision=self.ref.sha256,
            pictures=[hashlib.sha256(repr(p.shape).encode() + p.tobytes()).hexdigest() for p in pictures],
            temperature=temperature,
            max_tokens=question.max_tokens,
            seed=self._options["seed"] if kind == "ask" else 0,
            vote=vote,
        )

    def _chat_model(self) -> Chat:
        with self._lock:
            if self._chat is None:
                self._chat = read_chat(
                    self.ref.name, self._files, self._options["precision"], self._options["device"]
                )
            return self._chat


class Failed:
    """Why a question has no answer."""

    def __init__(self, reason: str, *, retry: bool = False) -> None:
        self.reason = reason
        self.retry = retry


class TooLong(Exception):
    """A question that does not fit the model's context."""


# ---------------------------------------------------------------- the model


class Chat:
    """A loaded model with its tokenizer or processor: renders questions, and computes on batches of them."""

    def __init__(self, name: str, model: Any, processor: Any, device: str, *, reads_pictures: bool) -> None:
        self.name = name
        self.model = model
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer if reads_pictures else processor
        self.device = device
        self.tokens_in = self.tokens_out = 0
        self.reads_pictures = reads_pictures
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.template = getattr(processor, "chat_template", None) or self.tokenizer.chat_template
        text_config = model.config.get_text_config()
        self.longest = int(getattr(text_config, "max_position_embeddings", 0) or 0)
        # Padding between a shared start and its ends would count as part of a sliding window.
        self.may_share = not reads_pictures and not getattr(text_config, "sliding_window", None)
        # Models that count the places of pictures in two dimensions keep that count to themselves.
        self.may_go_on = not any(hasattr(part, "rope_deltas") for part in model.modules())
        self.takes_system = self._takes_system()
        told = self._literals()
        self.control = _pattern([*_control_tokens(self.tokenizer, self.template or ""), *told])
        self.ends = self._ends()

    # ------------------------------------------------------------ words

    def render(self, question: Question, answer: str | None = None) -> str:
        """The conversation as the model's own template writes it, up to where the assistant begins to speak.

        With ``answer``, the conversation with it as the assistant's turn.
        """
        system, content = (self.harmless(text) for text in (question.system, question.content))
        if self.takes_system:
            messages = [self._message("system", system), self._message("user", content, len(question.images))]
        else:
            messages = [self._message("user", f"{system}\n\n{content}", len(question.images))]
        if answer is not None:
            messages.append(self._message("assistant", answer))
        return self._rendered(messages, open_=answer is None)

    def harmless(self, text: str) -> str:
        """``text`` with a space inside everything that the model or its template would take for a control mark."""
        text = text.encode("utf-8", "replace").decode()
        while self.control.search(text):
            text = self.control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
        return text

    def _message(self, role: str, text: str, n_images: int = 0) -> dict[str, Any]:
        if not self.reads_pictures:
            return {"role": role, "content": text}
        pictures = [{"type": "image"}] * n_images
        return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, open_: bool) -> str:
        if self.template is None:
            return "".join(self._plain(message) for message in messages)
        rendered: str = self.processor.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=open_
        )
        return rendered

    def _plain(self, message: Mapping[str, Any]) -> str:
        content = message["content"]
        if isinstance(content, str):
            text = content
        else:
            marks = [str(self.processor.image_token) for part in content if part["type"] == "image"]
            text = "\n".join([*marks, content[-1]["text"]])
        return text + {"system": "\n\n", "user": "\n", "assistant": ""}[message["role"]]

    def _takes_system(self) -> bool:
        from jinja2 import TemplateError

        messages = [self._message("system", _PROBES[0]), self._message("user", _PROBES[1])]
        try:
            return _PROBES[0] in self._rendered(messages, open_=True)
        except TemplateError:
            return False

    def _literals(self) -> list[str]:
        """What the template itself puts right before and after a message: role marks such as ``USER:``."""
        if self.template is None:
            return []
        roles = ("system", "user", "assistant", "user")
        messages = [self._message(role, probe) for role, probe in zip(roles, _PROBES, strict=True)]
        rendered = self._rendered(messages[0 if self.takes_system else 1 :], open_=True)
        tokens = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        for token in sorted(tokens, key=len, reverse=True):
            rendered = rendered.replace(token, " ")
        marks: list[str] = []
        for piece in re.split("|".join(_PROBES), rendered):
            words = piece.split()
            marks += [words[0], words[-1]] if words else []
        # A bare word such as "user" is a mark only after a control token, which no data can hold.
        return [mark for mark in dict.fromkeys(marks) if not mark.isalnum()]

    def _ends(self) -> set[int]:
        """The tokens that end the assistant's turn."""
        told = self.model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])} - {None}
        messages = [self._message("user", _PROBES[1]), self._message("assistant", _PROBES[2])]
        tail = self._rendered(messages, open_=False).rpartition(_PROBES[2])[2]
        first = self.tokenizer(tail, add_special_tokens=False).input_ids[:1] if tail else []
        specials = set(self.tokenizer.all_special_ids)
        return ends | {token for token in first if token in specials}

    def _choice_ids(self, question: Question, choice: str) -> list[int]:
        """The tokens of ``choice`` as the assistant's answer, with the one that ends the turn."""
        before, whole = self.render(question), self.render(question, choice)
        # A template may strip what it is given, or close a turn in another way than it opens one.
        rest = whole[len(before) :] if whole.startswith(before) else choice
        spoken = rest[: rest.find(choice) + len(choice)] if choice in rest else choice
        # Tokens may join across the seam, and only the last line can matter to that.
        anchor = before[before.rstrip().rfind("\n") + 1 :]
        start = self._ids(anchor)
        both = self._ids(anchor + spoken)
        ids = both[len(start) :] if both[: len(start)] == start else self._ids(spoken)
        after = self._ids(rest[rest.find(choice) + len(choice) :]) if choice in rest else []
        end = next((token for token in after if token in self.ends), self.tokenizer.eos_token_id)
        return ids if end is None else [*ids, end]

    def _ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    # ------------------------------------------------------------ numbers

    def log_probabilities(
        self, questions: Sequence[Question], pictures: Sequence[Sequence[Rgb]]
    ) -> list[NDArray[np.float64] | Failed]:
        """For each question the log-probability of each of its choices; all have the same choices."""

        def run(places: Sequence[int]) -> list[NDArray[np.float64] | Failed]:
            room = max(map(len, questions[places[0]].choices))
            inputs = self._inputs([questions[i] for i in places], [pictures[i] for i in places], room)
            # A mark of the end depends on the template alone, and so do the tokens of a choice.
            choices = [self._choice_ids(questions[places[0]], c) for c in questions[places[0]].choices]
            return list((self._teacher_forced if self.may_go_on else self._from_the_start)(inputs, choices))

        return self._each(questions, pictures, run)

    def written(
        self,
        questions: Sequence[Question],
        pictures: Sequence[Sequence[Rgb]],
        temperature: float,
        seeds: Sequence[int],
    ) -> list[str | Failed]:
        """One answer a question, sampled with its own seed; all have the same ``max_tokens``."""
        import torch
        import transformers
        from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

        class Gumbel(LogitsProcessor):
            """Adds Gumbel noise: the largest of log p / T + noise is a draw from p^(1/T)."""

            def __init__(self, seeds: Sequence[int]) -> None:
                self.rows = [np.random.default_rng(seed) for seed in seeds]

            def __call__(self, input_ids: Any, scores: Any) -> Any:
                noise = np.stack([row.gumbel(size=scores.shape[-1]) for row in self.rows])
                return scores.float() / temperature + torch.from_numpy(noise).to(scores.device, torch.float32)

        def texts(tokens: Any, n_before: int, starts: Sequence[str]) -> list[str]:
            written = self.tokenizer.batch_decode(tokens[:, n_before:], skip_special_tokens=True)
            return [start + text for start, text in zip(starts, written, strict=True)]

        class Closed(StoppingCriteria):
            """A row is done when its JSON object is whole."""

            def __init__(self, n_before: int, starts: Sequence[str]) -> None:
                self.n_before, self.starts = n_before, starts

            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                whole = [
                    bool(start) and end_of_object(text) is not None
                    for start, text in zip(
                        self.starts, texts(input_ids, self.n_before, self.starts), strict=True
                    )
                ]
                return torch.tensor(whole, device=input_ids.device)

        def run(places: Sequence[int]) -> list[str | Failed]:
            room = questions[places[0]].max_tokens
            starts = [opening(questions[i].schema) for i in places]
            inputs = self._inputs([questions[i] for i in places], [pictures[i] for i in places], room, starts)
            n_before = inputs["input_ids"].shape[1]
            settings: Any = transformers.GenerationConfig
            plan = settings(
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                eos_token_id=sorted(self.ends) or None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            noisy = LogitsProcessorList([Gumbel([seeds[i] for i in places])] if temperature else [])
            with torch.inference_mode():
                tokens = self.model.generate(
                    **inputs,
                    generation_config=plan,
                    logits_processor=noisy,
                    stopping_criteria=StoppingCriteriaList([Closed(n_before, starts)]),
                )
            self.tokens_out += int((tokens[:, n_before:] != self.tokenizer.pad_token_id).sum())
            return [
                text[: end_of_object(text)] if start else text
                for start, text in zip(starts, texts(tokens, n_before, starts), strict=True)
            ]

        return self._each(questions, pictures, run)

    def _each(
        self,
        questions: Sequence[Question],
        pictures: Sequence[Sequence[Rgb]],
        run: Callable[[Sequence[int]], list[R | Failed]],
    ) -> list[R | Failed]:
        """``run`` on the questions with pictures and on those without; on each alone where it raises."""
        found: dict[int, R | Failed] = {}
        for has_pictures in (False, True):
            places = [i for i, own in enumerate(pictures) if bool(own) == has_pictures]
            if has_pictures and not self.reads_pictures:
                found |= {i: Failed(f"model {self.name} reads no pictures") for i in places}
            elif places:
                found |= dict(self._attempt(places, run))
        return [found[i] for i in range(len(questions))]

    def _attempt(
        self, places: Sequence[int], run: Callable[[Sequence[int]], list[R | Failed]]
    ) -> list[tuple[int, R | Failed]]:
        import torch

        try:
            return list(zip(places, run(places), strict=True))
        except Exception as error:  # noqa: BLE001 - a processor or a kernel may raise anything for one question
            if len(places) > 1:
                return [row for place in places for row in self._attempt([place], run)]
            if isinstance(error, TooLong):
                return [(places[0], Failed(str(error)))]
            full = isinstance(error, (torch.OutOfMemoryError, MemoryError))
            return [(places[0], Failed(f"model {self.name} failed on it: {_told(error)}", retry=full))]

    def _inputs(
        self,
        questions: Sequence[Question],
        pictures: Sequence[Sequence[Rgb]],
        room: int,
        starts: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Tensors for the model, padded on the left, with the beginnings of its answers where there are any.

        Raises TooLong unless ``room`` more tokens fit.
        """
        from PIL import Image as Pillow

        texts = [self.render(question) for question in questions]
        texts = [text + start for text, start in zip(texts, starts or [""] * len(texts), strict=True)]
        bos = self.tokenizer.bos_token
        # A template that writes the mark of the beginning has written all marks.
        marks = not (bos and texts[0].startswith(bos))
        options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        if any(len(own) for own in pictures):
            images = [[Pillow.fromarray(picture) for picture in own] for own in pictures]
            encoded = self.processor(text=texts, images=images, add_special_tokens=marks, **options)
        else:
            encoded = self.tokenizer(texts, add_special_tokens=marks, **options)
            # Some tokenizers give more than their models take.
            encoded = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        length = encoded["input_ids"].shape[1] + room
        if self.longest and length > self.longest:
            # Without its own length, so that many such questions have one reason.
            raise TooLong(f"the question does not fit model {self.name}, which reads {self.longest} tokens")
        self.tokens_in += int(encoded["attention_mask"].sum())
        return {
            name: value.to(self.device, self.model.dtype)
            if value.is_floating_point()
            else value.to(self.device)
            for name, value in encoded.items()
        }

    def _teacher_forced(self, inputs: dict[str, Any], choices: Sequence[list[int]]) -> NDArray[np.float64]:
        """``float64[rows, choices]``: log-probability of each choice's tokens after each row of ``inputs``.

        The prompt is computed once; the choices' common start is added to it, and then each choice's rest in
        turn, so that the memory needed does not grow with their number.
        """
        import torch

        with torch.inference_mode():
            cache, mask, logits = self._prompt(inputs)
            n_rows = logits.shape[0]
            common = _common_start(choices)
            base = torch.zeros(n_rows, dtype=torch.float64)
            if common:
                score, mask, logits = self._forced(cache, mask, logits, common)
                base = base + score
            filled = cache.get_seq_length()
            columns = []
            for choice in choices:
                score, _, _ = self._forced(cache, mask, logits, choice[len(common) :], last=True)
                columns.append(base + score)
                if (grown := cache.get_seq_length() - filled) > 0:
                    cache.crop(-grown)
            found: NDArray[np.float64] = torch.stack(columns, dim=1).numpy()
            return found

    def _from_the_start(self, inputs: dict[str, Any], choices: Sequence[list[int]]) -> NDArray[np.float64]:
        """As ``_teacher_forced``, with a whole pass for each choice: for models that cannot go on from a cache."""
        import torch

        ids = inputs["input_ids"]
        columns = []
        with torch.inference_mode():
            for choice in choices:
                tokens = torch.tensor([choice] * len(ids), device=self.device)
                longer = {
                    name: torch.cat([value, torch.zeros_like(tokens, dtype=value.dtype)], dim=1)
                    for name, value in inputs.items()
                    if value.shape == ids.shape
                }
                longer["input_ids"][:, -len(choice) :] = tokens
                longer["attention_mask"][:, -len(choice) :] = 1
                out = self.model(**{**inputs, **longer}, use_cache=False, **self._last(len(choice) + 1))
                told = out.logits[:, -len(choice) - 1 : -1].double().log_softmax(dim=-1)
                columns.append(told.gather(-1, tokens[..., None]).sum(dim=(1, 2)).cpu())
            found: NDArray[np.float64] = torch.stack(columns, dim=1).numpy()
            return found

    def _prompt(self, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """The cache after the prompts, their mask, and the logits that follow: ``[rows, vocabulary]``."""
        import torch

        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        rows = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
        shared = _common_start(rows)
        if not self.may_share or len(rows) < 2 or len(shared) < SHARED_AT_LEAST:
            out = self.model(**inputs, **self._positions(mask, ids.shape[1]), use_cache=True, **self._last())
            return out.past_key_values, mask, out.logits[:, -1]
        start = torch.tensor([shared], device=self.device)
        seen = torch.ones_like(start)
        out = self.model(
            input_ids=start,
            attention_mask=seen,
            **self._positions(seen, len(shared)),
            use_cache=True,
            **self._last(),
        )
        cache = out.past_key_values
        cache.batch_repeat_interleave(len(rows))
        n_rest = max(map(len, rows)) - len(shared)
        rest, own = ids[:, -n_rest:].clone(), mask[:, -n_rest:].clone()
        for i, row in enumerate(rows):
            # What remains of the shared start in a shorter row's window has been computed.
            own[i, : n_rest - (len(row) - len(shared))] = 0
        mask = torch.cat(
            [torch.ones(len(rows), len(shared), dtype=mask.dtype, device=self.device), own], dim=1
        )
        out = self.model(
            input_ids=rest,
            attention_mask=mask,
            past_key_values=cache,
            **self._positions(mask, n_rest),
            use_cache=True,
            **self._last(),
        )
        return out.past_key_values, mask, out.logits[:, -1]

    def _forced(
        self, cache: Any, mask: Any, logits: Any, tokens: list[int], *, last: bool = False
    ) -> tuple[Any, Any, Any]:
        """Σ log P of ``tokens`` in every row, with the mask and the logits after them.

        ``last``: nothing follows, so the last token itself need not be computed.
        """
        import torch

        n_rows = logits.shape[0]
        fed = tokens[:-1] if last else tokens
        steps = logits[:, None]
        if fed:
            ids = torch.tensor([fed] * n_rows, device=self.device)
            mask = torch.cat([mask, torch.ones_like(ids, dtype=mask.dtype)], dim=1)
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                past_key_values=cache,
                **self._positions(mask, len(fed)),
                use_cache=True,
            )
            steps = torch.cat([steps, out.logits], dim=1)
        told = steps[:, : len(tokens)].double().log_softmax(dim=-1)
        wanted = torch.tensor([tokens] * n_rows, device=self.device)[..., None]
        return told.gather(-1, wanted).sum(dim=(1, 2)).cpu(), mask, steps[:, -1]

    def _positions(self, mask: Any, n: int) -> dict[str, Any]:
        """Positions of the last ``n`` places, counted without padding; models with pictures count their own."""
        if self.reads_pictures:
            return {}
        return {"position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -n:]}

    def _last(self, n: int = 1) -> dict[str, Any]:
        # A vocabulary times a long prompt is the largest tensor of all, and only its end is read.
        return {"logits_to_keep": n} if "logits_to_keep" in _parameters(type(self.model)) else {}


def read_chat(name: str, files: Mapping[str, Path], precision: str, device_name: str) -> Chat:
    """The model of ``files``, loaded and in evaluation mode.

    Raises ModelUnavailable where the files are no such model, or lack some of its weights.
    """
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor
    from transformers import AutoTokenizer as Tokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    device = torch_device(device_name)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if "checkpoint" in files:
        path = files["checkpoint"]
        if path.suffix != ".gguf":
            raise ModelUnavailable(f"{path} is no .gguf file; give a transformers folder the role 'folder'")
        folder, options["gguf_file"] = path.parent, path.name
    else:
        path = folder = files["folder"]
        if not (folder / "config.json").is_file():
            raise ModelUnavailable(f"{folder} is no transformers folder: it has no config.json")
    bars: Any = transformers.logging
    had_bar = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        # The reader of GGUF draws a bar of its own, which nothing else turns off.
        with contextlib.redirect_stderr(io.StringIO()):
            config = AutoConfig.from_pretrained(folder, **options)
            reads_pictures = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
            reader: Any = AutoProcessor if reads_pictures else Tokenizer
            processor = reader.from_pretrained(folder, **options)
            kind: Any = AutoModelForImageTextToText if reads_pictures else AutoModelForCausalLM
            model, told = kind.from_pretrained(
                folder,
                config=config,  # else a GGUF, slow to read, is read once more
                dtype=compute_dtype(device, precision),
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        raise ModelUnavailable(f"{path} cannot be read as a chat model ({_told(error)})") from error
    finally:
        if had_bar:
            bars.enable_progress_bar()
    missing = sorted(told["missing_keys"])
    if missing:
        # transformers would go on with random numbers in their place.
        raise ModelUnavailable(
            f"{path} lacks {len(missing)} of the model's weights, {missing[0]} the first; get it again"
        )
    if reads_pictures and getattr(processor, "tokenizer", None) is None:
        raise ModelUnavailable(
            f"{path} has no processor for pictures and text; get its processor_config.json and tokenizer files"
        )
    return Chat(name, model.to(device).eval(), processor, device, reads_pictures=reads_pictures)


def _control_tokens(tokenizer: Any, template: str) -> list[str]:
    """What the tokenizer reads as a mark of its own, wherever it stands in a text."""
    return [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special or token.content in template
    ]


def _pattern(marks: Iterable[str]) -> re.Pattern[str]:
    """Matches any of ``marks`` that has at least two characters, none of them white space."""
    told = {mark for mark in (mark.strip() for mark in marks) if len(mark) > 1 and not mark.isspace()}
    longest_first = sorted(told, key=lambda mark: (-len(mark), mark))
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_MESSAGE_LENGTH]


def _parameters(kind: type) -> Iterable[str]:
    import inspect

    return inspect.signature(kind.forward).parameters  # type: ignore[attr-defined]


def _common_start(rows: Sequence[Sequence[int]]) -> list[int]:
    """What all rows begin with, short of any row's last element."""
    shortest = min(map(len, rows)) - 1
    start: list[int] = []
    for column in zip(*(row[:shortest] for row in rows), strict=True):
        if any(token != column[0] for token in column):
            break
        start.append(column[0])
    return start


def opening(schema: Mapping[str, Any] | None) -> str:
    """How every answer that follows the schema of an object with one key begins; empty for any other schema."""
    keys = list((schema or {}).get("properties", ()))
    if schema is None or len(keys) != 1 or schema.get("required") != keys:
        return ""
    value = schema["properties"][keys[0]]
    kind = value.get("type")
    mark = '"' if kind == "string" else ""
    if kind == "array":
        of_texts = value.get("items", {}).get("type") == "string" and value.get("minItems", 0) > 0
        mark = '["' if of_texts else "["
    return f"{{{json.dumps(keys[0])}: {mark}"


def end_of_object(text: str) -> int | None:
    """Where the JSON object at the start of ``text`` ends; None where it is not whole, or is none."""
    if "}" not in text:
        return None
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return None


def _softmax(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.exp(logs - logs.max())
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _reduced(image: Rgb, side: int) -> Rgb:
    """``image`` with a longest side of at most ``side`` pixels."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    from PIL import Image as Pillow

    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Pillow.fromarray(image).resize(size, Pillow.Resampling.LANCZOS))


def _check(name: str, value: Any, low: float, types: tuple[type, ...], expected: str) -> None:
    fits: bool = isinstance(value, types) and not isinstance(value, bool)
    if not fits or not low <= value < math.inf:
        raise TypeError(f"{name} must be {expected}; got {value!r}")
