"""A small HTTP server on loopback that speaks the chat completions protocol, faults included."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

GOOD = '{"text": "umbrella, rain jacket"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server does with one request; `hang_up`: it closes after so many bytes."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang_up: int | None = None


def completion(content: str | None = GOOD, finish: str = "stop", **more: object) -> bytes:
    """The body of a chat completion, as vLLM writes it."""
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1_767_225_600,
            "model": "small",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content, "tool_calls": []},
                    "logprobs": None,
                    "finish_reason": finish,
                }
            ],
            "usage": {"prompt_tokens": 200, "completion_tokens": 12, "total_tokens": 212},
            **more,
        }
    ).encode()


@dataclass
class ChatServer:
    """Gives the scripted replies in turn, the last one for ever; keeps every request body."""

    script: list[Reply]
    url: str = ""
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    in_hand: int = 0
    most_in_hand: int = 0

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until it is closed."""
        try:
            while request := await self._read(reader):
                self.paths.append(request[0])
                self.headers.append(request[1])
                self.bodies.append(request[2])
                self.at_s.append(asyncio.get_running_loop().time())
                reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                if not await self._reply(reply, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away: that is its right
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes] | None:
        line = await reader.readline()
        if not line:
            return None
        headers: dict[str, str] = {}
        while header := (await reader.readline()).strip():
            name, _, value = header.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return line.decode().strip(), headers, body

    async def _reply(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        try:
            await asyncio.sleep(reply.delay_s)
        finally:
            self.in_hand -= 1
        head = {"content-type": "application/json", "content-length": str(len(reply.body))}
        lines = [f"HTTP/1.1 {reply.status} x"]
        lines += [f"{name}: {value}" for name, value in {**head, **reply.headers}.items()]
        if reply.hang_up is not None:
            whole = "\r\n".join([*lines, "", ""]).encode() + reply.body
            writer.write(whole[: reply.hang_up])
            return False
        writer.write("\r\n".join([*lines, "", ""]).encode() + reply.body)
        await writer.drain()
        return True


@asynccontextmanager
async def chat_server(*script: Reply) -> AsyncIterator[ChatServer]:
    """Serves on a free port of loopback; `url` is the base address that a client wants."""
    made = ChatServer(script=list(script) or [Reply(body=completion())])
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
