"""The chat client against a real HTTP server: every fault has its name, within the deadline."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate
from random import Random

import pytest

from streams import metrics
from streams.chat_client import ChatClient, pause_before, retry_after_s
from streams.chat_faults import ChatFailed, ChatFault
from streams.connections import ChatConfig
from tests.streams.chat_server import GOOD, ChatServer, Reply, chat_server, completion

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class NoPause(Random):
    """Draws the shortest pause."""

    def uniform(self, a: float, b: float) -> float:
        return a


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)


@asynccontextmanager
async def client(url: str, **changes: object) -> AsyncIterator[ChatClient]:
    settings: dict[str, object] = {"url": url, "model": "small", "deadline_ms": 5_000, **changes}
    made = ChatClient(ChatConfig(**settings), rng=NoPause())  # type: ignore[arg-type]
    try:
        yield made
    finally:
        await made.aclose()


async def ask(server: ChatServer, **changes: object) -> str:
    async with client(server.url, **changes) as chat:
        return await chat.complete(system="rules", user="data", schema=SCHEMA)


async def fault_of(server: ChatServer, **changes: object) -> ChatFault:
    with pytest.raises(ChatFailed) as caught:
        await ask(server, **changes)
    return caught.value.fault


def counted(fault: str) -> float:
    return float(metrics.CHAT_CALLS.labels(result=fault)._value.get())


async def test_a_call_is_one_chat_completion_with_limits_and_schema() -> None:
    async with chat_server() as server:
        assert await ask(server, max_tokens=77, api_key="secret") == GOOD
    assert server.paths == ["POST /v1/chat/completions HTTP/1.1"]
    assert server.headers[0]["authorization"] == "Bearer secret"
    assert server.requests == [
        {
            "model": "small",
            "messages": [
                {"role": "system", "content": "rules"},
                {"role": "user", "content": "data"},
            ],
            "max_tokens": 77,
            "temperature": 0.0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "instruction", "schema": SCHEMA},
            },
        }
    ]


async def test_a_server_without_structured_output_is_not_asked_for_it() -> None:
    async with chat_server() as server:
        assert await ask(server, structured=False) == GOOD
    assert "response_format" not in server.requests[0]


async def test_tokens_are_counted_as_the_server_counts_them() -> None:
    prompt, reply = (metrics.CHAT_TOKENS.labels(kind=k)._value for k in ("prompt", "completion"))
    before = (prompt.get(), reply.get())
    async with chat_server() as server:
        await ask(server)
    assert (prompt.get() - before[0], reply.get() - before[1]) == (200, 12)


async def test_a_slow_server_costs_the_deadline_and_no_more() -> None:
    async with chat_server(Reply(body=completion(), delay_s=5)) as server:
        begun = time.monotonic()
        assert await fault_of(server, deadline_ms=150) is ChatFault.DEADLINE
        assert 0.14 < time.monotonic() - begun < 1.5


async def test_a_429_is_tried_again_when_the_server_says() -> None:
    limited = Reply(status=429, headers={"retry-after": "0.2"}, body=b"{}")
    async with chat_server(limited, Reply(body=completion())) as server:
        assert await ask(server) == GOOD
    assert server.at_s[1] - server.at_s[0] >= 0.2


async def test_a_retry_after_beyond_the_deadline_fails_at_once() -> None:
    before = counted("rate_limited")
    async with chat_server(Reply(status=429, headers={"retry-after": "60"}, body=b"{}")) as server:
        begun = time.monotonic()
        assert await fault_of(server) is ChatFault.RATE_LIMITED
        assert time.monotonic() - begun < 2
    assert len(server.bodies) == 1
    assert counted("rate_limited") == before + 1


async def test_500s_and_then_success_is_success() -> None:
    retries = metrics.CHAT_RETRIES.labels(cause="server_error")._value
    before = retries.get()
    broken = Reply(status=500, body=b"out of memory")
    async with chat_server(broken, broken, Reply(body=completion())) as server:
        assert await ask(server) == GOOD
    assert len(server.bodies) == 3
    assert retries.get() == before + 2


async def test_a_server_that_stays_broken_gets_so_many_attempts() -> None:
    async with chat_server(Reply(status=503)) as server:
        assert await fault_of(server, attempts=3) is ChatFault.SERVER_ERROR
    assert len(server.bodies) == 3


async def test_a_request_that_is_refused_is_not_sent_again() -> None:
    refusal = Reply(status=404, body=b'{"error": {"message": "no model small"}}')
    async with chat_server(refusal) as server:
        with pytest.raises(ChatFailed, match="no model small") as caught:
            await ask(server)
    assert caught.value.fault is ChatFault.REFUSED
    assert len(server.bodies) == 1


@pytest.mark.parametrize("sent", [0, 30, 150])
async def test_a_disconnect_is_tried_again_and_then_named(sent: int) -> None:
    cut = Reply(body=completion(), hang_up=sent)
    async with chat_server(cut, Reply(body=completion())) as server:
        assert await ask(server) == GOOD
    async with chat_server(cut) as server:
        assert await fault_of(server, attempts=2) is ChatFault.CONNECTION
    assert len(server.bodies) == 2


async def test_a_server_that_is_not_there_is_a_connection_fault() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with client(url, attempts=2) as chat:
            with pytest.raises(ChatFailed) as caught:
                await chat.complete(system="s", user="u", schema=SCHEMA)
    assert caught.value.fault is ChatFault.CONNECTION


async def test_a_reply_that_is_no_completion_is_a_bad_reply_and_not_tried_again() -> None:
    replies = [
        Reply(body=b'{"choices": ['),
        Reply(body=b"<html>", headers={"content-type": "text/html"}),
        Reply(body=b"[]"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": {"content": 7}}]}'),
        Reply(body=completion(None)),
        Reply(body=completion("")),
        Reply(body=b"\xff\xfe"),
        Reply(body=b"[" * 100_000),
    ]
    async with chat_server(*replies) as server, client(server.url) as chat:
        for _ in replies:
            with pytest.raises(ChatFailed) as caught:
                await chat.complete(system="s", user="u", schema=SCHEMA)
            assert caught.value.fault is ChatFault.BAD_REPLY
    assert len(server.bodies) == len(replies)


async def test_an_answer_that_the_token_limit_cut_is_not_used() -> None:
    async with chat_server(Reply(body=completion('{"text": "umb', "length"))) as server:
        assert await fault_of(server) is ChatFault.TRUNCATED


async def test_64_calls_are_in_flight_at_most() -> None:
    async with (
        chat_server(Reply(body=completion(), delay_s=0.05)) as server,
        client(server.url, in_flight=64) as chat,
    ):
        calls = (chat.complete(system="s", user="u", schema=SCHEMA) for _ in range(130))
        assert await asyncio.gather(*calls) == [GOOD] * 130
    assert server.most_in_hand == 64
    assert metrics.CHAT_IN_FLIGHT._value.get() == 0


async def test_waiting_for_a_slot_counts_against_the_deadline() -> None:
    async with (
        chat_server(Reply(body=completion(), delay_s=0.2)) as server,
        client(server.url, in_flight=1, deadline_ms=300) as chat,
    ):
        calls = [chat.complete(system="s", user="u", schema=SCHEMA) for _ in range(3)]
        first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert first == GOOD
    assert [type(one) for one in others] == [ChatFailed, ChatFailed]


async def test_beyond_the_budget_nothing_is_sent() -> None:
    async with (
        chat_server() as server,
        client(server.url, tokens_per_minute=400, max_tokens=160) as chat,
    ):
        # 164 tokens are reserved and 212 were used: the second call finds fewer than it wants.
        assert await chat.complete(system="rules", user="data", schema=SCHEMA) == GOOD
        assert await chat.complete(system="rules", user="data", schema=SCHEMA) == GOOD
        with pytest.raises(ChatFailed) as caught:
            await chat.complete(system="rules", user="data", schema=SCHEMA)
    assert caught.value.fault is ChatFault.BUDGET
    assert len(server.bodies) == 2


async def test_a_call_that_was_not_served_costs_no_tokens_and_a_late_one_does() -> None:
    late = Reply(body=completion(), delay_s=2)
    async with (
        chat_server(Reply(status=400), Reply(status=400), late) as server,
        client(server.url, tokens_per_minute=170, deadline_ms=100) as chat,
    ):
        faults = []
        for _ in range(4):
            with pytest.raises(ChatFailed) as caught:
                await chat.complete(system="rules", user="data", schema=SCHEMA)
            faults.append(caught.value.fault)
    assert faults == [ChatFault.REFUSED] * 2 + [ChatFault.DEADLINE, ChatFault.BUDGET]


def test_pauses_grow_are_spread_and_never_shorter_than_asked() -> None:
    rng = Random(1)
    drawn = [[pause_before(attempt, 0.0, rng) for _ in range(400)] for attempt in range(8)]
    tops = [0.25, 0.5, 1, 2, 4, 4, 4, 4]
    for pauses, top in zip(drawn, tops, strict=True):
        assert 0.9 * top < max(pauses) <= top
        assert min(pauses) < 0.1 * top
    assert all(pause_before(3, 1.5, rng) >= 1.5 for _ in range(100))


def test_retry_after_is_seconds_or_a_date_or_nothing() -> None:
    now_s = 1_767_225_600.0
    assert retry_after_s("1.5", now_s) == 1.5
    assert retry_after_s(formatdate(now_s + 30, usegmt=True), now_s) == 30
    assert [retry_after_s(h, now_s) for h in (None, "", "soon", "-3", "nan")] == [0.0] * 5
    assert retry_after_s(formatdate(now_s - 30, usegmt=True), now_s) == 0.0


def test_an_error_names_the_host_and_not_its_password() -> None:
    async def refused() -> str:
        async with client("http://me:hush@127.0.0.1:9/v1", tokens_per_minute=1) as chat:
            return await chat.complete(system="s", user="u", schema=SCHEMA)

    with pytest.raises(ChatFailed, match=r"127\.0\.0\.1:9/v1") as caught:
        asyncio.run(refused())
    assert "hush" not in str(caught.value)
