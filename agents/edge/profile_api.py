"""What may be said about a user over HTTP, and how a partial statement meets what is known. Pure.

PUT replaces a profile. PATCH is a JSON merge patch (RFC 7396): what is named is set, null takes it
away, attributes merge name by name.
"""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from agents.edge.http_bodies import ElementDecoder, known_fields_only
from schemas.actions import Identifier, Text
from schemas.dead_letters import Reason
from schemas.errors import InvalidRecord
from schemas.users import UserProfile

MAX_ATTRIBUTES = (
    64  # a profile is read with every window: 64 attributes of 512 characters are 40 kB
)

FIELDS = "city, age_band, attributes"


class ProfilePut(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole profile; what is left out becomes empty."""

    city: Text = ""
    age_band: Text = ""
    attributes: Annotated[dict[Identifier, Text], Meta(max_length=MAX_ATTRIBUTES)] = {}


class ProfilePatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes to a profile; what is left out stays, null takes away."""

    city: Text | UnsetType | None = UNSET
    age_band: Text | UnsetType | None = UNSET
    attributes: dict[Identifier, Text | None] | UnsetType | None = UNSET


class ErasureAnswer(Struct, frozen=True, kw_only=True):
    """The erasure as it stands in `actions`: what the user did before it is used no more."""

    user_id: str
    event_id: str
    erased_ms: int


_put = ElementDecoder(ProfilePut)
_patch = ElementDecoder(ProfilePatch)

EXAMPLES: dict[type[Struct], object] = {
    ProfilePut: {"city": "Lima", "age_band": "25-34", "attributes": {"language": "es"}},
    ProfilePatch: {"city": "Cusco", "attributes": {"language": None, "sizes": "M"}},
}


def profile_of(user_id: str, body: bytes, now_ms: int) -> UserProfile:
    """Returns the profile that a PUT states. Raises `InvalidRecord`."""
    put = known_fields_only(body, _put, FIELDS)
    return UserProfile(
        user_id=user_id,
        city=put.city,
        age_band=put.age_band,
        attributes=put.attributes,
        updated_ms=now_ms,
    )


def patch_of(body: bytes) -> ProfilePatch:
    """Returns the changes that a PATCH states. Raises `InvalidRecord`."""
    return known_fields_only(body, _patch, FIELDS)


def merged(
    user_id: str, known: UserProfile | None, patch: ProfilePatch, now_ms: int
) -> UserProfile:
    """Returns `known` (None: an empty profile) with the changes. Raises `InvalidRecord`."""
    before = known or UserProfile(user_id=user_id)
    attributes = {} if patch.attributes is None else dict(before.attributes)
    for name, value in (patch.attributes or {}).items():
        if value is None:
            attributes.pop(name, None)
        else:
            attributes[name] = value
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidRecord(
            reason=Reason.OUT_OF_RANGE,
            field="attributes",
            found=f"{len(attributes)} attributes after the merge",
            wanted=f"at most {MAX_ATTRIBUTES}; take some away with null",
        )
    return UserProfile(
        user_id=user_id,
        city=_changed(before.city, patch.city),
        age_band=_changed(before.age_band, patch.age_band),
        attributes=attributes,
        updated_ms=now_ms,
    )


def _changed(before: str, said: str | UnsetType | None) -> str:
    return before if said is UNSET else said or ""
