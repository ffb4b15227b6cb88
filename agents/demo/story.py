"""One customer's story: a slate, a search (or an order), the instruction, the slate after it."""

import asyncio
from dataclasses import dataclass

from agents.demo.edge_client import EdgeClient
from agents.demo.source import Customer
from agents.demo.traffic import item_ids_of, now_ms
from agents.edge.recommendation_api import RecommendationAnswer
from schemas.actions import ActionType, UserAction

ASK_EVERY_S = 0.5
WAIT_S = 25.0  # a window of 5 s, its grace, the watermark's lag of 2 s, the writer
ASKS = 5
TRIES = 40  # steps until the customer says what it looks for in words


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened; `after` is None when no new instruction came in time."""

    user_id: str
    cause: UserAction | None
    before: RecommendationAnswer | None
    after: RecommendationAnswer | None


async def live_story(customer: Customer, edge: EdgeClient, telling: ActionType) -> Story:
    """Lets one customer act up to a `telling` action; asks until the new instruction is served."""
    before, cause = await _until_telling(customer, edge, telling)
    after: RecommendationAnswer | None = None
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while cause is not None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(ASK_EVERY_S)
        answer = await edge.recommend(customer.user_id, "home")
        if answer is not None and _newer(answer, before):
            after = answer
            break
    return Story(user_id=customer.user_id, cause=cause, before=before, after=after)


async def _until_telling(
    customer: Customer, edge: EdgeClient, telling: ActionType
) -> tuple[RecommendationAnswer | None, UserAction | None]:
    before: RecommendationAnswer | None = None
    for _ in range(TRIES):
        before = await _generated(customer, edge)
        actions = customer.next_actions(now_ms())
        if not actions and before is not None:
            actions = customer.react(item_ids_of(before), before.request_id, now_ms())
        await edge.send(actions)
        for action in actions:
            if action.action is telling:
                return before, action
    return before, None


async def _generated(customer: Customer, edge: EdgeClient) -> RecommendationAnswer | None:
    """Asks until the generator answered in time, a few times: popular items tell nothing."""
    answer = None
    for _ in range(ASKS):
        answer = await edge.recommend(customer.user_id, "home")
        if answer is not None and answer.degraded is None:
            break
    return answer


def _newer(answer: RecommendationAnswer, before: RecommendationAnswer | None) -> bool:
    if answer.instruction is None or answer.degraded is not None:
        return False
    old = before.instruction if before else None
    return old is None or answer.instruction.id != old.id
