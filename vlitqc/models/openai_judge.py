"""A judge behind HTTP: any OpenAI-compatible server (vLLM, SGLang, Ollama, llama.cpp, OpenAI, transformers serve).

The key is read from an environment variable at the moment of asking and is held by nothing that is stored,
pickled, logged or shown: every text that comes back from the server, an exception or a log record is cleared of
it. Redirects are not followed, so it reaches no other host.

Tested over HTTP against ``transformers serve`` 5.23 with SmolLM2-135M-Instruct, and against a scripted server for
faults and log-probabilities; with openai 1.60 and 3.52. Other servers are met by their documented form only.
``transformers serve`` takes ``response_format`` and ``logprobs`` and heeds neither: answers are held to no schema
there, and ``weigh`` says that it gives no log-probabilities.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import html
import io
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from random import SystemRandom
from typing import Any, Literal, TypeVar
from urllib.parse import quote, quote_plus, urlsplit, urlunsplit

from vlitqc.errors import ModelUnavailable
from vlitqc.models.answer_cache import AnswerCache, answer_key
from vlitqc.models.libraries import need
from vlitqc.types import Answers, ModelRef, Question, Rgb, Weights

T = TypeVar("T")

JPEG_QUALITY = 90
LONGEST_CAUSE = 300
"""Characters of a server's own words that a failure may hold."""
LARGEST_BODY = 4 * 2**20
"""Bytes of a reply, unpacked, that are read; answers with log-probabilities take some 50 kB."""

_PLACEHOLDER = "none"
_LONGEST_BACKOFF = 30.0
_LONGEST_FAREWELL = 2.0
_AGAIN = frozenset({408, 409, 425, 429})
_FATAL = frozenset({401, 402, 404, 405, 407})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"[\w.:%-]+")
_VERSION = re.compile(r"v\d+\w*")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SPECIAL_TOKEN = re.compile(r"<[|/]?[^<>\s]{1,40}>")
_JITTER = SystemRandom()
_LOGGERS = ("openai", "httpx", "httpcore")

# What a server may refuse, and the words by which its refusal names it. It is then asked without.
_STRUCTURE = re.compile(r"response_format|json_schema|guided|structured.?output|grammar", re.IGNORECASE)
_OPTIONAL: dict[str, re.Pattern[str]] = {
    "json_schema": _STRUCTURE,  # then the schema goes in the older form, with the type json_object
    "response_format": _STRUCTURE,
    "seed": re.compile(r"\bseed\b", re.IGNORECASE),
    "max_tokens": re.compile(r"max_completion_tokens"),
    "system": re.compile(r"system.{0,12}role|role.{0,12}system", re.IGNORECASE),
}
# llama-cpp-python answers 500 to a request of a form that it does not know.
_NOT_VALID = re.compile(r"validation error|literal_error|input should be", re.IGNORECASE)
_LOGPROBS = re.compile(r"log_?prob", re.IGNORECASE)


