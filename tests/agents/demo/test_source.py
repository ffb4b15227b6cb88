from pathlib import Path

import pytest

from agents.demo.source import DataUnusable, open_source
from schemas.actions import ActionType

NOW_MS = 1_800_000_000_000


def test_the_training_process_sees_the_past_that_the_customers_lived() -> None:
    demo, training = open_source(None, 3, NOW_MS), open_source(None, 3, NOW_MS)
    past = {action.event_id for action in training.past()}
    remembered = demo.remembered()
    assert len(remembered) > 100
    assert {action.event_id for action in remembered} <= past
    assert max(action.event_time_ms for action in remembered) < NOW_MS


def parquet_folder(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder.mkdir()
    items = {"item_id": list(range(20)), "title": [f"thing {i}" for i in range(20)]}
    parquet.write_table(pyarrow.table(items), folder / "items.parquet")
    rows = [(user, pos, (user + pos) % 20, 100 + pos) for user in range(5) for pos in range(15)]
    columns = dict(zip(("user_id", "pos", "item_id", "day"), zip(*rows, strict=True), strict=True))
    parquet.write_table(
        pyarrow.table({name: list(values) for name, values in columns.items()}),
        folder / "interactions.parquet",
    )
    return folder


def test_replayed_users_go_on_with_what_was_held_out_of_their_past(tmp_path: Path) -> None:
    source = open_source(parquet_folder(tmp_path / "data"), 0, NOW_MS)
    past = source.past()
    assert len(past) == 5 * (15 - 6)
    assert NOW_MS - 8 * 86_400_000 < past[-1].event_time_ms <= NOW_MS
    customer = next(c for c in source.customers() if c.user_id == "2")
    assert customer.next_actions(NOW_MS) == []
    actions = customer.react(["1", "11", "5"], "r", NOW_MS)
    assert [a.action for a in actions] == [ActionType.EXPOSE] * 3 + [ActionType.ORDER]
    bought = actions[-1]
    assert (bought.item_id, bought.request_id, bought.position) == ("11", "r", 1)  # (2 + 9) % 20
    outside = customer.react(["1"], "r2", NOW_MS + 100)[-1]
    assert (outside.item_id, outside.request_id, outside.position) == ("12", None, None)


def test_a_file_that_is_no_parquet_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    for name in ("items.parquet", "interactions.parquet"):
        (tmp_path / name).write_text("user,item\n")
    with pytest.raises(DataUnusable, match="without --data"):
        open_source(tmp_path, 0, NOW_MS)
