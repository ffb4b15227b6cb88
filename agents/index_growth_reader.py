"""Reads `semantic-ids` as far as a logged request needs it, so that it is scored as it was served.

The replica that answered had read up to `index_offset`; the trainer reads to exactly there, and
therefore makes of the same log the same weights.
"""

from models.policy.index_growth import IndexGrowth
from schemas import topics
from schemas.catalog import SidAssignment
from schemas.codec import Decoder
from streams.connections import KafkaConfig
from streams.log_reader import LogReader

_decoder: Decoder[SidAssignment] = Decoder(SidAssignment)


class IndexGrowthReader:
    """Brings an `IndexGrowth` forward; a request without news costs nothing."""

    def __init__(self, kafka: KafkaConfig, growth: IndexGrowth) -> None:
        self._kafka = kafka
        self._growth = growth

    async def reach(self, index_offset: int) -> None:
        """Returns when `growth` knows the log before `index_offset`.

        Raises LogReadTimeout for an offset beyond the log's end, InvalidRecord, KafkaError.
        """
        growth = self._growth
        if index_offset <= growth.position:
            return
        async with LogReader(self._kafka, topics.SEMANTIC_IDS) as log:
            records = await log.read(growth.position, index_offset)
        growth.extend(
            ((r.offset, _decoder.decode(r.value)) for r in records if r.value is not None),
            index_offset,
        )
