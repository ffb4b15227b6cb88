"""The demo's only way in: HTTP to the edge, counted as a client sees it."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import msgspec

from agents.edge.action_intake import ActionsAnswer
from agents.edge.recommendation_api import RecommendationAnswer
from schemas.actions import UserAction

TIMEOUT_S = 10.0  # the edge answers 503 by itself after 5 s without an acknowledgement
KEPT_COMPLAINTS = 5

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ClientCounts:
    """What the clients saw. `versions` are those of answers that were not degraded, in order."""

    sent: int = 0
    acknowledged: int = 0
    total: int = 0
    failed: int = 0
    degraded: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    first_version: int | None = None
    last_version: int | None = None
    complaints: list[str] = field(default_factory=list)


class EdgeClient:
    """An async context: posts actions, asks for slates, keeps count."""

    def __init__(self, url: str) -> None:
        self.counts = ClientCounts()
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S)

    async def __aenter__(self) -> Self:
        """Returns itself; connections open as they are needed."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def send(self, actions: Sequence[UserAction]) -> None:
        """Posts actions; those that the edge did not accept are counted as not acknowledged."""
        if not actions:
            return
        self.counts.sent += len(actions)
        body = msgspec.json.encode(list(actions))
        try:
            response = await self._http.post(
                "/v1/actions", content=body, headers={"content-type": "application/json"}
            )
            answer = msgspec.json.decode(response.content, type=ActionsAnswer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            self._complain(f"actions: {type(error).__name__} {error}")
            return
        self.counts.acknowledged += answer.accepted
        if answer.accepted < len(actions):
            self._complain(f"actions: {response.status_code} {response.text[:300]}")

    async def recommend(
        self, user_id: str, scenario: str, **more: str | None
    ) -> RecommendationAnswer | None:
        """Asks for a slate; None when the request failed."""
        asked = {"user_id": user_id, "scenario": scenario}
        asked |= {name: value for name, value in more.items() if value is not None}
        self.counts.total += 1
        started = time.perf_counter()
        try:
            response = await self._http.post("/v1/recommendations", json=asked)
            response.raise_for_status()
            answer = msgspec.json.decode(response.content, type=RecommendationAnswer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            self.counts.failed += 1
            self._complain(f"recommendations: {type(error).__name__} {error}")
            return None
        self.counts.latencies_ms.append(1_000 * (time.perf_counter() - started))
        self._note(answer)
        return answer

    def _note(self, answer: RecommendationAnswer) -> None:
        if answer.degraded is not None:
            self.counts.degraded += 1
            return
        if self.counts.first_version is None:
            self.counts.first_version = answer.policy_version
        self.counts.last_version = answer.policy_version

    def _complain(self, what: str) -> None:
        logger.warning("the edge refused", extra={"what": what})
        if len(self.counts.complaints) < KEPT_COMPLAINTS:
            self.counts.complaints.append(what)
