"""`oxygenrec import FILE`: a Parquet file of items or events into Kafka, row by row."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agents.exit_codes import ExitCode

if TYPE_CHECKING:
    from agents.bulk_import import Dropped, ImportReport
    from agents.settings import Settings
    from streams.producer import RecordProducer

SHOWN_CHARACTERS = 300


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of items or of events.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only, send nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write each dropped row as a JSON line.")
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="Begin behind so many rows.")] = 0,
) -> None:
    """Sends a Parquet file to Kafka: items to `catalog`, events to `actions`.

    Its columns say which it is. Says what was dropped and why; the same file again doubles
    nothing. Exits 1 when no row was usable.

    \b
    oxygenrec import items.parquet --dry-run
    oxygenrec import items.parquet
    oxygenrec import events.parquet --report dropped.jsonl
    """
    from agents.bulk_import import ImportRules, import_rows, kind_of
    from agents.log_lines import configure_logging
    from agents.settings import load_settings
    from models.training.rows import ParquetRows

    settings = load_settings()
    configure_logging(settings.log)
    rows = ParquetRows(file)
    kind = kind_of(rows)
    with ExitStack() as stack:
        producer = None if dry_run else stack.enter_context(_producer(settings, kind))
        rules = ImportRules(
            scenarios=frozenset(settings.serving.scenarios),
            now_ms=time.time_ns() // 1_000_000,
            skip=skip,
            on_dropped=stack.enter_context(_lines_of(report)),
            on_row=stack.enter_context(_bar(len(rows), file.name)),
        )
        done = import_rows(rows, kind, rules, producer)
    typer.echo(summary(done, dry_run=dry_run, report=report))
    if done.rows and not done.sent:
        raise typer.Exit(ExitCode.FAILED)


def summary(done: "ImportReport", *, dry_run: bool, report: Path | None) -> str:
    """Returns the counts, the reasons, and the first dropped rows."""
    from agents.cli_kafka import shown

    verb = "would be sent" if dry_run else "sent"
    lost = done.dropped.total()
    lines = [
        f"{done.rows:,} rows: {done.sent:,} {verb} to {done.topic}, {lost:,} dropped,"
        f" {done.repeated:,} equal to an earlier row"
    ]
    lines += [f"  {count:>9,} {reason}" for reason, count in done.dropped.most_common()]
    for dropped in done.examples:
        why = dropped.rejection
        words = f"field {why.field}: found {why.found}, wanted {why.wanted}"
        cause = shown(words.encode(errors="backslashreplace"), SHOWN_CHARACTERS)
        lines.append(f"row {dropped.row}: {why.reason}: {cause}")
    if report is not None:
        lines.append(f"every dropped row: {report}")
    elif lost > len(done.examples):
        lines.append(f"and {lost - len(done.examples):,} more: --report FILE writes them all")
    return "\n".join(lines)


def _producer(settings: "Settings", kind: str) -> "RecordProducer":
    """Returns a producer for a broker that has the topic. Raises `BrokerSilent`, `TopicsDiffer`."""
    from agents.cli_kafka import kafka_of
    from schemas import topics
    from streams.admin import check_topics
    from streams.producer import RecordProducer

    kafka = kafka_of(settings)
    check_topics(kafka, (topics.CATALOG if kind == "items" else topics.ACTIONS,))
    return RecordProducer(kafka, "oxygenrec-import")


@contextmanager
def _lines_of(report: Path | None) -> "Iterator[Callable[[Dropped], None]]":
    """Gives a function that writes a dropped row to the report, or does nothing without one."""
    from schemas.codec import encode

    if report is None:
        yield lambda dropped: None
        return
    with report.open("wb") as lines:

        def write(dropped: "Dropped") -> None:
            lines.write(b'{"row":%d,"rejection":%s}\n' % (dropped.row, encode(dropped.rejection)))

        yield write


@contextmanager
def _bar(rows: int, name: str) -> Iterator[Callable[[], None]]:
    """Gives a function that moves a progress bar by a row; without a terminal there is none."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(name, total=rows)
        yield lambda: progress.advance(task)
