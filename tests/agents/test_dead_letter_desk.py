"""What the command line makes of its options and of bytes that came from outside."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.cli_kafka import InvalidOption, kafka_of, shown, time_in
from agents.dead_letter_desk import changes_in, line, refuse_all, text, wanted
from agents.exit_codes import ExitCode, exit_code_of
from agents.settings import PathsConfig, Settings
from schemas.dead_letters import DeadLetter, LetterReplayed, Reason, Rejection
from streams.connections import KafkaConfig
from streams.dead_letter_log import KeptLetter

NOW_MS = 1_767_225_600_000


def kept(value: bytes = b"{}", found: str = "str") -> KeptLetter:
    letter = DeadLetter(
        rejection=Rejection(
            reason=Reason.WRONG_TYPE, field="price", found=found, wanted="float | null"
        ),
        topic="actions",
        partition=3,
        offset=42,
        key=b"u-1",
        value=value,
        worker="router",
        attempts=1,
        dead_ms=NOW_MS,
    )
    mark = LetterReplayed(
        letter_offset=17,
        topic="actions",
        partition=3,
        offset=99,
        changes={"price": "9.5"},
        replayed_ms=NOW_MS,
    )
    return KeptLetter(offset=17, append_ms=NOW_MS, letter=letter, replayed=mark)


@pytest.mark.parametrize(
    ("given", "time_ms"),
    [
        ("30m", NOW_MS - 30 * 60_000),
        ("7d", NOW_MS - 7 * 86_400_000),
        ("2026-01-01T00:00", NOW_MS),
        ("2026-01-01T02:00:00+02:00", NOW_MS),
        (None, None),
    ],
)
def test_a_time_is_a_span_or_iso_in_utc(given: str | None, time_ms: int | None) -> None:
    assert time_in("--since", given, NOW_MS) == time_ms


def test_a_time_that_is_none_is_a_usage_error_with_what_is_wanted() -> None:
    with pytest.raises(InvalidOption, match="--since: found yesterday, wanted a span") as refused:
        wanted(since="yesterday")
    assert exit_code_of(refused.value) is ExitCode.USAGE


def test_a_value_to_set_is_json_or_else_text() -> None:
    options = ["price=9.5", "item_id=i=1", "query=null", 'user_id="5"', "context.city=Lima"]
    assert changes_in(options) == {
        "price": 9.5,
        "item_id": "i=1",
        "query": None,
        "user_id": "5",
        "context.city": "Lima",
    }
    with pytest.raises(InvalidOption, match="found price, wanted FIELD=VALUE"):
        changes_in(["price"])


def test_a_replay_that_names_nothing_is_refused() -> None:
    with pytest.raises(InvalidOption, match="offsets, or one of --reason"):
        refuse_all(wanted())
    refuse_all(wanted(offsets=[0]))


def test_bytes_from_outside_are_one_line_that_cannot_steer_a_terminal() -> None:
    assert shown(b"\x1b[2Jred\n\xff\xe9", 100) == r"\x1b[2Jred\n\xff\xe9"
    assert shown("é日".encode(), 100) == "é日"
    assert shown(b"abcdef", 3) == "abc..."
    for written in (line(kept(found="\x1b[31m\n")), text(kept(b"\x1b[2J\r\n"))):
        assert "\x1b" not in written
        assert "\r" not in written


def test_a_letter_is_shown_with_its_reason_place_and_replay() -> None:
    one = line(kept())
    for part in ("17 ", "wrong_type", "actions[3]@42", "field price: found str", "actions[3]@99"):
        assert part in one
    assert "2026-01-01T00:00:00.000Z to actions[3]@99 price=9.5" in text(kept())


@pytest.mark.parametrize("verb", ["list", "show", "replay"])
def test_every_help_shows_an_example(verb: str) -> None:
    output = CliRunner().invoke(app, ["dead-letters", verb, "--help"]).output
    assert f"  oxygenrec dead-letters {verb}" in output.split("\n", 1)[1]


def test_the_broker_is_the_settings_one_or_that_of_the_stack_here(tmp_path: Path) -> None:
    named = Settings(kafka=KafkaConfig(bootstrap="kafka:9092"))
    assert kafka_of(named).bootstrap == "kafka:9092"
    alone = Settings(paths=PathsConfig(home=str(tmp_path)))
    assert kafka_of(alone) == KafkaConfig()
    (tmp_path / "state.json").write_text(
        '{"supervisor":{"name":"s","kind":"supervisor","pid":1,"mark":"m","started_ms":1},'
        '"broker":"kafka","triton":"server","processes":[],'
        '"addresses":{"kafka_bootstrap":"127.0.0.1:5","kafka_partitions":4}}'
    )
    assert kafka_of(alone) == KafkaConfig(bootstrap="127.0.0.1:5", partitions=4, replication=1)
