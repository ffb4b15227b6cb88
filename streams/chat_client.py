"""Asks an OpenAI-compatible endpoint (vLLM, SGLang, Triton's front end) for one JSON answer.

One call has one deadline, in which everything happens: waiting for a free slot, every attempt, and
the pauses between them. Only what another attempt can mend is tried again: 429, 5xx, and a broken
connection. Every way to fail is a `ChatFault`; a call raises nothing else.

The replies are decoded here: the official client builds its records without checking them.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import msgspec
from msgspec import Struct
from openai import APIStatusError, AsyncOpenAI, OpenAIError

from streams import metrics
from streams.chat_faults import RETRIED, ChatFailed, ChatFault
from streams.connections import ChatConfig
from streams.token_budget import TokenBudget, estimated_tokens

FIRST_PAUSE_S = 0.25  # full jitter: the n-th pause is uniform below min(4 s, 0.25 s * 2^n)
LONGEST_PAUSE_S = 4.0
NO_KEY = "none"  # the official client does not start without a key; local servers want none
TOO_MANY_REQUESTS = 429
NOT_SERVED = RETRIED | {ChatFault.REFUSED}  # these cost no tokens
MAX_DETAIL = 200  # characters of a server's complaint that reach our log


class Message(Struct, frozen=True):
    """The part of a message that is read."""

    content: str | None = None


class Choice(Struct, frozen=True):
    """One answer; `finish_reason` is `length` where the token limit cut it."""

    message: Message
    finish_reason: str | None = None


class Usage(Struct, frozen=True):
    """What the call cost, as the server counts."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(Struct, frozen=True):
    """The part of a chat completion that is read."""

    choices: list[Choice]
    usage: Usage | None = None


_completion = msgspec.json.Decoder(Completion)


class ChatClient:
    """One endpoint, one model, for one event loop. Close it."""

    def __init__(
        self,
        config: ChatConfig,
        *,
        rng: Random,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._rng = rng
        self._wall_clock_s = wall_clock_s
        self._budget = TokenBudget(config.tokens_per_minute, monotonic)
        self._free = asyncio.Semaphore(config.in_flight)
        self._openai = AsyncOpenAI(
            base_url=config.url,
            api_key=config.api_key or NO_KEY,
            timeout=None,  # the deadline of the call is the only one
            max_retries=0,  # its own retries know neither our deadline nor our counters
        )

    async def complete(self, *, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """Returns what the model says, not yet checked against `schema`. Raises `ChatFailed`."""
        begun = time.monotonic()
        try:
            completion = await self._within_budget(system, user, schema)
            text = self._text(completion)
        except ChatFailed as error:
            metrics.CHAT_CALLS.labels(result=error.fault.value).inc()
            raise
        finally:
            metrics.CHAT_SECONDS.observe(time.monotonic() - begun)
        metrics.CHAT_CALLS.labels(result="answered").inc()
        return text

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._openai.close()

    async def _within_budget(self, system: str, user: str, schema: Mapping[str, Any]) -> Completion:
        reserved = estimated_tokens(system + user) + self._config.max_tokens
        if not self._budget.reserve(reserved):
            raise self._failed(ChatFault.BUDGET, f"{reserved} tokens wanted, fewer are left")
        used = reserved  # a call that is cut may go on in the server
        try:
            completion = await self._within_deadline(self._body(system, user, schema))
            used = _counted(completion.usage, reserved)
        except ChatFailed as error:
            if error.fault in NOT_SERVED:
                used = 0
            raise
        finally:
            self._budget.settle(reserved, used)
        return completion

    async def _within_deadline(self, body: Mapping[str, Any]) -> Completion:
        seconds = self._config.deadline_ms / 1_000
        until_s = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(until_s), self._free:
                with metrics.CHAT_IN_FLIGHT.track_inprogress():
                    return await self._attempts(body, until_s)
        except TimeoutError as error:
            raise self._failed(ChatFault.DEADLINE, f"nothing within {seconds} s") from error

    async def _attempts(self, body: Mapping[str, Any], until_s: float) -> Completion:
        """Tries again while it may help and time is left. Raises `ChatFailed`."""
        attempt = 0
        while True:
            try:
                reply = await self._openai.chat.completions.with_raw_response.create(**body)
                return _completion.decode(reply.content)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
                raise self._failed(ChatFault.BAD_REPLY, str(error)) from error
            except OpenAIError as error:
                fault, detail, asked_s = self._judged(error)
                pause_s = pause_before(attempt, asked_s, self._rng)
                attempt += 1
                late = asyncio.get_running_loop().time() + pause_s >= until_s
                if fault not in RETRIED or attempt >= self._config.attempts or late:
                    raise self._failed(fault, f"{detail}, attempt {attempt}") from error
            metrics.CHAT_RETRIES.labels(cause=fault.value).inc()
            await asyncio.sleep(pause_s)

    def _judged(self, error: OpenAIError) -> tuple[ChatFault, str, float]:
        """Returns the fault, words about it, and the seconds that the server asks to wait."""
        if not isinstance(error, APIStatusError):
            return ChatFault.CONNECTION, repr(error.__cause__ or error)[:MAX_DETAIL], 0.0
        asked_s = retry_after_s(error.response.headers.get("retry-after"), self._wall_clock_s())
        detail = f"HTTP {error.status_code}"
        if error.status_code == TOO_MANY_REQUESTS:
            return ChatFault.RATE_LIMITED, detail, asked_s
        if error.status_code >= 500:
            return ChatFault.SERVER_ERROR, detail, asked_s
        return ChatFault.REFUSED, f"{detail}: {error.message[:MAX_DETAIL]}", 0.0

    def _text(self, completion: Completion) -> str:
        choice = completion.choices[0] if completion.choices else None
        if choice is not None and choice.finish_reason == "length":
            raise self._failed(ChatFault.TRUNCATED, f"more than {self._config.max_tokens} tokens")
        if choice is None or not choice.message.content:
            raise self._failed(ChatFault.BAD_REPLY, "a completion without an answer")
        return choice.message.content

    def _body(self, system: str, user: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "max_tokens": self._config.max_tokens,
            "temperature": 0.0,  # the same window, the same instruction, as far as the server can
        }
        if self._config.structured:
            named = {"name": "instruction", "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def _failed(self, fault: ChatFault, detail: str) -> ChatFailed:
        return ChatFailed(
            fault=fault,
            host=self._config.url.rpartition("@")[2],  # a password before it stays here
            model=self._config.model,
            detail=detail,
        )


def pause_before(attempt: int, asked_s: float, rng: Random) -> float:
    """Returns the pause after attempt 0, 1, ...: what the server asks for, and full jitter on top.

    Without the jitter 64 calls that were refused together would come back together.
    """
    return asked_s + rng.uniform(0, min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt))


def retry_after_s(header: str | None, now_s: float) -> float:
    """Returns the seconds of a Retry-After header: a number or a date; 0 where it is neither."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_s)
    except ValueError:
        return 0.0


def _counted(usage: Usage | None, reserved: int) -> int:
    """Counts a reply's tokens and returns them; a server that counts none costs what we guessed."""
    if usage is None:
        return reserved
    metrics.CHAT_TOKENS.labels(kind="prompt").inc(max(0, usage.prompt_tokens))
    metrics.CHAT_TOKENS.labels(kind="completion").inc(max(0, usage.completion_tokens))
    return max(0, usage.prompt_tokens) + max(0, usage.completion_tokens)
