"""A brief holds what the allow-list names, safe and capped, and nothing else."""

from dataclasses import fields, replace
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.reasoning.brief import Brief, BriefConfig, BriefField, brief_of
from models.reasoning.context import ReasoningContext
from schemas.actions import ActionContext, ActionType, UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, item_key_of
from schemas.users import UserProfile

NOW_MS = 1_783_000_000_000  # Thursday 2026-07-02, 13:46 UTC
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
PRIVATE = "private-"
LEAVES = {
    "query-words", "earlier-words", "scenario-name", "city-name", "rain-or-not", "holiday-name",
    "age-words", "language-value", "title-one", "Leaf",
}  # fmt: skip


def row(item_id: str, title: str, category: str) -> ItemRow:
    return ItemRow(
        item_key=item_key_of(item_id), item_id=item_id, live=True, title=title, category=category
    )


def behaviour(kind: ActionType, at_ms: int, item_id: str | None, **more: str) -> Behaviour:
    return Behaviour(
        event_id=f"{PRIVATE}event-{at_ms}",
        action=kind,
        event_time_ms=at_ms,
        item_key=item_key_of(item_id) if item_id else None,
        **more,
    )


def full_context() -> ReasoningContext:
    """Every text field of every record carries a word of its own."""
    item = f"{PRIVATE}item"
    searched = UserAction(
        event_id=f"{PRIVATE}event",
        user_id=f"{PRIVATE}user",
        action=ActionType.SEARCH,
        event_time_ms=NOW_MS - 1,
        scenario="scenario-name",
        query="query-words",
        request_id=f"{PRIVATE}request",
        position=3,
        price=91.5,
        quantity=77,
        context=ActionContext(
            city="city-name",
            tz=f"{PRIVATE}zone",
            weather="rain-or-not",
            holiday="holiday-name",
            device=f"{PRIVATE}device",
        ),
        attributes={f"{PRIVATE}attribute": f"{PRIVATE}value"},
    )
    return ReasoningContext(
        user_id=f"{PRIVATE}user",
        as_of_ms=NOW_MS,
        window=[searched],
        behaviour=[
            behaviour(ActionType.SEARCH, NOW_MS - HOUR_MS, None, query="earlier-words"),
            behaviour(ActionType.CART, NOW_MS - HOUR_MS, item),
        ],
        items={item_key_of(item): row(item, "title-one", f"{PRIVATE}Branch > Leaf")},
        profile=UserProfile(
            user_id=f"{PRIVATE}user",
            city=f"{PRIVATE}home",
            age_band="age-words",
            attributes={"language": "language-value", "salary": f"{PRIVATE}salary"},
        ),
    )


def text_of(brief: Brief) -> str:
    return msgspec.json.encode(brief).decode()


def test_what_is_on_the_list_leaves_and_nothing_else_does() -> None:
    said = text_of(brief_of(full_context(), BriefConfig(attributes=("language", "absent"))))
    assert {word for word in LEAVES if word in said} == LEAVES
    assert PRIVATE not in said
    assert str(item_key_of(f"{PRIVATE}item")) not in said
    assert not {"91.5", "77", "salary", "absent"} & set(said.replace('"', " ").split())


def test_without_a_released_name_no_attribute_leaves() -> None:
    said = text_of(brief_of(full_context(), BriefConfig()))
    assert "language" not in said


@pytest.mark.parametrize("name", get_args(BriefField))
def test_a_field_that_is_taken_off_the_list_stays(name: BriefField) -> None:
    kept = tuple(field for field in get_args(BriefField) if field != name)
    config = BriefConfig(fields=kept, attributes=("language",))
    whole = msgspec.to_builtins(brief_of(full_context(), replace(config, fields=(*kept, name))))
    assert name in whole
    del whole[name]
    assert msgspec.to_builtins(brief_of(full_context(), config)) == whole


def test_the_list_of_the_settings_is_the_records() -> None:
    assert set(get_args(BriefField)) == set(Brief.__struct_fields__) == set(BriefConfig().fields)
    assert {field.name for field in fields(BriefConfig)} >= {"fields", "attributes"}


def test_searches_are_the_newest_different_ones_with_their_age() -> None:
    said = ["tent", "stove", "tent", "", "\x00", "lamp"]
    context = replace(
        full_context(),
        window=[],
        behaviour=[
            behaviour(ActionType.SEARCH, NOW_MS - (9 - n) * 60_000, None, query=query)
            for n, query in enumerate(said)
        ],
    )
    found = brief_of(context, BriefConfig(searches=2)).searches
    assert [(one.words, one.minutes_ago) for one in found] == [("lamp", 4), ("tent", 7)]
    old = replace(context, as_of_ms=NOW_MS + 8 * DAY_MS)
    assert brief_of(old, BriefConfig()).searches == []


def test_taste_of_the_hour_and_of_the_month_fade_at_their_own_pace() -> None:
    items = {
        item_key_of(name): row(name, name, f"Shop > {name}")
        for name in ("Lamps", "Kettles", "Pens")
    }
    context = replace(
        full_context(),
        window=[],
        items=items,
        behaviour=[
            *(behaviour(ActionType.ORDER, NOW_MS - 10 * DAY_MS - n, "Lamps") for n in range(3)),
            behaviour(ActionType.CLICK, NOW_MS - 6 * HOUR_MS, "Kettles"),
            behaviour(ActionType.DISLIKE, NOW_MS, "Pens"),
        ],
    )
    brief = brief_of(context, BriefConfig())
    assert (brief.likes_now[0].category, brief.likes_now[0].strength) == ("Kettles", 0.5)
    assert brief.likes_long[0].category == "Lamps"
    assert brief.likes_long[0].strength == pytest.approx(15 * 0.5 ** (10 / 30), abs=0.01)
    assert [(one.title, one.action, one.strength) for one in brief.items] == [
        ("Pens", "dislike", -3.5),
        ("Kettles", "click", 0.5),
        ("Lamps", "order", 0.0),
    ]


def test_a_context_that_knows_nothing_makes_a_brief_of_time_alone() -> None:
    empty = ReasoningContext(user_id="u", as_of_ms=NOW_MS, window=[], behaviour=[], items={})
    assert msgspec.to_builtins(brief_of(empty, BriefConfig())) == {
        "season": "summer",
        "weekday": "Thursday",
        "day_part": "afternoon",
    }


@settings(max_examples=40)
@given(st.text(max_size=200))
def test_strangers_words_are_one_capped_line(words: str) -> None:
    context = full_context()
    stranger = msgspec.structs.replace(
        context.window[0],
        query=words,
        scenario=words,
        context=ActionContext(city=words, weather=words, holiday=words),
    )
    (key,) = context.items
    brief = brief_of(
        replace(
            context,
            window=[stranger],
            items={key: row("i", words, words)},
        ),
        BriefConfig(max_words=40),
    )
    found = [brief.scenario, brief.city, brief.weather, brief.holiday]
    found += [one.words for one in brief.searches]
    found += [word for one in brief.items for word in (one.title, one.category)]
    assert all(len(one) <= 40 and one.isprintable() and '"' not in one for one in found)
