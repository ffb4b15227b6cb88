"""Triton's entry of the model `text_encoder`: a version's `model.py` imports `TritonPythonModel`.

As the generator's (`agents/triton_generator.py`): torch is imported and the encoder warmed on a
thread of low priority, requests are answered on this one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.low_priority import in_background

if TYPE_CHECKING:
    from agents.encoder_replica import EncoderReplica


class TritonPythonModel:
    """The text encoder of one generation as the python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads and warms the encoder; Triton calls it ready only afterwards."""
        version = Path(args["model_repository"]) / args["model_version"]
        self._replica = in_background(lambda: _load(version))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one response a request."""
        return self._replica.execute(requests)


def _load(version: Path) -> "EncoderReplica":
    from agents.encoder_replica import EncoderReplica

    return EncoderReplica(version)
