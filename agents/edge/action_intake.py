"""Takes actions in: a result for each, and Kafka's acknowledgement before `accepted` is said.

A dry run judges in the same way and sends nothing.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import StrEnum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from agents.edge.http_bodies import ElementDecoder, elements, event_id_in
from schemas.actions import UserAction
from schemas.dead_letters import Rejection, reject_action
from schemas.errors import InvalidRecord
from streams import metrics
from streams.dead_letters import rejection_of
from streams.producer import Delivered

logger = logging.getLogger(__name__)

YIELD_EVERY = 100  # decoding 1,000 actions takes 5-10 ms: a recommendation must not wait for it


class Status(StrEnum):
    """What became of one element. `duplicate`: its event id came earlier in this request."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    UNACKNOWLEDGED = "unacknowledged"


class ActionResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one element, in the order of the request."""

    event_id: str | None
    status: Status
    rejection: Rejection | None = None


class ActionsAnswer(Struct, frozen=True, kw_only=True):
    """Counts, the ids to send again (with the same ids), and one result an element.

    `dry_run`: what is called accepted was judged only, and is not in Kafka.
    """

    accepted: int
    duplicate: int
    rejected: int
    unacknowledged: list[str]
    results: list[ActionResult]
    dry_run: bool = False


class ActionIntake:
    """`send` produces one action to Kafka; an action counts as accepted when its future is done."""

    def __init__(
        self,
        *,
        send: Callable[[UserAction], Future[Delivered]],
        scenarios: frozenset[str],
        now_ms: Callable[[], int],
        max_actions: int,
        acknowledge_ms: int,
    ) -> None:
        self._send = send
        self._scenarios = scenarios
        self._now_ms = now_ms
        self._max_actions = max_actions
        self._acknowledge_ms = acknowledge_ms
        self._decoder = ElementDecoder(UserAction)

    async def take(self, body: bytes, *, dry_run: bool = False) -> ActionsAnswer:
        """Returns when everything acceptable is acknowledged, or the wait for that is over.

        A dry run judges only: nothing is sent, nothing is counted. Raises `InvalidRecord` where
        nothing can be decoded, `BodyTooLarge`.
        """
        results: list[ActionResult] = []
        sent: dict[int, Future[Delivered]] = {}
        seen: set[str] = set()
        for index, element in enumerate(elements(body, self._max_actions)):
            if index % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            action, result = self._judge(element, seen)
            results.append(result)
            if action is not None and not dry_run:
                sent[index] = self._send(action)
        for index in await self._unacknowledged(sent):
            results[index] = replace(results[index], status=Status.UNACKNOWLEDGED)
            logger.warning("action not acknowledged", extra={"event": results[index].event_id})
        if not dry_run:
            _count(results)
        return answer_of(results, dry_run=dry_run)

    def _judge(self, element: Any, seen: set[str]) -> tuple[UserAction | None, ActionResult]:
        """Returns the action if it is to be sent, and the element's result if all goes well."""
        try:
            action = self._decoder.decode(element)
        except InvalidRecord as error:
            return None, ActionResult(
                event_id=event_id_in(element),
                status=Status.REJECTED,
                rejection=rejection_of(error),
            )
        rejection = reject_action(action, now_ms=self._now_ms(), scenarios=self._scenarios)
        if rejection is not None:
            rejected = ActionResult(
                event_id=action.event_id, status=Status.REJECTED, rejection=rejection
            )
            return None, rejected
        if action.event_id in seen:
            return None, ActionResult(event_id=action.event_id, status=Status.DUPLICATE)
        seen.add(action.event_id)
        return action, ActionResult(event_id=action.event_id, status=Status.ACCEPTED)

    async def _unacknowledged(self, sent: dict[int, Future[Delivered]]) -> list[int]:
        """Waits for the acknowledgements; returns the places of those that did not come."""
        if not sent:
            return []
        waits = {asyncio.wrap_future(future): index for index, future in sent.items()}
        done, pending = await asyncio.wait(waits, timeout=self._acknowledge_ms / 1_000)
        for wait in pending:
            wait.add_done_callback(_retrieve)  # it may still fail; nobody asks any more
        failed = [waits[wait] for wait in done if wait.exception() is not None]
        return sorted([*failed, *(waits[wait] for wait in pending)])


def answer_of(results: Sequence[ActionResult], *, dry_run: bool = False) -> ActionsAnswer:
    """Returns the results with their counts."""
    counts = Counter(one.status for one in results)
    lost = [r.event_id for r in results if r.status is Status.UNACKNOWLEDGED and r.event_id]
    return ActionsAnswer(
        accepted=counts[Status.ACCEPTED],
        duplicate=counts[Status.DUPLICATE],
        rejected=counts[Status.REJECTED],
        unacknowledged=lost,
        results=list(results),
        dry_run=dry_run,
    )


def _count(results: Sequence[ActionResult]) -> None:
    counts = Counter(one.status for one in results)
    for status in Status:
        metrics.ACTIONS.labels(result=status).inc(counts[status])


def _retrieve(wait: "asyncio.Future[Delivered]") -> None:
    if not wait.cancelled():
        wait.exception()
