"""The text encoder of each generation, for the words of a search at the edge."""

import logging
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from agents.ports import TextEncoder
from agents.settings import Settings
from agents.text_encoders import PROBE, encoder_of
from schemas.encoding import EncoderUnavailable
from schemas.errors import OxygenRecError

KEPT = 2  # the generation in force, and the one before it while requests are under way
PROBE_MS = 2_000  # one word takes milliseconds; the announced version is served meanwhile

logger = logging.getLogger(__name__)


class QueryEncoders:
    """Opens a generation's encoder when a policy of it is announced; an async context."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: dict[int, tuple[TextEncoder, AsyncExitStack]] = {}

    async def __aenter__(self) -> Self:
        """Opens nothing yet."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes what is open."""
        for generation in list(self._opened):
            await self._close(generation)

    def of(self, generation: int) -> TextEncoder | None:
        """Returns the encoder of a generation, or None: its queries are then no instructions."""
        opened = self._opened.get(generation)
        return opened[0] if opened else None

    async def load(self, generation: int) -> None:
        """Opens it once; without the generation's folder, or where Triton has another encoder, the
        edge goes on, and says so.
        """
        if generation in self._opened:
            self._opened[generation] = self._opened.pop(generation)  # the two loaded last are kept
            return
        stack = AsyncExitStack()
        try:
            encoder = await stack.enter_async_context(encoder_of(self._settings, generation))
            await _probe(encoder)
        except (OSError, OxygenRecError) as error:
            await stack.aclose()
            logger.warning("queries are no instructions here", extra={"cause": str(error)})
        else:
            self._opened[generation] = (encoder, stack)
        for old in list(self._opened)[:-KEPT]:
            await self._close(old)

    async def _close(self, generation: int) -> None:
        _, stack = self._opened.pop(generation)
        await stack.aclose()


async def _probe(encoder: TextEncoder) -> None:
    """Raises `EncoderMismatch`. One that does not answer yet may do so when a search comes."""
    try:
        await encoder.encode([PROBE], deadline_ms=PROBE_MS)
    except EncoderUnavailable as error:
        logger.warning("the text encoder does not answer yet", extra={"cause": str(error)})
