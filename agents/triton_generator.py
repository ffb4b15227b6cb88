"""Triton's entry: a version directory's `model.py` is one line that imports `TritonPythonModel`.

A version is loaded beside the one that serves, on the same cores: importing torch and warming up
(2-3 s of CPU) therefore happen on a thread of low priority, requests on this one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.low_priority import in_background

if TYPE_CHECKING:
    from agents.triton_replica import TritonReplica


class TritonPythonModel:
    """The generator of one policy version as the python backend calls it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads, warms and brings the version up to date; Triton calls it ready only afterwards."""
        directory = Path(args["model_repository"]) / args["model_version"]
        self._replica = in_background(lambda: _load(directory))
        # On this thread: the follower's inherits its priority, and takes the lock of decoding.
        self._replica.follow()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one response a request."""
        return self._replica.execute(requests)

    def finalize(self) -> None:
        """Ends what runs beside the requests; called when the version is unloaded."""
        self._replica.close()


def _load(directory: Path) -> "TritonReplica":
    from agents.triton_replica import TritonReplica

    return TritonReplica(directory)
