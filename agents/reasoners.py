"""Chooses who reasons: `instructions.reasoner` is `local` or `chat`."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

from agents.chat_reasoner import ChatReasoner, ChatReasonerConfig
from agents.ports import Reasoner
from agents.settings import InvalidSetting, Settings
from models.reasoning.local_reasoner import LocalReasoner


@asynccontextmanager
async def open_reasoner(settings: Settings, now_ms: Callable[[], int]) -> AsyncIterator[Reasoner]:
    """Yields the reasoner of the settings. Raises `InvalidSetting`: an endpoint needs a name."""
    local = LocalReasoner()
    if settings.instructions.reasoner == "local":
        yield local
        return
    for name in ("url", "model"):
        if not getattr(settings.chat, name):
            raise InvalidSetting(
                key=f"chat.{name}",
                source="instructions.reasoner = chat",
                detail="found nothing, wanted an OpenAI-compatible endpoint: for example"
                " chat.url = http://127.0.0.1:8000/v1, and chat.model as its /models names it",
            )
    from streams.chat_client import ChatClient  # its import takes a second and 50 MiB

    chat = ChatClient(settings.chat, rng=Random())
    try:
        yield ChatReasoner(
            ChatReasonerConfig(
                model=settings.chat.model,
                within_ms=settings.instructions.model_within_ms,
                brief=settings.brief,
            ),
            chat=chat,
            local=local,
            now_ms=now_ms,
        )
    finally:
        await chat.aclose()
