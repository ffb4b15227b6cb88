"""An instruction says what was known at the end of its window, under deterministic names."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from agents.instruction_composer import Composer, since
from agents.text_encoders import AT_ONCE, InProcessEncoder
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.text_encoder import CharacterEncoder
from models.vectors import unpack
from schemas.actions import ActionType, UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, item_key_of
from schemas.instructions import InstructionKind, InstructionTrigger
from schemas.users import UserProfile
from streams.redis_history import behaviour_of

END_MS = 1_767_225_600_000
ENCODER = CharacterEncoder.fit(["red umbrella", "copper kettle", "winter morning", "likes Rain"])


def action(event: str, kind: ActionType, item: str | None, before_ms: int) -> UserAction:
    return UserAction(
        event_id=event,
        user_id="ann",
        action=kind,
        item_id=item,
        query="red umbrella" if kind is ActionType.SEARCH else None,
        event_time_ms=END_MS - before_ms,
    )


class Memory:
    """History, items and profiles in dictionaries: the ports, satisfied without a server."""

    def __init__(self, behaviour: list[Behaviour]) -> None:
        self.behaviour = behaviour

    async def recent(self, user_id: str, count: int) -> list[Behaviour]:
        return self.behaviour[-count:]

    async def rows(self, item_keys: Sequence[int]) -> Mapping[int, ItemRow]:
        return {
            key: ItemRow(item_key=key, item_id="k", live=True, title="kettle", category="Kitchen")
            for key in item_keys
            if key == item_key_of("kettle")
        }

    async def popular(self, scenario: str, count: int) -> list[int]:
        return []

    async def profile(self, user_id: str) -> UserProfile | None:
        return UserProfile(user_id=user_id, city="Lima")


def composer(*actions: UserAction) -> Composer:
    memory = Memory([behaviour_of(a) for a in actions])
    return Composer(
        generation=3,
        reasoner=LocalReasoner(),
        encoder=InProcessEncoder(ENCODER, ThreadPoolExecutor(1), at_once=AT_ONCE),
        history=memory,
        items=memory,
        profiles=memory,
        history_length=200,
    )


def trigger(*actions: UserAction) -> InstructionTrigger:
    return InstructionTrigger(
        trigger_id="ann:1",
        user_id="ann",
        window_start_ms=END_MS - 300_000,
        window_end_ms=END_MS,
        actions=list(actions),
    )


def test_of_a_trigger_only_what_came_after_the_erasure_is_kept() -> None:
    before, after = (action(e, ActionType.ORDER, "kettle", ms) for e, ms in (("1", 20), ("2", 5)))
    both = trigger(before, after)
    assert since(both, None) == both
    assert since(both, END_MS - 20) == trigger(after)
    assert since(both, END_MS - 5) is None
    assert since(trigger(), END_MS - 1) == trigger()  # a refresh
    assert since(trigger(), END_MS) is None


async def test_ids_and_time_follow_from_the_trigger_and_the_generation() -> None:
    search = action("1", ActionType.SEARCH, None, 1_000)
    made = await composer(search).compose(trigger(search), now_ms=END_MS + 5)
    assert (made.instruction_id, made.trigger_id) == ("ann:1:3", "ann:1")
    assert (made.as_of_ms, made.created_ms, made.generation) == (END_MS, END_MS + 5, 3)
    assert made.encoder_id == ENCODER.encoder_id


async def test_the_vector_is_the_texts() -> None:
    search = action("1", ActionType.SEARCH, None, 1_000)
    made = await composer(search).compose(trigger(search), now_ms=END_MS)
    assert made.kind is InstructionKind.QUERY_REWRITE
    assert "red umbrella" in made.text
    np.testing.assert_allclose(unpack(made.vector), ENCODER.encode([made.text])[0], atol=1e-3)


async def test_what_came_after_the_window_is_not_known() -> None:
    cart = action("1", ActionType.CART, "kettle", 1_000)
    later = action("2", ActionType.SEARCH, None, -1)
    alone = await composer(cart).compose(trigger(cart), now_ms=END_MS)
    with_later = await composer(cart, later).compose(trigger(cart), now_ms=END_MS)
    assert with_later == alone
    assert "kettle" in alone.text
    assert "Lima" in alone.text
