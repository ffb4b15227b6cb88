import json
import random
from pathlib import Path

import msgspec
import pytest

from agents.demo.summary import (
    ActionCounts,
    RequestCounts,
    Summary,
    VersionPair,
    missing_in,
    percentile,
    write_summary,
)

COMPLETE = Summary(
    broker="kafka",
    triton="server",
    seconds=120.5,
    actions=ActionCounts(sent=10, acknowledged=10),
    windows_closed=3,
    instructions_written=3,
    requests=RequestCounts(total=9, failed=0, degraded=1, p50_ms=8.0, p99_ms=20.0),
    reward_groups=32,
    policy_version=VersionPair(before=1, after=2),
    slate_before=["a"],
    slate_after=["b"],
    logprob_mismatch_max=1e-6,
)


def test_the_json_has_the_promised_keys_in_order(tmp_path: Path) -> None:
    write_summary(COMPLETE, tmp_path / "new" / "summary.json")
    table = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert list(table) == [
        *("broker", "triton", "seconds", "actions", "windows_closed", "instructions_written"),
        *("requests", "reward_groups", "policy_version", "slate_before", "slate_after"),
        "logprob_mismatch_max",
    ]
    assert list(table["actions"]) == ["sent", "acknowledged"]
    assert list(table["requests"]) == ["total", "failed", "degraded", "p50_ms", "p99_ms"]
    assert table["policy_version"] == {"before": 1, "after": 2}


def test_a_complete_demo_misses_nothing() -> None:
    assert missing_in(COMPLETE, 1e-3) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"windows_closed": 0}, "no window closed"),
        ({"instructions_written": 0}, "no instruction"),
        ({"reward_groups": 0}, "no reward group"),
        ({"policy_version": VersionPair(before=1, after=1)}, "did not rise"),
        ({"policy_version": VersionPair(before=None, after=None)}, "did not rise"),
        ({"actions": ActionCounts(sent=10, acknowledged=9)}, "1 actions were not"),
        ({"slate_after": []}, "no slate"),
        ({"logprob_mismatch_max": 0.01}, "differ by 0.01"),
        ({"logprob_mismatch_max": None}, "no log-prob"),
    ],
)
def test_what_did_not_happen_is_named(change: dict[str, object], complaint: str) -> None:
    missing = missing_in(msgspec.structs.replace(COMPLETE, **change), 1e-3)
    assert len(missing) == 1
    assert complaint in missing[0]


def test_one_failed_request_fails_the_demo() -> None:
    requests = msgspec.structs.replace(COMPLETE.requests, failed=1)
    assert missing_in(msgspec.structs.replace(COMPLETE, requests=requests), 1e-3) == [
        "1 of 9 requests failed"
    ]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    rng = random.Random(1)
    values = [round(rng.random(), 2) for _ in range(97)]
    for share in (0.01, 0.5, 0.99, 1.0):
        found = percentile(values, share)
        assert found in values
        assert sum(value <= found for value in values) >= share * len(values)
        assert sum(value < found for value in values) < share * len(values)
    assert percentile([], 0.5) is None
