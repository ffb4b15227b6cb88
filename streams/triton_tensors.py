"""Calls of the generator and of the text encoder as Triton's tensors, and back: docs/contracts.md.

Every request has batch dimension 1, lists are ragged, and no input is optional: an empty list is
one padding entry with key -1, an absent instruction a zero vector beside HAS_INSTRUCTION 0.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferResult

from schemas.errors import OxygenRecError
from schemas.generation import (
    BadGenerationRequest,
    GeneratedItem,
    GenerationRequest,
    GenerationResponse,
)

Array = npt.NDArray[np.generic]

ABSENT_KEY = -1
TRITON_TYPES = {"int64": "INT64", "float16": "FP16", "uint8": "UINT8"}
ITEMS = ("ITEM_KEYS", "ITEM_CODES", "ITEM_LOGPROBS", "ITEM_SCORES", "ITEM_TABLE_TERMS")
OUTPUTS = (*ITEMS, "VERSIONS")


class UnexpectedTensors(OxygenRecError):
    """An answer of a model that is not what docs/contracts.md promises."""

    def __init__(self, *, name: str, found: str, wanted: str) -> None:
        self.name = name
        super().__init__(
            f"Triton output {name}: found {found}, wanted {wanted}: "
            "is the model repository of this version?"
        )


def request_arrays(
    request: GenerationRequest, scenarios: Sequence[str], instruction_dim: int
) -> dict[str, Array]:
    """Returns the inputs by name, each with batch dimension 1.

    Raises `BadGenerationRequest` for an unknown scenario or an instruction of another length.
    """
    if request.scenario not in scenarios:
        raise BadGenerationRequest(
            field="scenario", found=request.scenario, wanted="one of " + ", ".join(scenarios)
        )
    history = request.history
    return {
        "HISTORY_KEYS": _integers(history.item_keys or [ABSENT_KEY]),
        "HISTORY_ACTIONS": _integers(history.action_codes or [0]),
        "HISTORY_GAPS": _integers(history.gap_buckets or [0]),
        "SCENARIO": _integers([scenarios.index(request.scenario)]),
        "TRIGGER": _integers([ABSENT_KEY if request.trigger_key is None else request.trigger_key]),
        "INSTRUCTION": _instruction(request.instruction, instruction_dim),
        "HAS_INSTRUCTION": _integers([int(request.instruction is not None)]),
        "EXCLUDE": _integers(request.exclude_keys or [ABSENT_KEY]),
        "BEAMS": _integers([request.beams]),
    }


def infer_inputs(arrays: Mapping[str, Array]) -> list[InferInput]:
    """Returns the arrays as inputs of one gRPC request."""
    inputs = []
    for name, array in arrays.items():
        tensor = InferInput(name, list(array.shape), TRITON_TYPES[str(array.dtype)])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def response_of(result: InferResult) -> GenerationResponse:
    """Returns Triton's answer as a record. Raises `UnexpectedTensors`."""
    return response_from({name: result.as_numpy(name) for name in OUTPUTS})


def response_from(arrays: Mapping[str, Array | None]) -> GenerationResponse:
    """Returns the output arrays [1, ...] as a record. Raises `UnexpectedTensors`.

    A model of before table re-rankers answers without ITEM_TABLE_TERMS: they are 0.
    """
    if arrays.get("ITEM_TABLE_TERMS") is None and (scores := arrays.get("ITEM_SCORES")) is not None:
        arrays = {**arrays, "ITEM_TABLE_TERMS": np.zeros_like(scores)}
    found = {name: _first(name, arrays.get(name)) for name in OUTPUTS}
    items = len(found["ITEM_KEYS"])
    for name in ITEMS:
        if len(found[name]) != items:
            raise UnexpectedTensors(
                name=name, found=f"{len(found[name])} rows", wanted=f"{items}, as ITEM_KEYS"
            )
    if found["VERSIONS"].shape != (3,):
        shape = str(found["VERSIONS"].shape)
        raise UnexpectedTensors(name="VERSIONS", found=shape, wanted="(3,)")
    generation, policy_version, index_offset = found["VERSIONS"].tolist()
    columns = zip(*(found[name].tolist() for name in ITEMS), strict=True)
    return GenerationResponse(
        items=[
            GeneratedItem(item_key=key, sid=codes, logprobs=logprobs, score=score, table_term=term)
            for key, codes, logprobs, score, term in columns
        ],
        generation=generation,
        policy_version=policy_version,
        index_offset=index_offset,
    )


def text_arrays(texts: Sequence[str]) -> dict[str, Array]:
    """Returns texts as the encoder's inputs: their UTF-8 bytes joined, and where each one ends."""
    parts = [text.encode("utf-8", "replace") for text in texts]
    joined = b"".join(parts) or b" "  # padding: a tensor has an element, ends say what is text
    return {
        "TEXT_BYTES": np.frombuffer(joined, dtype=np.uint8)[None, :],
        "TEXT_ENDS": np.cumsum([len(part) for part in parts], dtype=np.int64)[None, :],
    }


def vectors_of(result: InferResult) -> tuple[str, npt.NDArray[np.float32]]:
    """Returns the encoder's id and its vectors. Raises `UnexpectedTensors`."""
    stamped = _first("ENCODER_ID", result.as_numpy("ENCODER_ID"))
    vectors = _first("VECTORS", result.as_numpy("VECTORS"))
    return stamped.tobytes().decode("utf-8", "replace"), vectors.astype(np.float32, copy=False)


def _integers(values: Sequence[int]) -> Array:
    return np.array([values], dtype=np.int64)


def _instruction(vector: bytes | None, dim: int) -> Array:
    if vector is None:
        return np.zeros((1, dim), dtype=np.float16)
    values = np.frombuffer(vector, dtype="<f2").astype(np.float16)
    if len(values) != dim:
        raise BadGenerationRequest(
            field="instruction", found=f"{len(values)} numbers", wanted=f"{dim} numbers"
        )
    return values[None, :]


def _first(name: str, array: Array | None) -> Array:
    if array is None:
        raise UnexpectedTensors(name=name, found="nothing", wanted="a tensor")
    if array.ndim < 2 or array.shape[0] != 1:
        raise UnexpectedTensors(name=name, found=str(array.shape), wanted="batch dimension 1")
    row: Array = array[0]
    return row
