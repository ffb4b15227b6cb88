"""User actions: what producers publish to `actions`, and what the router makes of it.

`expose` means the item was in the viewport; `view` means its detail page was opened. Event time
travels in the record (`event_time_ms`); the topics themselves use LogAppendTime.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

Identifier = Annotated[str, Meta(min_length=1, max_length=128)]
Text = Annotated[str, Meta(max_length=512)]

# Before 2000 or after 2100 a timestamp is a unit mistake (seconds or microseconds), not an event.
EARLIEST_EVENT_MS = 946_684_800_000
LATEST_EVENT_MS = 4_102_444_800_000
# Clocks of phones run ahead; more than a minute is a broken clock (FLOW, Windows)
FUTURE_TOLERANCE_MS = 60_000


class ActionType(StrEnum):
    """What the user did.

    The order is a wire contract of the generator (`ACTION_CODES`): append only.
    """

    EXPOSE = "expose"
    VIEW = "view"
    CLICK = "click"
    CART = "cart"
    FAVORITE = "favorite"
    ORDER = "order"
    SEARCH = "search"
    SHARE = "share"
    DISLIKE = "dislike"


ACTION_CODES: dict[ActionType, int] = {action: code for code, action in enumerate(ActionType)}


class ActionContext(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and when the action happened, as far as the producer knows."""

    city: Text | None = None
    tz: Text | None = None
    weather: Text | None = None
    holiday: Text | None = None
    device: Text | None = None


class UserAction(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="schema",
    tag="user_action/1",
    gc=False,  # no cycle can hold it, and the router has thousands in hand
):
    """One thing one user did.

    `event_id` is chosen by the producer and makes every effect idempotent.
    """

    event_id: Identifier
    user_id: Identifier
    action: ActionType
    event_time_ms: int
    scenario: Identifier = "home"
    item_id: Identifier | None = None
    query: Text | None = None
    request_id: Identifier | None = None
    position: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    quantity: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    price: Annotated[float, Meta(ge=0)] | None = None
    context: ActionContext | None = None
    attributes: dict[str, Text] = {}


class UserErased(Struct, frozen=True, kw_only=True, tag_field="schema", tag="user_erased/1"):
    """The user asked to be forgotten.

    Travels in band, so that every consumer drops state in order.
    """

    event_id: Identifier
    user_id: Identifier
    event_time_ms: int


class Watermark(Struct, frozen=True, kw_only=True, tag_field="schema", tag="watermark/1"):
    """No action of this source partition before `watermark_ms` is still expected."""

    watermark_ms: int


ActionRecord = UserAction | UserErased
HighValueRecord = UserAction | UserErased | Watermark
