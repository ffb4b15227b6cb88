"""Behaviour: one remembered action, as Redis holds it (item keys, never semantic IDs)."""

from msgspec import Struct

from schemas.actions import ActionType


class Behaviour(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One action of one user; searches have a query and no item."""

    event_id: str
    action: ActionType
    event_time_ms: int
    item_key: int | None = None
    query: str | None = None
    scenario: str = "home"
