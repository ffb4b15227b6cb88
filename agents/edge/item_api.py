"""What may be said about an item over HTTP, and how a partial statement meets what is known. Pure.

PUT replaces an item. PATCH is a JSON merge patch (RFC 7396): what is named is set, null takes it
away. Stock, scenarios, price and texts change; the semantic ID is that of the first text.
"""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from agents.edge.http_bodies import ElementDecoder, known_fields_only
from schemas.actions import Identifier, Text
from schemas.catalog import ItemRow, ItemUpsert
from schemas.dead_letters import Reason
from schemas.errors import InvalidRecord

Title = Annotated[str, Meta(max_length=2_000)]
Price = Annotated[float, Meta(ge=0)]
FIELDS = "title, category, brand, price, in_stock, scenarios"

T = TypeVar("T")


class ItemPut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole item; what is left out becomes empty, an item is in stock unless it says otherwise.

    `scenarios` null: it is shown in all of them.
    """

    title: Title
    category: Text = ""
    brand: Text = ""
    price: Price | None = None
    in_stock: bool = True
    scenarios: list[Identifier] | None = None


class ItemPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to an item; what is left out stays."""

    title: Title | UnsetType = UNSET
    category: Text | UnsetType | None = UNSET
    brand: Text | UnsetType | None = UNSET
    price: Price | UnsetType | None = UNSET
    in_stock: bool | UnsetType = UNSET
    scenarios: list[Identifier] | UnsetType | None = UNSET


class ItemShown(Struct, frozen=True, kw_only=True):
    """An item as Redis holds it; `live`: it may be shown now."""

    item_id: str
    live: bool
    title: str
    category: str
    brand: str
    price: float | None
    scenarios: list[str] | None


class DeletionAnswer(Struct, frozen=True, kw_only=True):
    """The deletion as it stands in `catalog`."""

    item_id: str
    deleted_ms: int


_put = ElementDecoder(ItemPut)
_patch = ElementDecoder(ItemPatch)

EXAMPLES: dict[type[Struct], object] = {
    ItemPut: {"title": "Red umbrella", "category": "Home > Rain", "price": 19.9},
    ItemPatch: {"in_stock": False},
}


def item_of(item_id: str, body: bytes, now_ms: int, scenarios: Sequence[str]) -> ItemUpsert:
    """Returns the item that a PUT states; `scenarios` are those there are. Raises
    `InvalidRecord`.
    """
    put = known_fields_only(body, _put, FIELDS)
    _check_scenarios(put.scenarios, scenarios)
    return ItemUpsert(item_id=item_id, updated_ms=now_ms, **msgspec.structs.asdict(put))


def patch_of(body: bytes, scenarios: Sequence[str]) -> ItemPatch:
    """Returns the changes that a PATCH states. Raises `InvalidRecord`."""
    patch = known_fields_only(body, _patch, FIELDS)
    if patch.scenarios is not UNSET:
        _check_scenarios(patch.scenarios, scenarios)
    return patch


def merged(known: ItemRow, patch: ItemPatch, now_ms: int) -> ItemUpsert:
    """Returns what is known of an item with the changes."""
    return ItemUpsert(
        item_id=known.item_id,
        title=_said(known.title, patch.title),
        category=_said(known.category, patch.category) or "",
        brand=_said(known.brand, patch.brand) or "",
        price=_said(known.price, patch.price),
        in_stock=_said(known.live, patch.in_stock),
        scenarios=_said(known.scenarios, patch.scenarios),
        updated_ms=now_ms,
    )


def shown(row: ItemRow) -> ItemShown:
    """Returns a row as it is answered, without its 63-bit key."""
    return ItemShown(
        item_id=row.item_id,
        live=row.live,
        title=row.title,
        category=row.category,
        brand=row.brand,
        price=row.price,
        scenarios=row.scenarios,
    )


def _said(before: T, said: T | UnsetType) -> T:
    return before if isinstance(said, UnsetType) else said


def _check_scenarios(said: Sequence[str] | None, known: Sequence[str]) -> None:
    if unknown := sorted(set(said or ()) - set(known)):
        raise InvalidRecord(
            reason=Reason.OUT_OF_RANGE,
            field="scenarios",
            found=unknown[0],
            wanted=f"some of {', '.join(known)}; null for all",
        )
