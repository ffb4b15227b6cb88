"""The text encoder of one generation inside Triton's stub, a process a version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from torch import set_num_threads
from torch.utils.dlpack import from_dlpack

from models.serving.encoder_engine import INPUTS, Answer, EncoderEngine
from schemas.encoding import BadEncodingRequest


class EncoderReplica:
    """One loaded and warmed version; tensors come and go through DLPack only."""

    def __init__(self, version: Path) -> None:
        """Loads the version. Raises `EncoderFolderInvalid`, `EncoderMismatch`."""
        set_num_threads(1)  # the number is a thread's own
        self._engine = EncoderEngine(version)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one response a request; a bad request is one TritonError, its neighbours are
        answered.
        """
        set_num_threads(1)  # processes on many threads each wait for one another
        return [_response(answer) for answer in self._engine.answers([*map(_tensors, requests)])]


def _tensors(request: Any) -> dict[str, Any]:
    return {
        name: from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
        for name in INPUTS
    }


def _response(answer: Answer) -> Any:
    if isinstance(answer, BadEncodingRequest):
        error = pb_utils.TritonError(str(answer), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=error)
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor.from_dlpack(name, tensor) for name, tensor in answer.items()]
    )