class OpenAIJudge:
    """``Judge`` over ``POST {url}/chat/completions``; ``files`` may be empty.

    ``url`` is http or https without credentials; ``/v1`` is added where its path names no version. ``model`` is
    the server's name for the model. The key is the value of ``$key_env``; without one a placeholder is sent,
    which local servers ignore.

    At most ``concurrency`` requests are under way at once. A request ends after ``timeout`` seconds in all, of
    which ``connect_timeout`` for the connection. One that fails in a way that may pass (408, 409, 425, 429, 5xx,
    no or a cut connection, time-out, a body that is not what it should be) is sent up to ``attempts`` times,
    after a wait drawn uniformly from 0 to ``backoff`` · 2ⁿ seconds, and no sooner than ``Retry-After`` says, of
    which no more than ``longest_wait`` seconds are honoured; all calls heed it. 400, 422 and other statuses are
    not sent again; 401, 402, 403, 404, 405, 407, a redirect and an exhausted quota end all further calls of this
    process at once, since they would end the same; but once a call has succeeded, 403 concerns its own question
    alone, for gateways answer so to an input that they hold for harmful. After ``breaker`` calls in a row have
    failed in all their attempts the server is taken to be down: calls fail at once, until ``cooldown`` seconds
    later one is let through to see.

    ``limit`` bounds the requests that this object sends in its process, retries included, for each of them may
    cost money. Answers from the cache do not count.

    A picture goes as JPEG (quality 90), reduced to ``image_side`` pixels on its longest side, never enlarged.
    ``temperature`` holds for ``ask``; ``weigh`` asks at 0. ``extra`` is added to every request's body, for
    settings that only one kind of server has (``chat_template_kwargs``). Votes differ only where the server
    samples: transformers serve does so only if the model's ``generation_config.json`` says ``do_sample``.

    A server that refuses ``seed``, ``max_tokens`` (for ``max_completion_tokens``) or the role ``system`` is asked
    without, and remembered once that worked; one that refuses a ``response_format`` of the type ``json_schema``
    gets the schema with the type ``json_object``, and if it refuses that too, none.

    An answer counts only where the server says that the model ended it (``finish_reason`` "stop"). Everything
    that a model has said is kept in ``answer_cache``, in the folder ``cache``, an answer that was cut off as
    well; refusals and failures on the way are not. Identical questions of one call are asked once.

    ``ask`` and ``weigh`` may be called from any thread, also beside a running event loop: they work on a loop
    of their own, one a process. Both raise ModelUnavailable where the cache cannot be used, or no HTTP client be
    built with the proxies and certificates that the environment names.
    """

    def __init__(
        self,
        ref: ModelRef,
        files: Mapping[str, Path],
        *,
        url: str,
        model: str,
        key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        attempts: int = 4,
        backoff: float = 0.5,
        longest_wait: float = 60.0,
        breaker: int = 8,
        cooldown: float = 30.0,
        temperature: float = 1.0,
        image_side: int = 768,
        top_logprobs: int = 20,
        seed: int = 0,
        limit: int | None = None,
        cache: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        need("openai", "vlitqc[judge]")
        self.ref = ref
        self._again = partial(
            OpenAIJudge,
            ref,
            dict(files),
            url=url,
            model=model,
            key_env=key_env,
            concurrency=concurrency,
            timeout=timeout,
            connect_timeout=connect_timeout,
            attempts=attempts,
            backoff=backoff,
            longest_wait=longest_wait,
            breaker=breaker,
            cooldown=cooldown,
            temperature=temperature,
            image_side=image_side,
            top_logprobs=top_logprobs,
            seed=seed,
            limit=limit,
            cache=cache,
            extra=extra,
        )
        self._url, self._host = _normalised(url)
        if not model or not isinstance(model, str):
            raise TypeError("model must be the server's name for the model")
        if not isinstance(key_env, str) or not _VARIABLE.fullmatch(key_env):
            # Not shown: it may be the key itself.
            raise TypeError("key_env must be the name of an environment variable, such as OPENAI_API_KEY")
        least = {
            "concurrency": concurrency,
            "attempts": attempts,
            "breaker": breaker,
            "image_side": image_side,
        }
        for name, value in least.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TypeError(f"{name} must be a whole number of 1 or more; got {value!r}")
        if not isinstance(top_logprobs, int) or not 1 <= top_logprobs <= 20:
            raise TypeError(f"top_logprobs must be a whole number from 1 to 20; got {top_logprobs!r}")
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise TypeError(f"limit must be a whole number of 0 or more; got {limit!r}")
        spans = {
            "backoff": backoff,
            "longest_wait": longest_wait,
            "cooldown": cooldown,
            "temperature": temperature,
        }
        for name, span in {**spans, "timeout": timeout, "connect_timeout": connect_timeout}.items():
            if not isinstance(span, int | float) or not math.isfinite(span) or span < 0:
                raise TypeError(f"{name} must be a number of 0 or more; got {span!r}")
        if not timeout or not connect_timeout:
            raise TypeError("timeout and connect_timeout must be more than 0 seconds")
        self._model = model
        self._key_env = key_env
        self._concurrency = concurrency
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._attempts = attempts
        self._backoff = backoff
        self._longest_wait = longest_wait
        self._temperature = temperature
        self._image_side = image_side
        self._top_logprobs = top_logprobs
        self._seed = seed
        self._limit = limit
        self._extra = dict(extra or {})
        self._cache = AnswerCache.in_folder(cache)
        # From here on: touched on the loop's thread only, but for the lock and the wall time.
        self._breaker = _Breaker(breaker, cooldown, self._host)
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None
        self._without: set[str] = set()
        self._no_logprobs: str | None = None
        self._admitted = False
        self._pause_until = 0.0
        self._counts = _Counts()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[partial[OpenAIJudge], tuple[()]]:
        # Another process starts with the options alone: connections, locks and counts stay here.
        return self._again, ()

    def __repr__(self) -> str:
        return f"OpenAIJudge({self._model!r} at {self._url})"

    @property
    def usage(self) -> dict[str, int]:
        """What this object has done in this process so far.

        ``calls`` are requests sent, ``retries`` those of them beyond the first of a question's vote, ``cached``
        answers from the cache, ``failed`` votes without an answer; ``tokens_in`` and ``tokens_out`` as the
        server counts them; ``milliseconds`` spent inside ``ask`` and ``weigh``.
        """
        return {name: getattr(self._counts, name) for name in _Counts.__slots__}

    def ask(self, questions: Sequence[Question], votes: int) -> list[Answers]:
        """``votes`` independent answers to each question, each a call with a seed of its own.

        A question whose votes did not all succeed says why one of the others failed: the first whose failure
        may pass, or else the first.
        """
        plan: list[list[str]] = []
        calls: dict[str, _Call] = {}
        for question in questions:
            pictures = [self._jpeg(image) for image in question.images]
            keys = []
            for vote in range(votes):
                call = self._call("ask", question, pictures, vote)
                calls.setdefault(call.key, call)
                keys.append(call.key)
            plan.append(keys)
        outcomes = self._outcomes(calls)
        answers = []
        for question, keys in zip(questions, plan, strict=True):
            texts: list[str] = []
            failures: list[_Failure] = []
            for key in keys:
                found = outcomes[key]
                read = found if isinstance(found, _Failure) else self._answer(found, question)
                if isinstance(read, _Failure):
                    failures.append(read)
                else:
                    texts.append(read)
            self._counts.failed += len(failures)
            # One failure that may pass is reason enough to ask again: the answers that are there are kept.
            told = next((f for f in failures if f.retry), failures[0] if failures else None)
            answers.append(Answers(tuple(texts), told.text, told.retry) if told else Answers(tuple(texts)))
        return answers

    def weigh(self, questions: Sequence[Question]) -> list[Weights]:
        """The probability of each of a question's ``choices``, from the first tokens' top log-probabilities.

        One call a question, at temperature 0. Tokens are compared with the choices without surrounding white
        space. Where a token may be the start of a longer choice, the next tokens' probabilities decide, which
        a server gives along the most likely answer only. The answer is a failure where more than 5% of the
        probability cannot be attributed for that reason, or where the choices hold less than half of it.
        """
        calls: dict[str, _Call] = {}
        keys = []
        for question in questions:
            if not question.choices:
                raise ValueError("a question without choices cannot be weighed")
            call = self._call("weigh", question, [self._jpeg(image) for image in question.images], 0)
            calls.setdefault(call.key, call)
            keys.append(call.key)
        outcomes = self._outcomes(calls)
        weights = []
        for question, key in zip(questions, keys, strict=True):
            found = outcomes[key]
            if not isinstance(found, _Failure):
                try:
                    weights.append(Weights(choice_probabilities(found["tokens"], question.choices)))
                    continue
                except ValueError as error:
                    found = self._failure(str(error))
            self._counts.failed += 1
            weights.append(Weights(None, found.text, found.retry))
        return weights

    # ------------------------------------------------------------ what is sent

    def _call(
        self, kind: Literal["ask", "weigh"], question: Question, pictures: Sequence[bytes], vote: int
    ) -> _Call:
        asking = kind == "ask"
        # A character may be a token; one more for white space, and one for the end.
        max_tokens = question.max_tokens if asking else min(max(map(len, question.choices)) + 2, 16)
        temperature = self._temperature if asking else 0.0
        hashes = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        key = answer_key(
            question,
            kind=kind,
            backend="openai",
            model=self._model,
            revision=self.ref.revision,
            pictures=hashes,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=self._seed,
            vote=vote,
            more=self._extra if asking else {**self._extra, "top_logprobs": self._top_logprobs},
        )
        own_seed = int.from_bytes(hashlib.sha256(f"{key} seed".encode()).digest()[:4], "big") >> 1
        return _Call(key, kind, question, tuple(pictures), temperature, max_tokens, own_seed)

    def _body(self, call: _Call, without: Iterable[str]) -> dict[str, Any]:
        question = call.question
        system, text = _utf8(question.system), _utf8(question.content)
        if "system" in without:
            system, text = "", f"{system}\n\n{text}"
        content: Any = text
        if call.pictures:
            urls = [f"data:image/jpeg;base64,{base64.b64encode(p).decode()}" for p in call.pictures]
            content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": text})
        messages = [{"role": "system", "content": system}] if system else []
        body: dict[str, Any] = {
            "model": self._model,
            "messages": [*messages, {"role": "user", "content": content}],
            "temperature": call.temperature,
            "max_completion_tokens" if "max_tokens" in without else "max_tokens": call.max_tokens,
        }
        if "seed" not in without:
            body["seed"] = call.seed
        if call.kind == "weigh":
            body |= {"logprobs": True, "top_logprobs": self._top_logprobs}
        elif question.schema is not None and "response_format" not in without:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", question.prompt)[:64] or "answer"
            form = {"name": name, "strict": True, "schema": dict(question.schema)}
            body["response_format"] = (
                {"type": "json_object", "schema": dict(question.schema)}
                if "json_schema" in without
                else {"type": "json_schema", "json_schema": form}
            )
        return body

    def _jpeg(self, image: Rgb) -> bytes:
        from PIL import Image

        picture = Image.fromarray(image)
        share = self._image_side / max(picture.size)
        if share < 1:
            width, height = (max(round(side * share), 1) for side in picture.size)
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=JPEG_QUALITY)
        return stream.getvalue()

    # ------------------------------------------------------------ what comes back

    def _outcomes(self, calls: Mapping[str, _Call]) -> dict[str, dict[str, Any] | _Failure]:
        """For each call what the model said, from the cache or the server, or why there is nothing."""
        started = time.perf_counter()
        outcomes: dict[str, dict[str, Any] | _Failure] = {}
        for key in calls:
            kept = self._cache.get(key)
            if kept is not None:
                outcomes[key] = json.loads(kept)
        asked = [call for key, call in calls.items() if key not in outcomes]
        found: list[dict[str, Any] | _Failure] = []
        if asked:
            found = _on_loop(self._ask_all(asked, self._secret()))
        with self._lock:
            self._counts.cached += len(outcomes)
            self._counts.milliseconds += round(1000 * (time.perf_counter() - started))
        return outcomes | {call.key: outcome for call, outcome in zip(asked, found, strict=True)}

    def _answer(self, reply: Mapping[str, Any], question: Question) -> str | _Failure:
        """The text of a reply, where it is a whole one."""
        text, finish = reply["text"], reply["finish"]
        if finish == "length":
            return self._failure(f"the answer was cut at {question.max_tokens} tokens")
        if finish != "stop":
            return self._failure(f"the answer ended with {finish!r}, not with 'stop'")
        if not text.strip():
            return self._failure("the answer is empty")
        return str(text)

    def _failure(self, cause: str, *, retry: bool = False) -> _Failure:
        return _Failure(f"judge at {self._host}: {cause}", retry)

    def _secret(self) -> _Secret:
        key = os.environ.get(self._key_env, "").strip()
        if not all("!" <= c <= "~" for c in key):
            raise ModelUnavailable(
                f"the key in ${self._key_env} holds a blank or a character that no HTTP header can carry; "
                "set it again"
            )
        return _Secret(key)

    async def _ask_all(self, calls: Sequence[_Call], secret: _Secret) -> list[dict[str, Any] | _Failure]:
        import openai

        loop = asyncio.get_running_loop()
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self._concurrency))
        # A client for each batch: no connection outlives the call, crosses a fork or goes stale between batches.
        try:
            made = openai.AsyncOpenAI(
                api_key=secret.key or _PLACEHOLDER,
                base_url=self._url,
                max_retries=0,
                timeout=openai.Timeout(self._timeout, connect=min(self._connect_timeout, self._timeout)),
                http_client=_bounded_client(),
            )
        except Exception as error:  # noqa: BLE001 - the environment's proxies and certificates may raise anything
            said = _short(secret.clear(f"{type(error).__name__}: {error}"))
            raise ModelUnavailable(
                f"the HTTP client cannot be built ({said}); "
                "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE"
            ) from None
        with secret.kept_out_of_logs():
            async with made as client:
                tasks = [asyncio.ensure_future(self._ask_one(client, call, secret)) for call in calls]
                try:
                    return list(await asyncio.gather(*tasks))
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask_one(self, client: Any, call: _Call, secret: _Secret) -> dict[str, Any] | _Failure:
        """What the model said, after as many attempts as it takes and is allowed."""
        assert self._slots is not None
        failed: _Attempt | None = None
        refused: set[str] = set()
        attempt = sent = 0
        # The slot is held between attempts: the calls in line would otherwise all be tried once before the
        # first has failed for good, and the breaker could spare the server none of them.
        async with self._slots[1]:
            while attempt < self._attempts:
                if failed is not None and failed.may_pass:
                    await asyncio.sleep(self._wait(attempt, failed))
                while (pause := self._pause_until - time.monotonic()) > 0:
                    await asyncio.sleep(pause)
                probe = False
                try:
                    if call.kind == "weigh" and self._no_logprobs is not None:
                        raise _Attempt(self._no_logprobs, unsent=True)
                    probe = self._breaker.enter()
                    self._count_one(retry=sent > 0)
                    sent += 1
                    reply = await self._attempt(client, call, self._without | refused, secret)
                except _Attempt as error:
                    if error.unsent:
                        # Its own last failure says more than that others failed too.
                        failed = failed if failed is not None and failed.may_pass else error
                        break
                    failed = error
                    if error.fatal:
                        self._breaker.shut_for_good(error.text)
                        break
                    name = self._refused(error, call, self._without | refused)
                    if name is not None:
                        self._breaker.worked()
                        refused.add(name)
                        continue
                    if not error.may_pass:
                        self._breaker.worked()
                        break
                    attempt += 1
                    wait = min(error.wait, self._longest_wait)
                    self._pause_until = max(self._pause_until, time.monotonic() + wait)
                    if probe or attempt == self._attempts:
                        self._breaker.failed(error.text, probe=probe)
                        break
                else:
                    self._breaker.worked()
                    self._without |= refused
                    self._cache.put(call.key, json.dumps(reply))
                    return reply
                finally:
                    if probe:
                        self._breaker.probed()
        assert failed is not None
        times = f" ({sent} attempts)" if sent > 1 and failed.may_pass else ""
        return self._failure(secret.clear(failed.text) + times, retry=failed.retry)

    def _count_one(self, *, retry: bool) -> None:
        if self._limit is not None and self._counts.calls >= self._limit:
            # Without its number, which is this process's share of what the user gave.
            raise _Attempt("the limit of calls (--judge-limit) is reached", retry=True, unsent=True)
        self._counts.calls += 1
        self._counts.retries += retry

    def _wait(self, attempt: int, failed: _Attempt) -> float:
        """Full jitter: anything from nothing to the doubled wait, beyond what the server itself asks for."""
        longest = min(self._backoff * 2 ** (attempt - 1), _LONGEST_BACKOFF)
        return min(failed.wait, self._longest_wait) + _JITTER.uniform(0, longest)

    def _refused(self, error: _Attempt, call: _Call, without: set[str]) -> str | None:
        """The name of what the server does not take and can do without, if that is what the failure says."""
        if error.status not in (400, 422) and not (error.status == 500 and _NOT_VALID.search(error.said)):
            return None
        if call.kind == "weigh" and _LOGPROBS.search(error.said):
            self._no_logprobs = f"the server gives no log-probabilities ({error.text})"
            error.text = self._no_logprobs
            return None
        sent = {"max_tokens", "system" if call.question.system else "", "seed"}
        if call.kind == "ask" and call.question.schema is not None:
            sent |= {"json_schema", "response_format"}
        for name, words in _OPTIONAL.items():
            if name in sent - without and words.search(error.said):
                return name
        return None

    async def _attempt(
        self, client: Any, call: _Call, without: Iterable[str], secret: _Secret
    ) -> dict[str, Any]:
        """One request: what the model said. Raises _Attempt with the cause where it said nothing."""
        import openai

        body = self._body(call, without)
        try:
            async with asyncio.timeout(self._timeout):
                # The raw response: the body is checked here, for the client takes any shape for an answer.
                response = await client.chat.completions.with_raw_response.create(
                    **body, extra_body=self._extra or None
                )
                raw = response.http_response.content
        except (TimeoutError, openai.APITimeoutError) as error:
            if "Connect" in type(error.__cause__).__name__:
                raise _Attempt(f"no connection within {self._connect_timeout:g} s", may_pass=True) from None
            raise _Attempt(f"no answer within {self._timeout:g} s", may_pass=True) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, _Attempt):
                raise cause from None
            said = secret.clear(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)
            raise _Attempt(f"no connection, or one that was cut: {_short(said)}", may_pass=True) from None
        except openai.APIStatusError as error:
            raise self._status(error.response, secret) from None
        except (openai.OpenAIError, OSError, RuntimeError, ValueError) as error:
            said = _short(secret.clear(f"{type(error).__name__}: {error}"))
            raise _Attempt(f"the client failed: {said}", may_pass=True) from None
        return self._reply(raw, call, secret)

    def _status(self, response: Any, secret: _Secret) -> _Attempt:
        status = int(response.status_code)
        # The whole of it is looked through; a failure shows only the beginning.
        said = secret.clear(_words(response.content))
        text = f"HTTP {status}" + (f": {_short(said)}" if said else "")
        if 300 <= status < 400:
            target = _short(secret.clear(response.headers.get("location", "")))
            return _Attempt(
                f"HTTP {status}: it redirects to {target or 'nowhere'}, which is not followed; "
                "give the address itself",
                retry=True,
                fatal=True,
                status=status,
            )
        if "insufficient_quota" in said:
            return _Attempt(text, retry=True, fatal=True, status=status, said=said)
        if status in _FATAL or (status == 403 and not self._admitted):
            cure = {
                401: f"; check the key in ${self._key_env}" + ("" if secret.key else ", which is not set"),
                403: f"; check what the key in ${self._key_env} may use",
                404: f"; check the model's name {self._model!r} and the address {self._url}",
            }.get(status, "")
            return _Attempt(text + cure, retry=True, fatal=True, status=status, said=said)
        if status in _AGAIN or status >= 500:
            wait = _retry_after(response.headers)
            return _Attempt(text, may_pass=True, status=status, said=said, wait=wait)
        return _Attempt(text, status=status, said=said)

    def _reply(self, raw: bytes, call: _Call, secret: _Secret) -> dict[str, Any]:
        """The part of a well-formed body that is kept."""
        try:
            found = json.loads(raw)
            choice = found["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            finish = choice.get("finish_reason")
            if not isinstance(text, str | None) or not isinstance(finish, str | None):
                raise TypeError("content")
            usage = found.get("usage")
            used = usage if isinstance(usage, dict) else {}
            tokens = _positions(choice.get("logprobs"), secret) if call.kind == "weigh" else []
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            shown = _short(secret.clear(raw[:4096].decode("utf-8", "replace")))
            raise _Attempt(f"the body is no chat completion: {shown or 'empty'}", may_pass=True) from None
        self._admitted = True
        for count, name in (("tokens_in", "prompt_tokens"), ("tokens_out", "completion_tokens")):
            n = used.get(name)
            if type(n) is int and 0 <= n < 2**31:
                setattr(self._counts, count, getattr(self._counts, count) + n)
        if refusal or finish == "content_filter":
            why = _short(secret.clear(str(refusal or text or "its content filter stopped the answer")))
            raise _Attempt(f"the judge refused: {why}")
        if call.kind == "weigh":
            if not tokens:
                if not (text or "").strip():
                    raise _Attempt("the answer is empty")
                self._no_logprobs = "the server gives no log-probabilities (its answer has none)"
                raise _Attempt(self._no_logprobs)
            return {"tokens": tokens}
        # No honest token is as long as this; what is longer is no answer of so many tokens.
        if text is not None and len(text) > 256 * call.max_tokens:
            raise _Attempt(
                f"the answer has {len(text)} characters, more than {call.max_tokens} tokens can hold"
            )
        clean = secret.clear(text or "", secret.long_enough_for_answers)
        return {"text": clean, "finish": finish and _short(secret.clear(finish))}


# ---------------------------------------------------------------- values


@dataclass(frozen=True, slots=True)
class _Call:
    """One request and the name of its answer in the cache."""

    key: str
    kind: Literal["ask", "weigh"]
    question: Question
    pictures: tuple[bytes, ...] = field(repr=False)
    temperature: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a vote has no answer."""

    text: str
    retry: bool


@dataclass(slots=True)
class _Counts:
    """``OpenAIJudge.usage``."""

    calls: int = 0
    retries: int = 0
    cached: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    milliseconds: int = 0


class _Attempt(Exception):
    """A request without an answer.

    ``may_pass``: sending it again may help; ``retry``: a later run may help; ``fatal``: every other request
    would end the same; ``unsent``: it never left; ``said``: the server's words, whole; ``wait``: the seconds
    that the server asks for.
    """

    def __init__(
        self,
        text: str,
        *,
        may_pass: bool = False,
        retry: bool = False,
        fatal: bool = False,
        unsent: bool = False,
        status: int = 0,
        said: str = "",
        wait: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.may_pass = may_pass
        self.retry = retry or may_pass
        self.fatal = fatal
        self.unsent = unsent
        self.status = status
        self.said = said
        self.wait = wait


class _Breaker:
    """Stops calls to a server that is down: closed, open, and half open while one call is let through to see."""

    def __init__(self, patience: int, cooldown: float, host: str) -> None:
        self._patience = patience
        self._cooldown = cooldown
        self._host = host
        self._in_a_row = 0
        self._reason = ""
        self._open_until: float | None = None
        self._probing = False
        self._for_good: str | None = None

    def enter(self) -> bool:
        """Raises _Attempt where no call may leave; True for the one that tries whether the server is back."""
        if self._for_good is not None:
            raise _Attempt(f"{self._for_good} (not asked again)", retry=True, unsent=True)
        if self._open_until is None:
            return False
        if self._probing or time.monotonic() < self._open_until:
            raise _Attempt(
                f"not asked, for {self._in_a_row} calls in a row have failed: {self._reason}",
                retry=True,
                unsent=True,
            )
        self._probing = True
        return True

    def worked(self) -> None:
        """The server answers."""
        self._in_a_row = 0
        self._open_until = None

    def failed(self, reason: str, *, probe: bool) -> None:
        """A call has failed in all its attempts."""
        self._in_a_row += 1
        self._reason = reason
        if probe or self._in_a_row >= self._patience:
            self._open_until = time.monotonic() + self._cooldown

    def probed(self) -> None:
        """The call that was let through is over, in whatever way."""
        self._probing = False

    def shut_for_good(self, reason: str) -> None:
        """No call can succeed before the user has changed something."""
        if self._for_good is None:
            self._for_good = reason


class _Secret:
    """The key during one call, and how it is kept out of texts and logs."""

    long_enough_for_answers = 8
    """A shorter "key" is a placeholder ("EMPTY", "1"), which a true answer may hold."""

    def __init__(self, key: str) -> None:
        self.key = key
        raw = key.encode()
        forms = {
            key,
            quote(key),
            quote(key, safe=""),
            quote_plus(key),
            json.dumps(key)[1:-1],
            json.dumps(key)[1:-1].replace("/", "\\/"),
            html.escape(key),
            repr(key)[1:-1],
            base64.b64encode(raw).decode().rstrip("="),
            base64.urlsafe_b64encode(raw).decode().rstrip("="),
            raw.hex(),
        }
        longest_first = sorted(forms, key=lambda form: (-len(form), form))
        self._forms = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if key else None

    def __repr__(self) -> str:
        return "_Secret(…)"

    def clear(self, text: str, at_least: int = 1) -> str:
        """``text`` without control characters (but for tab and line ends) and without the key.

        A key of fewer than ``at_least`` characters is left in.
        """
        clean = _CONTROL.sub("", _utf8(text))
        return self._forms.sub("[key]", clean) if self._forms and len(self.key) >= at_least else clean

    @contextmanager
    def kept_out_of_logs(self) -> Iterator[None]:
        """While it lasts, no record of the client's loggers, at any level, holds the key.

        To be entered when the client is built: some of its loggers exist only from then on.
        """
        if not self.key:
            yield
            return
        loggers = [
            logging.getLogger(name)
            for name in list(logging.root.manager.loggerDict)
            if name.startswith(_LOGGERS) or name == "asyncio"
        ]
        for logger in loggers:
            logger.addFilter(self._filter)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(self._filter)

    def _filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.clear(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.clear(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        return True


# ---------------------------------------------------------------- probabilities of choices


def choice_probabilities(
    positions: Sequence[tuple[str, Sequence[tuple[str, float]]]], choices: Sequence[str]
) -> dict[str, float]:
    """The probability of each choice as an answer, summing to 1.

    ``positions`` are the tokens of the most likely answer, each with the likeliest tokens in its place and
    their log-probabilities. A path of tokens counts for a choice once the text, without surrounding white space,
    is that choice and can grow into no longer one. Raises ValueError, with the cause, where more than 5% of the
    probability cannot be attributed, or the choices hold less than half of it.
    """
    mass = dict.fromkeys(choices, 0.0)
    unknown: dict[str, float] = {}
    prefix, share = "", 1.0
    for chosen, listed in positions:
        onward: float | None = None
        for token, logp in listed:
            p = share * math.exp(min(logp, 0.0))
            text = (prefix + _plain(token)).lstrip()
            core = text.rstrip()
            if not token or _SPECIAL_TOKEN.fullmatch(token):
                text = core = prefix.strip()  # the answer ends here
            elif any(choice.startswith(text) and choice != core for choice in choices):
                if token == chosen and onward is None:
                    onward = p
                else:
                    unknown[core] = unknown.get(core, 0.0) + p
                continue
            elif prefix.strip() in mass and core not in mass and not text[len(prefix.lstrip())].isalnum():
                core = prefix.strip()  # "1" and then "." is the answer 1, as "1" alone would be
            if core in mass:
                mass[core] += p
        if prefix.strip():
            seen = sum(math.exp(min(logp, 0.0)) for _, logp in listed)
            rest = prefix.strip()
            unknown[rest] = unknown.get(rest, 0.0) + share * max(1.0 - seen, 0.0)
        if onward is None:
            break
        prefix, share = prefix + _plain(chosen), onward
    else:
        if share:
            unknown[prefix.strip()] = unknown.get(prefix.strip(), 0.0) + share
    held, lost = math.fsum(mass.values()), math.fsum(unknown.values())
    if held + lost > 1.01:
        raise ValueError(f"the server's probabilities add up to {held + lost:.2f}")
    if lost > 0.05:
        worst = max(unknown, key=lambda start: unknown[start])
        able = [choice for choice in choices if choice.startswith(worst)]
        told = able if len(able) > 1 else [*able, f"other answers that begin with {worst!r}"]
        raise ValueError(
            f"the server's tokens do not tell {' from '.join(told)} ({lost:.0%} of the probability)"
        )
    if held < 0.5:
        raise ValueError(f"the answer's probability lies mostly outside the choices ({1 - held:.0%})")
    return {choice: p / held for choice, p in mass.items()}


def _plain(token: str) -> str:
    """A token as text; some servers show the vocabulary's own marks for a blank and a line end."""
    return token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")


def _positions(logprobs: Any, secret: _Secret) -> list[tuple[str, list[tuple[str, float]]]]:
    """``choice_probabilities``' first argument from a server's ``logprobs``; empty where there are none.

    Raises TypeError, ValueError or LookupError where they are not of the form that they should have.
    """
    content = (logprobs or {}).get("content") or []
    positions = []
    for place in content[:32]:
        chosen = place["token"]
        listed = [(entry["token"], _logp(entry["logprob"])) for entry in place.get("top_logprobs") or []]
        if all(token != chosen for token, _ in listed):
            listed.append((chosen, _logp(place["logprob"])))
        clean = [(secret.clear(token, secret.long_enough_for_answers), logp) for token, logp in listed]
        positions.append((secret.clear(chosen, secret.long_enough_for_answers), clean))
    return positions


def _logp(value: Any) -> float:
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError("no log-probability")
    return max(number, -9999.0)


# ---------------------------------------------------------------- texts


def _normalised(url: str) -> tuple[str, str]:
    """The address of the API and the host to name. Raises TypeError, without showing a password."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except (ValueError, AttributeError):
        raise TypeError("url must be an address such as http://localhost:8000/v1") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise TypeError("url must hold no name or password: the key comes from the environment (key_env)")
    if parts.query or parts.fragment:
        raise TypeError("url must hold no query: the key comes from the environment (key_env)")
    if parts.scheme not in ("http", "https") or not host or not _HOST.fullmatch(host):
        raise TypeError("url must begin with http:// or https:// and name a host")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if not any(_VERSION.fullmatch(step) for step in path.split("/")):
        path += "/v1"
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), shown + (f":{port}" if port else "")


def _words(content: bytes) -> str:
    """What a server says in the body of an error: its own message where there is one."""
    text = content[:65536].decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(found, dict):
        error = found.get("error", found)
        parts = (
            [error.get(name) for name in ("message", "detail", "code", "param")]
            if isinstance(error, dict)
            else [error]
        )
        said = [part for part in parts if isinstance(part, str) and part]
        if said:
            return " ".join(dict.fromkeys(said))
    return text


def _short(text: str) -> str:
    """One line, no longer than a failure may be."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_CAUSE else line[: LONGEST_CAUSE - 1] + "…"


def _utf8(text: str) -> str:
    """Lone surrogates, which JSON can hold and UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that ``Retry-After`` asks for, as a number or a date; 0 where it says nothing clear."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


# ---------------------------------------------------------------- the client


def _bounded_client() -> Any:
    """The HTTP client, which follows no redirect and reads no more than ``LARGEST_BODY`` of a reply."""
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            response = await super().send(request, **{**options, "stream": True})
            body = bytearray()
            try:
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > LARGEST_BODY:
                        if response.is_error:
                            break  # its beginning says what is wrong
                        raise _Attempt(f"the body is larger than {LARGEST_BODY // 2**20} MiB")
            finally:
                await response.aclose()
            headers = [
                (name, value)
                for name, value in response.headers.multi_items()
                if name not in ("content-encoding", "content-length", "transfer-encoding")
            ]
            return type(response)(
                response.status_code,
                headers=headers,
                content=bytes(body),
                request=request,
                extensions=response.extensions,
            )

    return Bounded(follow_redirects=False)


# ---------------------------------------------------------------- the loop


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="vlitqc-judge", daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the thread and close the loop; nothing in a process that was forked off it."""
        if self.process == os.getpid():
            asyncio.run_coroutine_threadsafe(self._end_tasks(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()

    async def _end_tasks(self) -> None:
        """Let what an interrupt has left close its connections: the loop would complain of tasks under way."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            if not task.cancelling():  # a second time would cut its farewell short
                task.cancel()
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=_LONGEST_FAREWELL)
            for task in done:
                if not task.cancelled():
                    task.exception()  # nobody else will ask for it
        await self.loop.shutdown_asyncgens()


_loop: list[_Loop] = []
_loop_lock = threading.Lock()


def _on_loop(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, done on this process's loop while this thread waits."""
    with _loop_lock:
        # A forked child has its parent's loop object, but not the thread that runs it.
        if not _loop or _loop[0].process != os.getpid():
            _loop[:] = [_Loop()]
        loop = _loop[0].loop
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
