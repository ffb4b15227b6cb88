"""User profiles: slow attributes that the reasoner may use.

A null value under the user's key deletes them.
"""

from msgspec import Struct

from schemas.actions import Identifier, Text


class UserProfile(
    Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag="user_profile/1"
):
    """What is known about a user apart from behaviour."""

    user_id: Identifier
    city: Text = ""
    age_band: Text = ""
    attributes: dict[str, Text] = {}
    updated_ms: int = 0
