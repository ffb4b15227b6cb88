import asyncio
import time

from agents.demo.edge_client import EdgeClient
from agents.demo.story import live_story
from agents.demo.traffic import run_traffic
from agents.edge.recommendation_api import (
    InstructionShown,
    RecommendationAnswer,
    RecommendedItem,
)
from schemas.actions import ActionType, UserAction


class RecordedEdge(EdgeClient):
    """Answers by itself; remembers what it was asked and sent, in order."""

    def __init__(self, instruction_after_asks: int | None = None) -> None:
        super().__init__("http://127.0.0.1:9")
        self.log: list[tuple[str, object]] = []
        self.asked_s: list[float] = []
        self._instruct_after = instruction_after_asks

    async def send(self, actions: object) -> None:
        self.log.append(("send", actions))

    async def recommend(
        self, user_id: str, scenario: str, **more: str | None
    ) -> RecommendationAnswer | None:
        self.asked_s.append(time.monotonic())
        self.log.append(("ask", (user_id, scenario, more)))
        after = self._instruct_after
        told = after is not None and len(self.asked_s) > after
        return RecommendationAnswer(
            request_id=f"r{len(self.asked_s)}",
            items=[RecommendedItem(item_id="i", semantic_id="1-2-3", score=-1.0)],
            policy_version=1,
            generation=1,
            index_offset=5,
            instruction=InstructionShown(id="n", text="umbrellas", age_ms=1) if told else None,
            degraded=None,
        )


class Walker:
    """Looks twice, then searches; reacts with nothing."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.reacted: list[str] = []
        self._steps = 0

    def next_actions(self, now_ms: int) -> list[UserAction]:
        self._steps += 1
        kind = ActionType.SEARCH if self._steps % 3 == 0 else ActionType.CLICK
        return [
            UserAction(
                event_id=f"{self.user_id}-{self._steps}",
                user_id=self.user_id,
                action=kind,
                event_time_ms=now_ms,
                item_id="i",
                query="brolly" if kind is ActionType.SEARCH else None,
            )
        ]

    def react(
        self, item_ids: list[str], request_id: str, now_ms: int, scenario: str = "home"
    ) -> list[UserAction]:
        self.reacted.append(request_id)
        return []


def ended_after(seconds: float) -> asyncio.Event:
    ended = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, ended.set)
    return ended


async def test_traffic_keeps_to_its_rate_and_lets_everybody_take_turns() -> None:
    edge, walkers = RecordedEdge(), [Walker(f"u{number}") for number in range(5)]
    await run_traffic(walkers, edge, seed=0, ended=ended_after(0.6), requests_per_s=50)
    assert 20 <= len(edge.asked_s) <= 32  # 0.6 s at 50 a second
    assert all(len(walker.reacted) >= 3 for walker in walkers)


async def test_nobody_waits_for_a_turn_that_will_not_come() -> None:
    started_s, edge = time.monotonic(), RecordedEdge()
    await run_traffic([Walker("u")], edge, seed=0, ended=ended_after(0.2), requests_per_s=0.1)
    assert time.monotonic() - started_s < 2


async def test_a_search_page_carries_the_words_and_a_detail_page_its_item() -> None:
    edge = RecordedEdge()
    await run_traffic([Walker("u")], edge, seed=1, ended=ended_after(0.5), requests_per_s=200)
    about = {what[1]: what[2] for kind, what in edge.log if kind == "ask"}  # type: ignore[index]
    assert about["home"] == {}
    assert about["search"] == {"query": "brolly"}
    assert about["detail"] == {"trigger_item_id": "i"}


async def test_the_story_asks_before_the_search_and_until_the_instruction_is_served() -> None:
    edge = RecordedEdge(instruction_after_asks=4)
    story = await asyncio.wait_for(live_story(Walker("u"), edge, ActionType.SEARCH), timeout=10)
    assert story.cause is not None
    assert story.cause.query == "brolly"
    assert story.before is not None
    assert story.before.request_id == "r3"  # asked before the third step, the search, was sent
    assert story.after is not None
    assert story.after.instruction is not None
    sent = [what for kind, what in edge.log if kind == "send"]
    assert len(sent) == 3


async def test_the_story_of_one_who_never_searches_has_no_cause() -> None:
    edge = RecordedEdge()
    walker = Walker("u")
    story = await live_story(walker, edge, ActionType.DISLIKE)
    assert story.cause is None
    assert story.after is None
