"""A model reasons, or the local reasoner does: never neither. And what reaches the server."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from agents.ports import Reasoner
from agents.reasoners import open_reasoner
from agents.settings import InvalidSetting, load_settings
from models.reasoning.context import Reasoning
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.prompting import MAX_TEXT
from schemas.instructions import InstructionKind
from streams import metrics
from tests.models.reasoning.test_brief import NOW_MS, PRIVATE, full_context
from tests.streams.chat_server import ChatServer, Reply, chat_server, completion

CONTEXT = full_context()
LOCAL = LocalReasoner().compose(CONTEXT)


@asynccontextmanager
async def reasoner(
    server: ChatServer, now_ms: int = NOW_MS, **chat: object
) -> AsyncIterator[Reasoner]:
    """The reasoner of the settings `chat.*`, with a server of this process."""
    environment = {
        "OXYGENREC_INSTRUCTIONS__REASONER": "chat",
        "OXYGENREC_CHAT__URL": server.url,
        "OXYGENREC_CHAT__MODEL": "small",
        "OXYGENREC_BRIEF__ATTRIBUTES": "language",
    }
    environment |= {f"OXYGENREC_CHAT__{key.upper()}": str(value) for key, value in chat.items()}
    async with open_reasoner(load_settings(environment), lambda: now_ms) as opened:
        yield opened


async def reasoned(server: ChatServer, now_ms: int = NOW_MS, **chat: object) -> Reasoning:
    async with reasoner(server, now_ms, **chat) as opened:
        return await opened.reason(CONTEXT)


def fallbacks(reason: str) -> float:
    return float(metrics.REASONING_FALLBACKS.labels(reason=reason)._value.get())


async def test_the_models_text_is_the_instruction_and_names_model_and_prompts() -> None:
    async with chat_server() as server:
        made = await reasoned(server)
    assert (made.kind, made.text) == (InstructionKind.QUERY_REWRITE, "umbrella, rain jacket")
    assert made.reasoner.startswith("chat/small/")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(status=400, body=b"{}"), "refused"),
        (Reply(status=500, body=b"{}"), "server_error"),
        (Reply(status=429, headers={"retry-after": "90"}, body=b"{}"), "rate_limited"),
        (Reply(body=completion(), hang_up=40), "connection"),
        (Reply(body=completion(), delay_s=2), "deadline"),
        (Reply(body=b"no json"), "bad_reply"),
        (Reply(body=completion('{"text": "um', "length")), "truncated"),
        (Reply(body=completion("Sure! Umbrellas.")), "malformed"),
        (Reply(body=completion('{"text": "x", "role": "system"}')), "schema"),
        (Reply(body=completion(json.dumps({"text": "x" * (MAX_TEXT + 1)}))), "schema"),
    ],
)
async def test_whatever_goes_wrong_the_local_text_is_used_and_the_reason_counted(
    reply: Reply, reason: str
) -> None:
    before = fallbacks(reason)
    async with chat_server(reply) as server:
        assert await reasoned(server, deadline_ms=200, attempts=1) == LOCAL
    assert fallbacks(reason) == before + 1


async def test_a_spent_budget_and_a_backlog_send_nothing() -> None:
    before = (fallbacks("budget"), fallbacks("backlog"))
    async with chat_server() as server:
        assert await reasoned(server, tokens_per_minute=1) == LOCAL
        assert await reasoned(server, now_ms=NOW_MS + 60_001) == LOCAL
        assert (await reasoned(server, now_ms=NOW_MS + 60_000)) != LOCAL
    assert len(server.bodies) == 1
    assert (fallbacks("budget"), fallbacks("backlog")) == (before[0] + 1, before[1] + 1)


async def test_a_refresh_speaks_of_an_old_window_and_is_no_backlog() -> None:
    refresh = replace(CONTEXT, window=())
    async with chat_server() as server, reasoner(server, NOW_MS + 600_000) as opened:
        made = await opened.reason(refresh)
    assert made.kind is InstructionKind.PROFILE
    assert made.reasoner.startswith("chat/small/")


async def test_no_id_and_no_attribute_off_the_list_is_in_a_request() -> None:
    async with chat_server() as server:
        await reasoned(server)
    (body,) = server.bodies
    assert b"query-words" in body
    assert b"language-value" in body
    assert PRIVATE.encode() not in body
    assert set(json.loads(body)) == {
        "model", "messages", "max_tokens", "temperature", "response_format",
    }  # fmt: skip


@pytest.mark.parametrize("key", ["url", "model"])
async def test_a_chat_reasoner_without_endpoint_is_refused_by_its_setting(key: str) -> None:
    given = {"url": "http://127.0.0.1:8000/v1", "model": "small"} | {key: ""}
    environment = {f"OXYGENREC_CHAT__{name.upper()}": value for name, value in given.items()}
    settings = load_settings({"OXYGENREC_INSTRUCTIONS__REASONER": "chat", **environment})
    with pytest.raises(InvalidSetting, match=rf"chat\.{key}"):
        async with open_reasoner(settings, lambda: NOW_MS):
            pass


async def test_without_a_setting_nobody_is_asked() -> None:
    async with open_reasoner(load_settings({}), lambda: NOW_MS) as opened:
        assert await opened.reason(CONTEXT) == LOCAL
