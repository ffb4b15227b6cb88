"""What agents need from stores and models, as protocols on the consumer's side.

Stores (`streams/redis_*.py`), reasoners (`models/reasoning/`, `agents/chat_reasoner.py`), and what
runs in Triton or in process: generators (`streams/triton_client.py`,
`agents/in_process_generator.py`) and text encoders (`streams/triton_encoder.py`,
`agents/text_encoders.py`) satisfy them structurally;
`tests/contracts/` holds one suite a port, run on every implementation.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.reasoning.context import Reasoning, ReasoningContext
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow
from schemas.generation import GenerationRequest, GenerationResponse
from schemas.instructions import ReasoningInstruction
from schemas.users import UserProfile


class HistoryStore(Protocol):
    """Behaviour by user: a sorted set by event id, so that a repeated action changes nothing."""

    async def recent(self, user_id: str, count: int) -> list[Behaviour]:
        """Returns the newest `count` actions, oldest first."""
        ...


class InstructionStore(Protocol):
    """The instruction in force, by generation and user: the newest window wins."""

    async def read(self, generation: int, user_id: str) -> ReasoningInstruction | None:
        """Returns the instruction in force, or None."""
        ...

    async def write(self, instruction: ReasoningInstruction) -> bool:
        """Stores it and returns True, unless one as new is there or the user was erased since."""
        ...

    async def erased_ms(self, user_id: str) -> int | None:
        """Returns the time of the user's erasure, None without one: what is older is not used."""
        ...


class ItemStore(Protocol):
    """Item rows by key, and the popular items of a scenario (what a degraded answer is made of)."""

    async def rows(self, item_keys: Sequence[int]) -> Mapping[int, ItemRow]:
        """Returns the rows that exist among `item_keys`."""
        ...

    async def popular(self, scenario: str, count: int) -> list[int]:
        """Returns up to `count` item keys of the scenario by falling popularity."""
        ...


class ProfileStore(Protocol):
    """User profiles."""

    async def profile(self, user_id: str) -> UserProfile | None:
        """Returns the profile, or None."""
        ...


class TextEncoder(Protocol):
    """Texts to unit vectors, in process or asked of Triton (`agents/text_encoders.py`).

    A vector is only valid beside others of the same `encoder_id`; none of another is ever returned.
    """

    @property
    def encoder_id(self) -> str: ...
    @property
    def dim(self) -> int: ...
    async def encode(
        self, texts: Sequence[str], *, deadline_ms: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Returns [len(texts), dim] float32 rows of length 1 (0 where nothing is known).

        Raises `EncoderUnavailable` within the deadline; without one it waits for a server that is
        gone. Raises `EncoderMismatch` where another encoder answers, and `BadEncodingRequest`.
        """
        ...


class Reasoner(Protocol):
    """Behaviour to reasoning instruction (OxygenREC, section 3.3)."""

    @property
    def name(self) -> str: ...
    async def reason(self, context: ReasoningContext) -> Reasoning:
        """Returns the instruction's text for one closed window."""
        ...


class Generator(Protocol):
    """The fast path: semantic IDs under an instruction."""

    async def generate(
        self, request: GenerationRequest, *, version: int, deadline_ms: int
    ) -> GenerationResponse:
        """Decodes with policy `version`.

        Raises `GeneratorUnavailable` when it is gone, late or full.
        """
        ...
