"""Announcements of published policies, one line of versions a key."""

from msgspec import Struct

DEFAULT_LINE = "default"


class PolicyPublished(
    Struct, frozen=True, kw_only=True, tag_field="schema", tag="policy_published/1"
):
    """What every edge must serve from now on.

    A smaller `epoch` than one already seen is a fenced writer.
    """

    line: str
    stable_version: int
    generation: int
    index_offset: int
    epoch: int
    published_ms: int
    canary_version: int | None = None
    canary_share: float = 0.0
