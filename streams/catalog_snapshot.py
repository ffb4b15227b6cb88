"""The catalogue as `semantic-ids` tells it up to an offset: what an index is built from."""

from collections.abc import Iterable

from schemas import topics
from schemas.catalog import SidAssignment
from schemas.codec import Decoder
from streams.connections import KafkaConfig
from streams.log_reader import LogReader, LogRecord

_decoder: Decoder[SidAssignment] = Decoder(SidAssignment)


def fold(records: Iterable[LogRecord], generation: int | None = None) -> list[SidAssignment]:
    """Returns the last assignment of every item key, in order of the key.

    With `generation` only its assignments count. A tombstone takes the item away, and its SID off
    the next version's structure where no other item holds it. Raises InvalidRecord.
    """
    newest: dict[bytes | None, SidAssignment] = {}
    for record in records:
        if record.value is None:
            newest.pop(record.key, None)
            continue
        assignment = _decoder.decode(record.value)
        if generation is None or assignment.generation == generation:
            newest[record.key] = assignment
    return sorted(newest.values(), key=lambda assignment: assignment.item_key)


async def read_snapshot(
    kafka: KafkaConfig, generation: int | None = None
) -> tuple[list[SidAssignment], int]:
    """Returns the catalogue and its `index_offset`: everything before that offset is in it.

    Raises LogReadTimeout, InvalidRecord.
    """
    async with LogReader(kafka, topics.SEMANTIC_IDS) as log:
        _, end = await log.bounds()
        records = await log.read(None, end)
    return fold(records, generation), end
