from pathlib import Path

import pytest

from agents.demo.preparation import (
    Preparation,
    PreparationFailed,
    origin_file,
    origin_of,
    read_origin,
)
from agents.demo.preparation_job import log_of
from agents.demo.source import Customer
from agents.settings import Settings
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.users import UserProfile


class OneAction:
    """A source of one action, with times or with days only."""

    name, telling = "one action", ActionType.ORDER

    def __init__(self, *, timed: bool) -> None:
        self.timed = timed

    def items(self) -> list[ItemUpsert]:
        return [ItemUpsert(item_id="i", title="thing")]

    def past(self) -> list[UserAction]:
        return [UserAction(event_id="e", user_id="u", action=ActionType.ORDER, event_time_ms=1)]

    def remembered(self) -> list[UserAction]:
        return []

    def profiles(self) -> list[UserProfile]:
        return [UserProfile(user_id="u", city="Oslo")]

    def customers(self) -> list[Customer]:
        return []


def preparation(home: Path, data: Path) -> Preparation:
    return Preparation(home=home, data=data, seed=0, until_ms=1, environment={})


def test_a_job_that_fails_says_why_and_where_its_log_is(tmp_path: Path) -> None:
    with (
        preparation(tmp_path, tmp_path / "nothing") as job,
        pytest.raises(PreparationFailed, match=r"wanted items\.parquet.*preparation\.log"),
    ):
        job.await_generation(lambda progress: None)
    assert not (tmp_path / "generations" / "1").exists()


def test_a_generation_that_is_there_is_not_trained_again(tmp_path: Path) -> None:
    (tmp_path / "generations" / "1").mkdir(parents=True)
    seen: list[object] = []
    with preparation(tmp_path, tmp_path / "nothing") as job:
        job.await_generation(seen.append)
    assert seen == []


def test_training_sees_the_windows_of_serving_and_no_expiry_without_times() -> None:
    settings = Settings()
    timed, by_day = (log_of(OneAction(timed=timed), settings) for timed in (True, False))
    assert timed.windows.window_ms == settings.windows.window_ms
    assert (
        timed.windows.start_of("u", 10**12)
        <= 10**12
        < timed.windows.start_of("u", 10**12) + 300_000
    )
    assert timed.windows.expires_ms == settings.instructions.expires_ms
    assert by_day.windows.expires_ms is None
    assert timed.profiles["u"].city == "Oslo"


def test_what_a_generation_was_trained_on_stands_beside_it(tmp_path: Path) -> None:
    generation = tmp_path / "1"
    assert read_origin(generation) is None
    origin_file(generation).write_text(origin_of(None, 7))
    assert read_origin(generation) is None  # the training that began never ended
    generation.mkdir()
    assert read_origin(generation) == "simulated shop, seed 7"
    assert origin_of(tmp_path, 7) != origin_of(None, 7)
