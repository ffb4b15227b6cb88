"""What slow thinking may look at, and what it concludes (numpy-free, torch-free)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.actions import UserAction
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow
from schemas.instructions import InstructionKind
from schemas.users import UserProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningContext:
    """`window`: the trigger's actions; `behaviour`: oldest first, never after `as_of_ms`."""

    user_id: str
    as_of_ms: int
    window: Sequence[UserAction]
    behaviour: Sequence[Behaviour]
    items: Mapping[int, ItemRow]
    profile: UserProfile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """What a reasoner concluded: a short text that will be embedded, and who wrote it.

    `reasoner` is the writer's name and version: a reasoner that falls back names the other one.
    """

    kind: InstructionKind
    text: str
    reasoner: str
