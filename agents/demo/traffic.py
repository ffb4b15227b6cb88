"""Live traffic: customers act, ask for slates and react to them, at a bounded rate."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from random import Random

from agents.demo.edge_client import EdgeClient
from agents.demo.source import Customer
from agents.edge.recommendation_api import RecommendationAnswer
from schemas.actions import ActionType, UserAction

REQUESTS_PER_S = 20.0
AT_ONCE = 6  # turns: a slow machine gets fewer requests, not a queue of late answers
# Where customers are when they ask, as in the simulated shop's past.
SCENARIOS = {"home": 0.75, "search": 0.15, "detail": 0.10}


def now_ms() -> int:
    """Returns the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def item_ids_of(answer: RecommendationAnswer) -> list[str]:
    """Returns the slate, first position first."""
    return [item.item_id for item in answer.items]


class Visit:
    """One customer's turns: act, ask, react. Remembers what the next request is about."""

    def __init__(self, customer: Customer, edge: EdgeClient, rng: Random) -> None:
        self.customer = customer
        self._edge = edge
        self._rng = rng
        self._query: str | None = None
        self._last_item: str | None = None

    async def turn(self) -> None:
        """Sends what the customer does next, asks for a slate, sends the reaction."""
        await self._send(self.customer.next_actions(now_ms()))
        scenario, about = self._place()
        answer = await self._edge.recommend(self.customer.user_id, scenario, **about)
        if answer is not None:
            ids = item_ids_of(answer)
            await self._send(self.customer.react(ids, answer.request_id, now_ms(), scenario))

    async def _send(self, actions: Sequence[UserAction]) -> None:
        for action in actions:
            if action.action is ActionType.SEARCH:
                self._query = action.query
            elif action.action is not ActionType.EXPOSE:
                self._last_item = action.item_id
        await self._edge.send(actions)

    def _place(self) -> tuple[str, dict[str, str | None]]:
        scenario = self._rng.choices(list(SCENARIOS), list(SCENARIOS.values()))[0]
        if scenario == "search" and self._query:
            return scenario, {"query": self._query}
        if scenario == "detail" and self._last_item:
            return scenario, {"trigger_item_id": self._last_item}
        return "home", {}


async def run_traffic(
    customers: Sequence[Customer],
    edge: EdgeClient,
    *,
    seed: int,
    ended: asyncio.Event,
    requests_per_s: float = REQUESTS_PER_S,
) -> None:
    """Lets each customer take a turn in every cycle until `ended` is set, evenly spread over it."""
    cycle_s = len(customers) / requests_per_s
    visits = [Visit(c, edge, Random(f"{seed}:{c.user_id}")) for c in customers]
    starts = [cycle_s * place / len(customers) for place in range(len(customers))]
    doors = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        for visit, start_s in zip(visits, starts, strict=True):
            group.create_task(_live(visit, start_s, cycle_s, ended, doors))


async def _live(
    visit: Visit,
    start_s: float,
    cycle_s: float,
    ended: asyncio.Event,
    doors: asyncio.Semaphore,
) -> None:
    """Takes turns at fixed times; one that took longer than a cycle skips what it missed."""
    due = time.monotonic() + start_s
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), max(0.0, due - time.monotonic()))
        async with doors:
            if ended.is_set():
                return
            await visit.turn()
        due = max(due + cycle_s, time.monotonic())
