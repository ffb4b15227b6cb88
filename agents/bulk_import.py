"""Bulk import: a Parquet file into `catalog` or `actions`, each row sent or accounted for.

Idempotent: an item is known by its id, and an event's id is made of its content (or is the row's
own `event_id`), so the same file again, sorted anew or continued, doubles nothing downstream. Rows
are sent in windows, and the next one begins when the last is acknowledged.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

from agents.exit_codes import ExitCode
from models.training.rows import (
    EVENT_COLUMNS,
    EVENT_NAMES,
    ITEM_COLUMNS,
    ParquetRows,
    event_of,
    identifier,
    item_of,
    time_ms_of,
)
from schemas import topics
from schemas.actions import UserAction
from schemas.catalog import ItemUpsert
from schemas.dead_letters import Reason, Rejection, reject_action
from schemas.errors import OxygenRecError
from streams.cloud_events import cloud_event_headers
from streams.producer import Delivered, UndeliveredRecord

SOURCE = "/oxygenrec-import"
WINDOW_ROWS = 5_000  # in flight at once: a twentieth of the producer's buffer
EXAMPLES = 10

Kind = Literal["items", "events"]
Record = ItemUpsert | UserAction


class NotImportable(OxygenRecError):
    """A file whose columns are neither those of items nor those of events."""

    exit_code = ExitCode.USAGE

    def __init__(self, *, path: Path, columns: tuple[str, ...]) -> None:
        self.path = path
        self.columns = columns
        super().__init__(
            f"{path}: found columns {', '.join(columns)}, wanted {', '.join(ITEM_COLUMNS)}, title"
            f" (items) or {', '.join(EVENT_COLUMNS)} (events): rename them, docs/producers.md"
            " shows how"
        )


class ImportStopped(OxygenRecError):
    """Kafka did not take a row: what came before is there, the rest is not."""

    def __init__(self, *, path: Path, row: int, rows: int, cause: str) -> None:
        self.row = row
        super().__init__(
            f"{path}: stopped at row {row} of {rows}: {cause}. The rows before it are"
            f" acknowledged: go on with --skip {row}, or run it again as it was, which doubles"
            " nothing"
        )


class RecordSender(Protocol):
    """What the import needs of a producer."""

    def send(self, topic: str, record: Record, key: str, *, headers: Any = ()) -> Future[Delivered]:
        """Queues a record; the future is its acknowledgement."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One row that was not sent, and why; rows count from 0."""

    row: int
    rejection: Rejection


@dataclass(slots=True, kw_only=True)
class ImportReport:
    """What became of the rows; `examples` are the first dropped ones."""

    topic: str
    rows: int = 0
    sent: int = 0
    repeated: int = 0
    dropped: Counter[Reason] = field(default_factory=Counter)
    examples: list[Dropped] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRules:
    """How rows of a shop are judged, and what is told of the way."""

    scenarios: frozenset[str]
    now_ms: int
    skip: int = 0
    on_dropped: Callable[[Dropped], None] = lambda dropped: None
    on_row: Callable[[], None] = lambda: None


def kind_of(rows: ParquetRows) -> Kind:
    """Returns what the rows are, by their columns. Raises `NotImportable`."""
    columns = set(rows.columns)
    if columns.issuperset(EVENT_COLUMNS):
        return "events"
    if columns.issuperset(ITEM_COLUMNS) and not columns & {"user", "user_id"}:
        return "items"
    raise NotImportable(path=rows.path, columns=rows.columns)


def import_rows(
    rows: ParquetRows, kind: Kind, rules: ImportRules, producer: RecordSender | None
) -> ImportReport:
    """Sends every usable row and returns what became of all; without a producer it only judges.

    Raises `ImportStopped` when Kafka does not acknowledge a row.
    """
    report = ImportReport(topic=topics.CATALOG if kind == "items" else topics.ACTIONS)
    window: list[tuple[int, Future[Delivered]]] = []
    for row, record in _usable(rows, kind, rules, report):
        if producer is not None:
            window.append((row, _send(producer, report.topic, record)))
        report.sent += 1
        if len(window) == WINDOW_ROWS:
            _await(window, rows)
    _await(window, rows)
    return report


def event_id_of(row: Mapping[str, Any]) -> str:
    """Returns an id made of who did what to which item when: the same row, the same id.

    Two equal rows are one event: at a resolution of seconds nothing tells them apart.
    """
    event = str(row["event"]).lower()
    parts = (
        *(identifier(row["user"]), EVENT_NAMES.get(event, event), identifier(row["item"])),
        *(time_ms_of(row["ts"]), identifier(row.get("query"))),
    )
    digest = blake2b("\x1f".join(map(str, parts)).encode(), digest_size=12)
    return f"import-{digest.hexdigest()}"


def _usable(
    rows: ParquetRows, kind: Kind, rules: ImportRules, report: ImportReport
) -> Iterator[tuple[int, Record]]:
    seen: set[str] = set()  # about 0.1 GB a million events
    for number, row in enumerate(rows):
        rules.on_row()
        if number < rules.skip:
            continue
        report.rows += 1
        record = item_of(row) if kind == "items" else _judged_event(row, rules)
        if isinstance(record, Rejection):
            _drop(Dropped(row=number, rejection=record), rules, report)
        elif isinstance(record, UserAction) and record.event_id in seen:
            report.repeated += 1
        else:
            if isinstance(record, UserAction):
                seen.add(record.event_id)
            yield number, record


def _judged_event(row: Mapping[str, Any], rules: ImportRules) -> UserAction | Rejection:
    action = event_of(row, event_id_of(row))
    if isinstance(action, Rejection):
        return action
    return reject_action(action, now_ms=rules.now_ms, scenarios=rules.scenarios) or action


def _drop(dropped: Dropped, rules: ImportRules, report: ImportReport) -> None:
    report.dropped[dropped.rejection.reason] += 1
    if len(report.examples) < EXAMPLES:
        report.examples.append(dropped)
    rules.on_dropped(dropped)


def _send(producer: RecordSender, topic: str, record: Record) -> Future[Delivered]:
    if isinstance(record, ItemUpsert):
        return producer.send(topic, record, record.item_id)
    headers = cloud_event_headers(record, SOURCE)
    return producer.send(topic, record, record.user_id, headers=headers)


def _await(window: list[tuple[int, Future[Delivered]]], rows: ParquetRows) -> None:
    for row, future in window:
        try:
            future.result()
        except UndeliveredRecord as error:
            raise ImportStopped(
                path=rows.path, row=row, rows=len(rows), cause=str(error)
            ) from error
    window.clear()
