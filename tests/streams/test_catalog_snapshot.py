"""What a snapshot of `semantic-ids` holds."""

from schemas.catalog import SidAssignment
from schemas.codec import encode
from streams.catalog_snapshot import fold
from streams.log_reader import LogRecord


def assignment(
    item_key: int, *, generation: int = 1, in_stock: bool = True, code: int = 0
) -> SidAssignment:
    return SidAssignment(
        item_key=item_key,
        item_id=f"item-{item_key}",
        sid=[code, 0, 0],
        generation=generation,
        embedding=b"",
        in_stock=in_stock,
        scenarios=None,
        published_ms=0,
    )


def log(*entries: tuple[int, SidAssignment | None]) -> list[LogRecord]:
    return [
        LogRecord(
            offset=offset,
            key=str(key).encode(),
            value=None if found is None else encode(found),
            timestamp_ms=0,
        )
        for offset, (key, found) in enumerate(entries)
    ]


def test_the_last_assignment_of_an_item_counts() -> None:
    records = log((2, assignment(2)), (1, assignment(1)), (2, assignment(2, in_stock=False)))
    assert fold(records) == [assignment(1), assignment(2, in_stock=False)]


def test_a_tombstone_takes_an_item_away_until_it_comes_back() -> None:
    gone = log((1, assignment(1)), (2, assignment(2)), (1, None))
    assert fold(gone) == [assignment(2)]
    assert fold(log((1, assignment(1)), (1, None), (1, assignment(1, code=3)))) == [
        assignment(1, code=3)
    ]


def test_another_generation_neither_counts_nor_replaces() -> None:
    records = log((1, assignment(1)), (1, assignment(1, generation=2, code=7)))
    assert fold(records, 1) == [assignment(1)]
    assert fold(records, 2) == [assignment(1, generation=2, code=7)]
