"""Decides what a batch of catalogue changes publishes. Pure: vectors and what assigns come in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from models.semantic_ids.sid_assigner import SidAssigner
from models.vectors import pack
from schemas.catalog import ItemRow, ItemUpsert, SidAssignment, item_key_of
from schemas.codec import Decoder
from schemas.dead_letters import Reason, Rejection
from schemas.errors import InvalidRecord
from streams.dead_letters import Source, rejection_of

Floats = npt.NDArray[np.float32]

_decoder: Decoder[ItemUpsert] = Decoder(ItemUpsert)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One record of `catalog`: the item as it is now, or None where it was deleted."""

    source: Source
    item_id: str
    item: ItemUpsert | None


@dataclass(slots=True)
class IndexPlan:
    """What a batch asks for: rows in Redis (None: not live any more), then assignments in order."""

    rows: dict[int, ItemRow | None] = field(default_factory=dict)
    assignments: list[SidAssignment] = field(default_factory=list)
    refused: list[tuple[Source, Rejection]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """What never changes about an item within a generation, as it travels."""

    sid: list[int]
    embedding: bytes


class CatalogIndex:
    """Every item that `semantic-ids` knows in this generation, by item key."""

    def __init__(
        self,
        generation: int,
        assigner: SidAssigner,
        published: Iterable[SidAssignment] = (),
    ) -> None:
        """Starts from what the log says. A text that changes later moves neither SID nor vector."""
        self._generation = generation
        self._assigner = assigner
        self._published = {assignment.item_key: assignment for assignment in published}

    def __len__(self) -> int:
        return len(self._published)

    def new_items(self, changes: Sequence[Change]) -> dict[int, ItemUpsert]:
        """Returns the items by key whose texts are to be encoded: each as it came first."""
        fresh: dict[int, ItemUpsert] = {}
        for change in changes:
            key = item_key_of(change.item_id)
            if change.item is not None and key not in self._published:
                fresh.setdefault(key, change.item)
        return fresh

    def plan(
        self, changes: Sequence[Change], vectors: Mapping[int, Floats], now_ms: int
    ) -> IndexPlan:
        """Returns what the changes ask for, and takes it as published.

        `vectors` holds a row [dim] for each of `new_items(changes)`, by key.

        A change that alters nothing is not published again. Two item ids with one key are not told
        apart by anything downstream: the later one is refused.
        """
        plan = IndexPlan()
        identities = self._identities(vectors)
        for change in changes:
            key = item_key_of(change.item_id)
            known = self._published.get(key)
            if known is not None and known.item_id != change.item_id:
                plan.refused.append((change.source, _collision(change.item_id, known.item_id)))
            elif change.item is not None:
                self._publish(plan, self._assignment(key, change.item, identities, now_ms))
                plan.rows[key] = row_of(key, change.item)
            elif known is not None:
                self._publish(plan, _out_of_stock(known, now_ms))
                row = plan.rows.get(key)  # written in this batch: its text stays
                plan.rows[key] = replace(row, live=False) if row else None
        return plan

    def _identities(self, vectors: Mapping[int, Floats]) -> dict[int, _Identity]:
        if not vectors:
            return {}
        sids = self._assigner.assign(list(vectors), np.stack(list(vectors.values())))
        return {
            key: _identity(sid, vector)
            for (key, vector), sid in zip(vectors.items(), sids, strict=True)
        }

    def _assignment(
        self, key: int, item: ItemUpsert, identities: dict[int, _Identity], now_ms: int
    ) -> SidAssignment:
        known = self._published.get(key)
        identity = _Identity(sid=known.sid, embedding=known.embedding) if known else identities[key]
        return SidAssignment(
            item_key=key,
            item_id=item.item_id,
            sid=identity.sid,
            generation=self._generation,
            embedding=identity.embedding,
            in_stock=item.in_stock,
            scenarios=item.scenarios,
            published_ms=now_ms,
        )

    def _publish(self, plan: IndexPlan, assignment: SidAssignment) -> None:
        known = self._published.get(assignment.item_key)
        self._published[assignment.item_key] = assignment
        if known is None or _facts(known) != _facts(assignment):
            plan.assignments.append(assignment)


def _facts(assignment: SidAssignment) -> tuple[bool, list[str] | None]:
    return assignment.in_stock, assignment.scenarios


def _identity(sid: npt.NDArray[np.int16], vector: npt.NDArray[np.float32]) -> _Identity:
    return _Identity(sid=[int(code) for code in sid], embedding=pack(vector))


def _out_of_stock(known: SidAssignment, now_ms: int) -> SidAssignment:
    return SidAssignment(
        item_key=known.item_key,
        item_id=known.item_id,
        sid=known.sid,
        generation=known.generation,
        embedding=known.embedding,
        in_stock=False,
        scenarios=known.scenarios,
        published_ms=now_ms,
    )


def row_of(key: int, item: ItemUpsert) -> ItemRow:
    """Returns what Redis holds of an item."""
    return ItemRow(
        item_key=key,
        item_id=item.item_id,
        live=item.in_stock,
        title=item.title,
        category=item.category,
        brand=item.brand,
        price=item.price,
        scenarios=item.scenarios,
    )


def decode_changes(
    sources: Iterable[Source],
) -> tuple[list[Change], list[tuple[Source, Rejection]]]:
    """Returns the changes that records of `catalog` ask for, and those that are none."""
    changes, refused = [], []
    for source in sources:
        try:
            changes.append(_change(source))
        except InvalidRecord as error:
            refused.append((source, rejection_of(error)))
    return changes, refused


def _change(source: Source) -> Change:
    if source.value is not None:
        item = _decoder.decode(source.value)
        return Change(source=source, item_id=item.item_id, item=item)
    try:
        item_id = (source.key or b"").decode()
    except UnicodeDecodeError as error:
        raise _no_key("bytes that are not UTF-8") from error
    if not item_id:
        raise _no_key("nothing")
    return Change(source=source, item_id=item_id, item=None)


def _no_key(found: str) -> InvalidRecord:
    wanted = "the id of the item to delete, as the record's key"
    return InvalidRecord(reason=Reason.MISSING_FIELD, field="key", found=found, wanted=wanted)


def _collision(item_id: str, holder: str) -> Rejection:
    return Rejection(
        reason=Reason.KEY_COLLISION,
        field="item_id",
        found=item_id,
        wanted=f"an id whose 63-bit hash differs from that of {holder}: rename the item",
    )
