"""The generator of one policy version inside Triton's stub, a process a version.

Tensors come and go through DLPack only. Following `semantic-ids` live inside a replica is
left out: a version serves the snapshot it carries.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from torch import set_num_threads
from torch.utils.dlpack import from_dlpack

from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import load_version
from models.serving.tensors import INPUTS, request_of, response_tensors
from schemas.generation import BadGenerationRequest, GenerationRequest


class TritonReplica:
    """One loaded and warmed version."""

    def __init__(self, directory: Path) -> None:
        """Loads and warms the version. Raises `PolicyDirectoryInvalid`."""
        use_one_thread()
        policy = load_version(directory)
        self._scenarios = policy.manifest.scenarios
        self._levels = policy.generator.config.levels
        self._engine = GeneratorEngine(policy)
        self._engine.warm_up()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one response a request; a bad request is one TritonError, its neighbours are
        answered.
        """
        read = [self._read(request) for request in requests]
        good = [request for request in read if isinstance(request, GenerationRequest)]
        answers = iter(self._engine.generate(good))
        responses = []
        for request in read:
            answer = request if isinstance(request, BadGenerationRequest) else next(answers)
            responses.append(
                _refusal(answer)
                if isinstance(answer, BadGenerationRequest)
                else self._response(answer)
            )
        return responses

    def _read(self, request: Any) -> GenerationRequest | BadGenerationRequest:
        tensors = {
            name: from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
            for name in INPUTS
        }
        try:
            return request_of(tensors, self._scenarios)
        except BadGenerationRequest as error:
            return error

    def _response(self, answer: Any) -> Any:
        tensors = response_tensors(answer, self._levels)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor.from_dlpack(name, tensor) for name, tensor in tensors.items()]
        )


def use_one_thread() -> None:
    """Limits torch on the calling thread, whose own the number is.

    Instances and versions are processes: two of them on many threads each wait for one another.
    """
    set_num_threads(1)


def _refusal(error: BadGenerationRequest) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    )
