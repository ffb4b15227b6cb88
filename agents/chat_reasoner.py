"""A language model in place of the local reasoner, which stands behind it for every failure.

What may leave is a `Brief` (an allow-list); what comes back is one checked line of text. Whatever
goes wrong on the way, the window gets the local text: an instruction is never lost, and the near
line waits no longer than the deadline of one call.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from models.reasoning.brief import BriefConfig, brief_of
from models.reasoning.context import Reasoning, ReasoningContext
from models.reasoning.instruction_kinds import kind_of
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.prompting import AnswerRefused, Prompts, answer_schema, text_of
from streams import metrics
from streams.chat_faults import ChatFailed

logger = logging.getLogger(__name__)


class Chat(Protocol):
    """Whoever answers a prompt (`streams.chat_client.ChatClient`)."""

    async def complete(self, *, system: str, user: str, schema: Mapping[str, Any]) -> str:
        """Returns the model's words. Raises `ChatFailed` within its deadline."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReasonerConfig:
    """`model` names the model in every instruction; `within_ms`: older windows are not its work."""

    model: str
    within_ms: int
    brief: BriefConfig


class ChatReasoner:
    """Reasons with a model (`agents.ports.Reasoner`)."""

    def __init__(
        self,
        config: ChatReasonerConfig,
        *,
        chat: Chat,
        local: LocalReasoner,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._chat = chat
        self._local = local
        self._now_ms = now_ms
        self._prompts = Prompts()
        self._schema = answer_schema()
        self._name = f"chat/{config.model}/{self._prompts.version}"

    @property
    def name(self) -> str:
        """Model and version of the prompts."""
        return self._name

    async def reason(self, context: ReasoningContext) -> Reasoning:
        """Returns the model's instruction, or the local reasoner's with its name. Never raises."""
        age_ms = self._now_ms() - context.as_of_ms
        if context.window and age_ms > self._config.within_ms:  # without one: a refresh, no backlog
            return self._fallback(context, "backlog")
        kind = kind_of(context.window)
        prompt = self._prompts.of(kind, brief_of(context, self._config.brief))
        try:
            answer = await self._chat.complete(
                system=prompt.system, user=prompt.user, schema=self._schema
            )
            text = text_of(answer)
        except ChatFailed as error:
            logger.warning("the model did not answer", extra={"cause": str(error)})
            return self._fallback(context, error.fault.value)
        except AnswerRefused as error:
            logger.warning("the model's answer is refused", extra={"cause": str(error)})
            return self._fallback(context, error.reason)
        return Reasoning(kind=kind, text=text, reasoner=self._name)

    def _fallback(self, context: ReasoningContext, reason: str) -> Reasoning:
        metrics.REASONING_FALLBACKS.labels(reason=reason).inc()
        return self._local.compose(context)
