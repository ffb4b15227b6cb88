"""The local reasoner: what the text says, that it is pure, and that users cannot break it."""

from collections.abc import Sequence

import pytest

from models.reasoning.affinities import AffinityConfig, category_affinities
from models.reasoning.context import ReasoningContext
from models.reasoning.local_reasoner import LocalReasoner, LocalReasonerConfig
from models.reasoning.surroundings import day_part_of, season_of
from schemas.actions import ActionContext, ActionType, UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, item_key_of
from schemas.instructions import InstructionKind
from schemas.users import UserProfile

NOW_MS = 1_783_000_000_000  # 2026-07-02, 13:46 UTC
HOUR_MS = 3_600_000
SHELF = {"u1": "Outdoor > Umbrellas", "f1": "Cooling > Fans", "k1": "Kitchen > Knives"}
ITEMS = {
    item_key_of(item_id): ItemRow(
        item_key=item_key_of(item_id),
        item_id=item_id,
        live=True,
        title=f"Title {item_id}",
        category=category,
    )
    for item_id, category in SHELF.items()
}


def action(kind: ActionType, at_ms: int, what: str, city: str = "", tz: str = "") -> UserAction:
    searched = kind is ActionType.SEARCH
    return UserAction(
        event_id=f"{kind}-{at_ms}",
        user_id="user",
        action=kind,
        event_time_ms=at_ms,
        item_id=None if searched else what,
        query=what if searched else None,
        context=ActionContext(city=city, tz=tz, weather="rain") if city else None,
    )


def remembered(actions: Sequence[UserAction]) -> list[Behaviour]:
    return [
        Behaviour(
            event_id=a.event_id,
            action=a.action,
            event_time_ms=a.event_time_ms,
            item_key=item_key_of(a.item_id) if a.item_id else None,
            query=a.query,
        )
        for a in actions
    ]


def context(
    window: Sequence[UserAction], earlier: Sequence[UserAction] = (), as_of_ms: int = NOW_MS
) -> ReasoningContext:
    return ReasoningContext(
        user_id="user",
        as_of_ms=as_of_ms,
        window=window,
        behaviour=remembered([*earlier, *window]),
        items=ITEMS,
        profile=UserProfile(user_id="user", city="Sydney", age_band="25-34"),
    )


def test_a_search_stands_first_and_in_quotes() -> None:
    window = [
        action(ActionType.CART, NOW_MS - 9_000, "k1"),
        action(ActionType.SEARCH, NOW_MS - 5_000, "brolly"),
    ]
    reasoning = LocalReasoner().compose(context(window))
    assert reasoning.kind is InstructionKind.QUERY_REWRITE
    assert reasoning.text.startswith('searches "brolly"')


def test_a_choice_is_named_with_its_category_and_the_words_said_before_it() -> None:
    earlier = [action(ActionType.SEARCH, NOW_MS - 600_000, "keep dry")]
    reasoning = LocalReasoner().compose(
        context([action(ActionType.CART, NOW_MS - 5_000, "u1")], earlier)
    )
    assert reasoning.kind is InstructionKind.INTENT
    assert 'searches "keep dry"' in reasoning.text
    assert "Title u1 (Umbrellas)" in reasoning.text


def test_words_that_an_order_has_answered_are_left_out() -> None:
    earlier = [
        action(ActionType.SEARCH, NOW_MS - 600_000, "keep dry"),
        action(ActionType.ORDER, NOW_MS - 500_000, "u1"),
    ]
    reasoning = LocalReasoner().compose(
        context([action(ActionType.FAVORITE, NOW_MS - 5_000, "f1")], earlier)
    )
    assert "keep dry" not in reasoning.text


def test_without_words_or_choices_the_profile_speaks() -> None:
    earlier = [action(ActionType.CLICK, NOW_MS - HOUR_MS, "f1")]
    reasoning = LocalReasoner().compose(
        context([action(ActionType.DISLIKE, NOW_MS - 5_000, "k1")], earlier)
    )
    assert reasoning.kind is InstructionKind.PROFILE
    assert "likes Fans" in reasoning.text
    assert "Knives" not in reasoning.text
    assert "winter" in reasoning.text  # July in Sydney, from the profile's city


def test_place_of_the_action_outweighs_the_profile() -> None:
    window = [action(ActionType.SEARCH, NOW_MS - 5_000, "tent", "Helsinki", "Europe/Helsinki")]
    text = LocalReasoner().compose(context(window)).text
    assert "summer afternoon, rain, Helsinki, 25-34" in text


def test_the_text_is_pure_short_and_free_of_control_characters() -> None:
    poison = 'a"b\x00\n\u202e\u200b' + "x" * 5_000
    window = [
        action(ActionType.SEARCH, NOW_MS - index, poison + str(index), poison, "../" * 300)
        for index in range(50)
    ]
    reasoner = LocalReasoner(LocalReasonerConfig(max_text=120))
    first = reasoner.compose(context(window))
    assert first == reasoner.compose(context(window))
    assert len(first.text) <= 120
    assert first.text.isprintable()
    assert first.text.count('"') == 2


@pytest.mark.parametrize("query", ["", "\x00\x01", "   "])
def test_a_search_without_words_leaves_the_surroundings(query: str) -> None:
    text = LocalReasoner().compose(context([action(ActionType.SEARCH, NOW_MS - 1, query)])).text
    assert text == "winter afternoon, Sydney, 25-34"


async def test_the_port_returns_what_compose_returns() -> None:
    given = context([action(ActionType.SEARCH, NOW_MS - 1, "tent")])
    assert await LocalReasoner().reason(given) == LocalReasoner().compose(given)


def test_strength_decays_by_its_half_life_and_dislikes_take_away() -> None:
    half_life_ms = AffinityConfig().half_life_ms
    behaviour = remembered(
        [
            action(ActionType.ORDER, NOW_MS - half_life_ms, "u1"),
            action(ActionType.CLICK, NOW_MS, "f1"),
            action(ActionType.CLICK, NOW_MS - 1, "k1"),
            action(ActionType.DISLIKE, NOW_MS - 2, "k1"),
        ]
    )
    scores = category_affinities(behaviour, ITEMS, NOW_MS, AffinityConfig())
    assert scores == [("Outdoor > Umbrellas", 2.5), ("Cooling > Fans", 1.0)]


def test_season_and_hour_follow_hemisphere_and_time_zone() -> None:
    assert season_of(NOW_MS, "Helsinki") == "summer"
    assert season_of(NOW_MS, tz="Australia/Sydney") == "winter"
    assert day_part_of(NOW_MS) == "afternoon"
    assert day_part_of(NOW_MS, "Asia/Tokyo") == "evening"
    assert day_part_of(NOW_MS, "no/such/zone") == "afternoon"
