"""Requests as tensors and answers as records: shapes, types, padding, and refusals."""

from typing import Any

import numpy as np
import pytest

from schemas.generation import BadGenerationRequest, GenerationRequest
from schemas.impressions import HistoryFeatures
from streams.triton_tensors import (
    UnexpectedTensors,
    infer_inputs,
    request_arrays,
    response_from,
    text_arrays,
)

SCENARIOS = ("home", "search")
EMPTY = HistoryFeatures(item_keys=[], action_codes=[], gap_buckets=[])


def asked(**changes: Any) -> GenerationRequest:
    plain: dict[str, Any] = {"scenario": "search", "history": EMPTY, "beams": 50}
    return GenerationRequest(**{**plain, **changes})


def answered() -> dict[str, Any]:
    return {
        "ITEM_KEYS": np.array([[5, 2**62]], dtype=np.int64),
        "ITEM_CODES": np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.int32),
        "ITEM_LOGPROBS": np.array([[[-1, -2, -3], [-4, -5, -6]]], dtype=np.float32),
        "ITEM_SCORES": np.array([[-6.5, -15.5]], dtype=np.float32),
        "ITEM_TABLE_TERMS": np.array([[-0.25, -0.5]], dtype=np.float32),
        "VERSIONS": np.array([[3, 7, 120]], dtype=np.int64),
    }


def test_texts_are_their_bytes_and_where_each_ends_and_no_tensor_is_empty() -> None:
    def sent(*texts: str) -> tuple[bytes, list[int]]:
        arrays = text_arrays(texts)
        assert [array.shape[0] for array in arrays.values()] == [1, 1]
        return arrays["TEXT_BYTES"].tobytes(), arrays["TEXT_ENDS"][0].tolist()

    assert sent("für", "", "2") == ("für2".encode(), [4, 4, 5])
    assert sent("", "") == (b" ", [0, 0])
    assert sent("a\ud800") == (b"a?", [2])  # half a character is no UTF-8


def test_an_empty_request_is_padded_never_empty() -> None:
    arrays = request_arrays(asked(), SCENARIOS, 4)
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "HISTORY_KEYS": [[-1]],
        "HISTORY_ACTIONS": [[0]],
        "HISTORY_GAPS": [[0]],
        "SCENARIO": [[1]],
        "TRIGGER": [[-1]],
        "INSTRUCTION": [[0, 0, 0, 0]],
        "HAS_INSTRUCTION": [[0]],
        "EXCLUDE": [[-1]],
        "BEAMS": [[50]],
    }


def test_a_full_request_keeps_its_order_and_its_63_bit_keys() -> None:
    history = HistoryFeatures(item_keys=[2**63 - 1, 5], action_codes=[2, 5], gap_buckets=[9, 0])
    vector = np.array([1, 0.5, -2], dtype="<f2").tobytes()
    request = asked(history=history, instruction=vector, trigger_key=9, exclude_keys=[1, 2])
    arrays = request_arrays(request, SCENARIOS, 3)
    assert arrays["HISTORY_KEYS"].tolist() == [[2**63 - 1, 5]]
    assert arrays["INSTRUCTION"].tolist() == [[1, 0.5, -2]]
    assert arrays["HAS_INSTRUCTION"].tolist() == [[1]]
    assert arrays["EXCLUDE"].tolist() == [[1, 2]]
    kinds = {tensor.name(): tensor.datatype() for tensor in infer_inputs(arrays)}
    assert kinds.pop("INSTRUCTION") == "FP16"
    assert set(kinds.values()) == {"INT64"}


def test_what_cannot_be_asked_is_refused_by_field() -> None:
    for request, field in (
        (asked(scenario="nowhere"), "scenario"),
        (asked(instruction=b"\x00" * 6), "instruction"),
    ):
        with pytest.raises(BadGenerationRequest) as raised:
            request_arrays(request, SCENARIOS, 4)
        assert raised.value.field == field


def test_an_answer_becomes_items_with_the_stamps_of_the_model() -> None:
    response = response_from(answered())
    assert (response.generation, response.policy_version, response.index_offset) == (3, 7, 120)
    first, second = response.items
    assert (first.item_key, first.sid, first.logprobs) == (5, [1, 2, 3], [-1, -2, -3])
    assert (second.item_key, second.score, second.table_term) == (2**62, -15.5, -0.5)


def test_a_model_that_knows_no_tables_is_understood() -> None:
    response = response_from({**answered(), "ITEM_TABLE_TERMS": None})
    assert [item.table_term for item in response.items] == [0, 0]
    assert [item.score for item in response.items] == [-6.5, -15.5]


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("VERSIONS", None),
        ("VERSIONS", np.array([[3, 7]], dtype=np.int64)),
        ("ITEM_SCORES", None),
        ("ITEM_SCORES", np.array([[-6.5]], dtype=np.float32)),
        ("ITEM_TABLE_TERMS", np.array([[-6.5]], dtype=np.float32)),
        ("ITEM_KEYS", np.array([5, 6], dtype=np.int64)),
    ],
)
def test_tensors_beside_the_contract_are_named(name: str, array: Any) -> None:
    with pytest.raises(UnexpectedTensors) as raised:
        response_from({**answered(), name: array})
    assert raised.value.name == name
