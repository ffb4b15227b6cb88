"""Rows of a user's files: what becomes a record, and the reason where nothing does."""

from datetime import UTC, datetime
from typing import Any

import pytest

from models.training.rows import event_of, identifier, item_of, time_ms_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.dead_letters import Reason, Rejection

NAN = float("nan")
ROW: dict[str, Any] = {"user": 7, "item": 9, "event": "addtocart", "ts": 1_437_350_466}


def test_an_event_takes_its_optional_columns_and_its_own_id() -> None:
    row = ROW | {
        "event_id": "mine",
        "scenario": "detail",
        "price": 9.5,
        "quantity": 2,
        "query": "q",
    }
    action = event_of(row, "made")
    assert action == UserAction(
        event_id="mine",
        user_id="7",
        action=ActionType.CART,
        item_id="9",
        event_time_ms=1_437_350_466_000,
        scenario="detail",
        price=9.5,
        quantity=2,
        query="q",
    )


def test_gaps_in_a_column_are_no_values() -> None:
    row = ROW | {"user": 7.0, "item": NAN, "price": NAN, "scenario": None, "event_id": None}
    action = event_of(row, "made")
    assert isinstance(action, UserAction)
    assert (action.user_id, action.item_id, action.price) == ("7", None, None)
    assert (action.event_id, action.scenario) == ("made", "home")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"event": "hover"}, Reason.UNKNOWN_ACTION, "event"),
        ({"ts": -1}, Reason.ABSURD_TIME, "ts"),
        ({"ts": None}, Reason.ABSURD_TIME, "ts"),
        ({"ts": NAN}, Reason.ABSURD_TIME, "ts"),
        ({"ts": "2015-07-20"}, Reason.ABSURD_TIME, "ts"),
        ({"user": None}, Reason.MISSING_FIELD, "user"),
        ({"user": ""}, Reason.MISSING_FIELD, "user"),
        ({"user": "u" * 129}, Reason.OUT_OF_RANGE, "user_id"),
        ({"price": -1.0}, Reason.OUT_OF_RANGE, "price"),
        ({"quantity": "two"}, Reason.WRONG_TYPE, "quantity"),
    ],
)
def test_a_row_that_is_no_event_has_a_reason(
    changes: dict[str, Any], reason: Reason, field: str
) -> None:
    why = event_of(ROW | changes, "made")
    assert isinstance(why, Rejection)
    assert (why.reason, why.field) == (reason, field)
    assert why.found
    assert why.wanted


def test_an_item_needs_an_id_and_takes_words_where_it_finds_them() -> None:
    assert item_of(
        {"item_id": 4.0, "title": NAN, "brand": "Bo", "category": "A > C"}
    ) == ItemUpsert(item_id="4", title="Bo A > C", brand="Bo", category="A > C")
    for row in ({"item_id": None}, {"item_id": NAN}, {"title": "t"}):
        why = item_of(row)
        assert isinstance(why, Rejection)
        assert (why.reason, why.field) == (Reason.MISSING_FIELD, "item_id")
    why = item_of({"item_id": "i", "price": -2.0})
    assert isinstance(why, Rejection)
    assert why.field == "price"


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        (1_437_350_466, 1_437_350_466_000),
        (1_437_350_466.25, 1_437_350_466_250),
        (1_437_350_466_123, 1_437_350_466_123),
        (datetime(2015, 7, 20, 0, 1, 6, 123_000, tzinfo=UTC), 1_437_350_466_123),
        (datetime(2015, 7, 20, 0, 1, 6), 1_437_350_466_000),  # noqa: DTZ001  a column without a zone
        (True, None),
        (float("inf"), None),
    ],
)
def test_a_time_is_seconds_milliseconds_or_a_timestamp(value: Any, time_ms: int | None) -> None:
    assert time_ms_of(value) == time_ms


def test_an_id_keeps_its_text_and_a_whole_float_is_an_integer() -> None:
    assert [identifier(v) for v in ("007", 7, 7.0, 7.5)] == ["007", "7", "7", "7.5"]
