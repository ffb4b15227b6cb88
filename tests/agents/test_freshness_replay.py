"""The replay has the ages that an independent recount of the windows has."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from agents.cli import app
from agents.freshness_replay import ReplayConfig, both_triggers, users_of
from agents.high_value import HighValuePolicy, HighValueTable
from models.reasoning.text_encoder import CharacterEncoder
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from streams.windows import WindowConfig, window_start_ms

T0_MS = 1_700_000_000_000
WINDOWS = WindowConfig(window_ms=300_000, grace_ms=10_000)
CONFIG = ReplayConfig(windows=WINDOWS, high_value=HighValueTable(HighValuePolicy()))
ITEMS = [
    ItemUpsert(item_id="kettle", title="Copper kettle", category="Kitchen > Kettles"),
    ItemUpsert(item_id="pot", title="Steel pot", category="Kitchen > Pots"),
    ItemUpsert(item_id="tent", title="Tent for two", category="Outdoor > Tents"),
]
ENCODER = CharacterEncoder.fit([f"{item.title} {item.category}" for item in ITEMS])


def act(
    at_ms: int, item: str = "kettle", kind: ActionType = ActionType.CART, user: str = "ann"
) -> UserAction:
    return UserAction(
        event_id=f"{user}-{at_ms}-{item}-{kind}",
        user_id=user,
        action=kind,
        event_time_ms=T0_MS + at_ms,
        item_id=item,
    )


def recounted(actions: list[UserAction], trigger: str) -> list[int]:
    """The ages by lists alone: of all windows with an action, the newest that is visible."""
    ages = []
    for place, action in enumerate(actions):
        now_ms, spoken = action.event_time_ms, []
        for earlier in actions[:place]:
            start_ms = window_start_ms("ann", earlier.event_time_ms, WINDOWS)
            first = min(
                one.event_time_ms
                for one in actions
                if window_start_ms("ann", one.event_time_ms, WINDOWS) == start_ms
            )
            if trigger == "first" and first + 1_000 <= now_ms and earlier.event_time_ms == first:
                spoken.append(first + 1)
            end_ms = start_ms + 300_000
            if trigger == "close" and end_ms + 10_000 + 2_000 + 1_000 <= now_ms:
                spoken.append(end_ms)
        ages.append(max(0, now_ms - max(spoken)) if spoken else -1)
    return ages


@given(st.lists(st.integers(0, 2_000_000), min_size=1, max_size=25, unique=True))
def test_ages_are_those_of_a_recount(times: list[int]) -> None:
    actions = [act(at_ms) for at_ms in sorted(times)]
    found = both_triggers({"ann": actions}, [], None, CONFIG)
    for trigger, replayed in found.items():
        assert replayed.age_ms.tolist() == recounted(actions, trigger)
        assert np.isnan(replayed.cosine).all()


@pytest.mark.parametrize(("early_ms", "age_ms"), [(1, -1), (0, 13_000)])
def test_a_window_is_known_after_grace_watermark_and_pipeline(early_ms: int, age_ms: int) -> None:
    end_ms = window_start_ms("ann", T0_MS, WINDOWS) + 300_000 - T0_MS
    actions = [act(0), act(end_ms + 10_000 + 2_000 + 1_000 - early_ms)]
    assert both_triggers({"ann": actions}, [], None, CONFIG)["close"].age_ms[1] == age_ms


@pytest.mark.parametrize(("early_ms", "age_ms"), [(1, -1), (0, 999)])
def test_a_first_action_is_known_after_the_pipeline(early_ms: int, age_ms: int) -> None:
    actions = [act(0), act(1_000 - early_ms)]
    assert both_triggers({"ann": actions}, [], None, CONFIG)["first"].age_ms[1] == age_ms


def test_the_cosine_is_that_of_the_instruction_in_force_with_the_next_item() -> None:
    alike = [act(0, "kettle"), act(700_000, "kettle")]
    apart = [act(0, "kettle"), act(700_000, "tent")]
    found = both_triggers({"a": alike, "b": apart}, ITEMS, ENCODER, CONFIG)
    for replayed in found.values():
        assert np.isnan(replayed.cosine[[0, 2]]).all()  # nothing was in force yet
        assert replayed.cosine[1] > replayed.cosine[3] + 0.3
    assert found["first"].age_ms.tolist() == [-1, 699_999] * 2


def test_views_make_history_and_no_instruction() -> None:
    actions = [act(0, "tent", ActionType.VIEW), act(700_000), act(1_400_000)]
    found = both_triggers({"ann": actions}, ITEMS, ENCODER, CONFIG)["close"]
    assert len(found.users) == 2
    assert found.age_ms[0] == -1


def test_items_that_the_user_knows_already_can_be_left_out() -> None:
    actions = [act(0, "tent", ActionType.VIEW), act(1, "tent"), act(700_000, "pot")]
    config = ReplayConfig(windows=WINDOWS, high_value=CONFIG.high_value, new_items=True)
    found = both_triggers({"ann": actions}, ITEMS, ENCODER, config)["first"]
    assert found.age_ms.tolist() == [699_998]


def test_clicks_count_as_the_policy_says() -> None:
    actions = [act(at, "pot", ActionType.CLICK) for at in (0, 700_000, 1_400_000)]
    table = HighValueTable(HighValuePolicy(clicks=2))
    config = ReplayConfig(windows=WINDOWS, high_value=table)
    found = both_triggers({"ann": actions}, ITEMS, ENCODER, config)["first"]
    assert found.age_ms.tolist() == [-1, 699_999]


def test_users_are_drawn_once_and_their_actions_lie_by_time() -> None:
    actions = [act(at, user=f"user-{n}") for n in range(50) for at in (5, 3, 4)]
    drawn = users_of(actions, 10, 0)
    assert len(drawn) == 10
    assert drawn == users_of(actions[::-1], 10, 0)
    assert all([a.event_time_ms - T0_MS for a in own] == [3, 4, 5] for own in drawn.values())


@pytest.mark.parametrize("texts", [True, False])
def test_the_report_prints_a_table_and_writes_json_and_png(tmp_path: Path, texts: bool) -> None:
    rows = [
        {"user": f"u{n}", "item": ITEMS[(n + m) % 3].item_id, "event": "cart", "ts": 10**9 + m * 60}
        for n in range(30)
        for m in range(12)
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "events.parquet")
    if texts:
        items = [{"item_id": i.item_id, "title": i.title, "category": i.category} for i in ITEMS]
        parquet.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    figures, png = tmp_path / "out.json", tmp_path / "out.png"
    asked = ["report", "freshness", "--data", str(tmp_path), "--users", "20"]
    shown = CliRunner().invoke(app, [*asked, "--json", str(figures), "--png", str(png)])
    assert shown.exit_code == 0, shown.output
    assert "close: 240 high-value actions" in shown.output
    assert ("cosine first - close" in shown.output) is texts
    found = json.loads(figures.read_text())["report"]
    close, first = (found["triggers"][name] for name in ("close", "first"))
    assert first["none"] < close["none"]
    assert first["fresh"] > close["fresh"]
    assert png.read_bytes().startswith(b"\x89PNG")
