"""Slow thinking on the wire: triggers (a window), instructions (text and vector)."""

from enum import StrEnum

from msgspec import Struct

from schemas.actions import UserAction


class InstructionKind(StrEnum):
    """The three kinds of contextual reasoning instructions (OxygenREC, section 3.3)."""

    PROFILE = "spatiotemporal_profile"
    QUERY_REWRITE = "query_rewrite"
    INTENT = "intent_inference"


class InstructionTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    tag_field="schema",
    tag="instruction_trigger/1",
):
    """One window `[window_start_ms, window_end_ms)` of one user: closed, or just begun.

    `actions` are its high-value actions, in order: all of a closed window, the first of one that
    has begun; `as_of_ms` then says that what follows is not in it (None: the window's end).

    `trigger_id` is `user_id:window_start_ms`: a repeat after a crash has the same id and content.
    """

    trigger_id: str
    user_id: str
    window_start_ms: int
    window_end_ms: int
    actions: list[UserAction]
    as_of_ms: int | None = None

    @property
    def until_ms(self) -> int:
        """The instruction speaks about what happened before this time, and nothing after it."""
        return self.window_end_ms if self.as_of_ms is None else self.as_of_ms


class ReasoningInstruction(
    Struct, frozen=True, kw_only=True, tag_field="schema", tag="reasoning_instruction/1"
):
    """What the slow path concluded about one user, as of the time that its trigger speaks about.

    `vector` holds `dim` little-endian fp16 numbers made by the text encoder `encoder_id`; it is
    only valid inside `generation`. `after_erasure_ms` is the time of the user's erasure where there
    was one: the instruction knows of nothing before it, and is valid until the user's next one.
    """

    instruction_id: str
    trigger_id: str
    user_id: str
    generation: int
    kind: InstructionKind
    text: str
    vector: bytes
    encoder_id: str
    as_of_ms: int
    created_ms: int
    reasoner: str
    after_erasure_ms: int | None = None


def trigger_id_of(user_id: str, window_start_ms: int) -> str:
    """Returns the deterministic id of the one trigger a user's window may have."""
    return f"{user_id}:{window_start_ms}"
