"""The text encoder of each generation, for the words of a search at the edge (numpy only)."""

import asyncio
import logging
from pathlib import Path

from agents.ports import TextEncoder
from models.reasoning.text_encoder import CharacterEncoder
from schemas.errors import OxygenRecError

KEPT = 2  # the generation in force, and the one before it while requests are under way

logger = logging.getLogger(__name__)


class QueryEncoders:
    """Loads `generations/<g>/` when a policy of generation g is announced."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._loaded: dict[int, TextEncoder] = {}

    def of(self, generation: int) -> TextEncoder | None:
        """Returns the encoder of a generation, or None: its queries are then no instructions."""
        return self._loaded.get(generation)

    async def load(self, generation: int) -> None:
        """Loads it once; without the generation's folder the edge goes on, and says so."""
        if generation in self._loaded:
            self._loaded[generation] = self._loaded.pop(generation)  # the two loaded last are kept
            return
        folder = self._home / "generations" / str(generation)
        try:
            self._loaded[generation] = await asyncio.to_thread(CharacterEncoder.load, folder)
        except (OSError, OxygenRecError) as error:
            logger.warning("queries are no instructions here", extra={"cause": str(error)})
        for old in list(self._loaded)[:-KEPT]:
            del self._loaded[old]
