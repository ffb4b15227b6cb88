"""The catalogue on the wire: what merchants send, and the semantic IDs the indexer assigns."""

from functools import lru_cache
from hashlib import blake2b
from typing import Annotated

from msgspec import Meta, Struct

from schemas.actions import Identifier, Text


class ItemUpsert(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag="item_upsert/1"
):
    """One item as it is now; a null value under its key deletes it."""

    item_id: Identifier
    title: Annotated[str, Meta(max_length=2_000)]
    category: Text = ""
    brand: Text = ""
    price: Annotated[float, Meta(ge=0)] | None = None
    in_stock: bool = True
    scenarios: list[Identifier] | None = None
    updated_ms: int = 0


class SidAssignment(Struct, frozen=True, kw_only=True, tag_field="schema", tag="sid_assignment/1"):
    """The semantic ID of one item in one generation.

    Its offset in `semantic-ids` versions the live index.

    `embedding` holds little-endian fp16 numbers of the generation's text encoder; `scenarios` None
    means all.
    """

    item_key: int
    item_id: str
    sid: list[int]
    generation: int
    embedding: bytes
    in_stock: bool
    scenarios: list[str] | None
    published_ms: int


class ItemRow(Struct, frozen=True, kw_only=True):
    """What Redis knows about an item: `live` is the last word on whether it may be shown.

    None scenarios: all.
    """

    item_key: int
    item_id: str
    live: bool
    title: str
    category: str
    brand: str = ""
    price: float | None = None
    scenarios: list[str] | None = None


@lru_cache(maxsize=65_536)  # the router asks for every action; items come back
def item_key_of(item_id: str) -> int:
    """Returns 63 bits of blake2b(item_id): the item's number in tensors and in Redis."""
    digest = blake2b(item_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
