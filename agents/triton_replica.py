"""The generator of one policy version inside Triton's stub, a process a version.

Tensors come and go through DLPack only. Where Kafka is, and whether the catalogue is followed, the
server's environment says (`OXYGENREC_KAFKA__BOOTSTRAP`, `OXYGENREC_SERVING__FOLLOW_CATALOG`); the
lag is a metric of Triton's own endpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from torch import set_num_threads
from torch.utils.dlpack import from_dlpack

from agents.catalogue_replica import CatalogueReplica
from agents.settings import load_settings
from models.serving.tensors import INPUTS, request_of, response_tensors
from schemas.generation import BadGenerationRequest, GenerationRequest
from streams import metrics


class TritonReplica:
    """One loaded and warmed version."""

    def __init__(self, directory: Path) -> None:
        """Loads and warms the version. Raises `PolicyDirectoryInvalid`."""
        use_one_thread()
        # Triton ends a metric whose family nobody holds.
        self._families = [
            _family("GAUGE", metrics.INDEX_LAG_NAME, metrics.INDEX_LAG_HELP),
            _family("COUNTER", metrics.UNKNOWN_ITEMS_NAME, metrics.UNKNOWN_ITEMS_HELP),
            _family("GAUGE", metrics.COMPILED_NAME, metrics.COMPILED_HELP),
        ]
        version = {"policy_version": directory.name}
        self._lag, unknown, self._compiled = (
            family.Metric(labels=version) for family in self._families
        )
        self._replica = CatalogueReplica(directory, unknown.increment)
        self._compiled.set(float(self._replica.is_compiled))
        self._engine = self._replica.engine
        self._scenarios = self._engine.policy.manifest.scenarios
        self._levels = self._engine.policy.generator.config.levels

    def follow(self) -> None:
        """Brings the catalogue up to date and keeps it so; from the thread that decodes."""
        use_one_thread()
        self._replica.follow(load_settings(), self._lag.set)

    def close(self) -> None:
        """Ends the following."""
        self._replica.close()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Returns one response a request; a bad request is one TritonError, its neighbours are
        answered.
        """
        self._lag.set(self._replica.lag_s)  # here too: a follower that is gone reports nothing
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


def _family(kind: str, name: str, text: str) -> Any:
    """Returns a family of Triton's metrics endpoint: `GAUGE` or `COUNTER`."""
    kinds = pb_utils.MetricFamily
    return kinds(name=name, description=text, kind=getattr(kinds, kind))


def _refusal(error: BadGenerationRequest) -> Any:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    )
