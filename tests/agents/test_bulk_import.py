"""Bulk import: every row is sent or accounted for, and the same file again doubles nothing."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

from agents.bulk_import import (  # noqa: E402  after the skip
    EXAMPLES,
    Dropped,
    ImportRules,
    ImportStopped,
    NotImportable,
    event_id_of,
    import_rows,
    kind_of,
)
from agents.exit_codes import ExitCode, exit_code_of  # noqa: E402  after the skip
from models.training.rows import ParquetRows, UnusableFolder  # noqa: E402  after the skip
from schemas import topics  # noqa: E402  after the skip
from schemas.actions import UserAction  # noqa: E402  after the skip
from schemas.catalog import ItemUpsert  # noqa: E402  after the skip
from schemas.codec import RECORDS, Decoder  # noqa: E402  after the skip
from schemas.dead_letters import Reason  # noqa: E402  after the skip
from schemas.topics import topic_table  # noqa: E402  after the skip
from streams.local.kafka import LocalKafka  # noqa: E402  after the skip
from streams.partitioner import partition_of  # noqa: E402  after the skip
from streams.producer import Delivered, UndeliveredRecord  # noqa: E402  after the skip
from tests.agents.near_line import Logs  # noqa: E402  after the skip

PARTITIONS = 4
NOW_MS = 1_767_225_600_000
EVENTS: dict[str, list[Any]] = {
    "user": [1, 1, 2, 2, 3, None],
    "item": [5, 6, 5, 5, None, 5],
    "event": ["view", "buy", "view", "view", "addtocart", "view"],
    "ts": [1_437_350_466, -1, 1_437_350_467, 1_437_350_467, 1_437_350_468, 1_437_350_469],
}


class MemorySender:
    """Takes records; from the row `gone` on, Kafka does not acknowledge them."""

    def __init__(self, gone: int | None = None) -> None:
        self.sent: list[tuple[str, str, UserAction | ItemUpsert]] = []
        self._gone = gone

    def send(
        self, topic: str, record: UserAction | ItemUpsert, key: str, *, headers: Any = ()
    ) -> Future[Delivered]:
        future: Future[Delivered] = Future()
        if self._gone is not None and len(self.sent) >= self._gone:
            future.set_exception(UndeliveredRecord(topic=topic, identity=key, cause="gone"))
        else:
            self.sent.append((topic, key, record))
            future.set_result(Delivered(topic=topic, partition=0, offset=0, append_ms=0))
        return future


def rules(**changes: Any) -> ImportRules:
    return ImportRules(scenarios=frozenset({"home"}), now_ms=NOW_MS, **changes)


def written(
    folder: Path, columns: Mapping[str, Sequence[Any]], name: str = "events"
) -> ParquetRows:
    path = folder / f"{name}.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    return ParquetRows(path)


def many(rows: int, seed: int = 1) -> dict[str, list[Any]]:
    rng = random.Random(seed)
    return {
        "user": [rng.randrange(50) for _ in range(rows)],
        "item": [rng.randrange(50) for _ in range(rows)],
        "event": [rng.choice(["view", "buy"]) for _ in range(rows)],
        "ts": [1_437_350_466 + number for number in range(rows)],
    }


def test_every_row_is_sent_repeated_or_dropped_with_its_number_and_reason(tmp_path: Path) -> None:
    sender, dropped = MemorySender(), list[Dropped]()
    rows = written(tmp_path, EVENTS)
    report = import_rows(rows, kind_of(rows), rules(on_dropped=dropped.append), sender)
    assert (report.rows, report.sent, report.repeated) == (6, 2, 1)
    assert [(one.row, one.rejection.reason, one.rejection.field) for one in dropped] == [
        (1, Reason.ABSURD_TIME, "ts"),
        (4, Reason.MISSING_FIELD, "item_id"),
        (5, Reason.MISSING_FIELD, "user"),
    ]
    assert report.examples == dropped
    assert report.dropped == {Reason.ABSURD_TIME: 1, Reason.MISSING_FIELD: 2}
    assert [(topic, key) for topic, key, _ in sender.sent] == [("actions", "1"), ("actions", "2")]


def test_a_dry_run_judges_the_same_and_sends_nothing(tmp_path: Path) -> None:
    rows = written(tmp_path, EVENTS)
    assert import_rows(rows, "events", rules(), None) == import_rows(
        rows, "events", rules(), MemorySender()
    )


def test_a_file_sorted_anew_has_the_same_event_ids(tmp_path: Path) -> None:
    columns = many(300)
    order = random.Random(2).sample(range(300), 300)
    shuffled = {name: [values[n] for n in order] for name, values in columns.items()}
    ids = []
    for name, table in (("a", columns), ("b", shuffled)):
        sender = MemorySender()
        import_rows(written(tmp_path, table, name), "events", rules(), sender)
        ids.append({r.event_id for _, _, r in sender.sent if isinstance(r, UserAction)})
    assert ids[0] == ids[1]
    assert len(ids[0]) == 300


@pytest.mark.parametrize("name", ["user", "item", "event", "ts", "query"])
def test_an_event_id_tells_rows_apart_by_each_of_their_columns(name: str) -> None:
    row: dict[str, Any] = {"user": 1, "item": 2, "event": "view", "ts": 3_000, "query": "a"}
    other = {"user": 2, "item": 1, "event": "buy", "ts": 3_001, "query": "b"}
    assert event_id_of(row) != event_id_of(row | {name: other[name]})
    assert event_id_of(row) == event_id_of(row | {"user": 1.0, "ts": 3_000})


def test_when_kafka_is_gone_the_error_says_where_to_go_on(tmp_path: Path) -> None:
    rows = written(tmp_path, many(100))
    sender = MemorySender(gone=40)
    with pytest.raises(ImportStopped, match=r"stopped at row 40 of 100.*--skip 40") as stopped:
        import_rows(rows, "events", rules(), sender)
    assert stopped.value.row == 40
    rest = MemorySender()
    assert import_rows(rows, "events", rules(skip=40), rest).rows == 60
    assert len(sender.sent) + len(rest.sent) == 100


def test_only_the_first_dropped_rows_are_kept_and_all_are_told(tmp_path: Path) -> None:
    dropped = list[Dropped]()
    rows = written(tmp_path, many(50) | {"event": ["hover"] * 50})
    report = import_rows(rows, "events", rules(on_dropped=dropped.append), None)
    assert (len(report.examples), len(dropped), report.sent) == (EXAMPLES, 50, 0)


def test_other_columns_and_other_files_are_refused_with_what_is_wanted(tmp_path: Path) -> None:
    rows = written(tmp_path, {"user_id": [1], "item_id": [1], "pos": [0]})
    with pytest.raises(NotImportable, match=r"wanted item_id, title \(items\) or user") as no:
        kind_of(rows)
    assert exit_code_of(no.value) is ExitCode.USAGE
    (tmp_path / "text.parquet").write_text("no parquet")
    for name in ("text.parquet", "none.parquet"):
        with pytest.raises(UnusableFolder, match=f"found {name} unreadable") as unusable:
            ParquetRows(tmp_path / name)
        assert exit_code_of(unusable.value) is ExitCode.MISSING


def oxygenrec(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "agents.cli", "import", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_command_says_what_it_dropped_and_writes_every_row_of_it(tmp_path: Path) -> None:
    rows, lines = written(tmp_path, EVENTS), tmp_path / "dropped.jsonl"
    done = oxygenrec(str(rows.path), "--dry-run", "--report", str(lines))
    assert done.returncode == ExitCode.OK, done.stderr
    assert "6 rows: 2 would be sent to actions, 3 dropped, 1 equal" in done.stdout
    assert "row 1: absurd_time: field ts: found -1, wanted" in done.stdout
    assert [json.loads(line)["row"] for line in lines.read_text().splitlines()] == [1, 4, 5]
    nothing = written(tmp_path, many(3) | {"event": ["hover"] * 3}, "nothing")
    assert oxygenrec(str(nothing.path), "--dry-run").returncode == ExitCode.FAILED


@pytest.mark.integration
def test_items_and_events_land_in_the_partition_of_their_key_and_twice_is_once(
    kafka: LocalKafka, tmp_path: Path
) -> None:
    kafka.ensure_topics(topic_table(PARTITIONS))
    settings = {
        "OXYGENREC_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "OXYGENREC_KAFKA__PARTITIONS": str(PARTITIONS),
    }
    titles = [f"kettle {n}" for n in range(50)]
    items = written(tmp_path, {"item_id": list(range(50)), "title": titles}, "items")
    events = written(tmp_path, many(200))
    logs = Logs(kafka.bootstrap)
    try:
        before = {t: logs.ends(t) for t in (topics.CATALOG, topics.ACTIONS)}
        for rows in (items, events, events):
            done = oxygenrec(str(rows.path), **settings)
            assert done.returncode == ExitCode.OK, done.stderr
        found: dict[str, list[str]] = {}
        for topic, starts in before.items():
            decoder: Decoder[Any] = Decoder(RECORDS[topic])
            for partition, messages in enumerate(logs.read(topic)):
                for message in messages[starts[partition] :]:
                    record = decoder.decode(message.value() or b"")
                    key = message.key() or b""
                    assert partition_of(key, PARTITIONS) == partition
                    found.setdefault(topic, []).append(
                        record.item_id if topic == topics.CATALOG else record.event_id
                    )
    finally:
        logs.close()
    assert sorted(found[topics.CATALOG]) == sorted(map(str, range(50)))
    assert len(found[topics.ACTIONS]) == 400
    assert len(set(found[topics.ACTIONS])) == 200
