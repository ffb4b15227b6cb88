"""The engine: every answer is eligible, ranked by probability, stamped, and alone in its errors."""

from dataclasses import replace

import msgspec
import pytest
import torch

from models.generator.batch import collate
from models.serving.engine import GeneratorEngine
from models.serving.tensors import INPUTS, request_of, response_tensors
from schemas.generation import BadGenerationRequest, GenerationResponse
from streams.triton_tensors import request_arrays, response_from
from tests.models.generator.small_policy import CONTENT_DIM, SCENARIOS, request, small_policy

POLICY = small_policy()
INDEX = POLICY.index
ENGINE = GeneratorEngine(POLICY)
REQUESTS = [
    request(INDEX, 20, seed=1, excluded=30),
    request(INDEX, 0, seed=2, scenario="detail", beams=7),
    request(INDEX, 3, seed=3, scenario="search", trigger=True, instruction=False),
    request(INDEX, 9, seed=4, beams=200),
]


def answers() -> list[GenerationResponse]:
    found = ENGINE.generate(REQUESTS)
    return [answer for answer in found if isinstance(answer, GenerationResponse)]


def test_no_item_is_excluded_out_of_stock_or_of_another_scenario() -> None:
    for asked, answer in zip(REQUESTS, answers(), strict=True):
        rows = INDEX.rows_of(torch.tensor([item.item_key for item in answer.items]))
        shown = INDEX.scenarios_KN[SCENARIOS.index(asked.scenario), rows]
        assert bool((shown & INDEX.in_stock_N[rows]).all())
        assert not {item.item_key for item in answer.items} & set(asked.exclude_keys)


def test_as_many_items_as_beams_and_all_eligible_ones_when_there_are_fewer() -> None:
    masks = INDEX.masks(torch.tensor([0]), torch.tensor([REQUESTS[3].exclude_keys]))
    eligible = masks.eligible(torch.arange(len(INDEX.keys_N)).unsqueeze(0))
    counts = [len(answer.items) for answer in answers()]
    assert counts == [20, 7, 20, int(eligible.sum())]


def test_a_score_is_the_log_prob_of_the_sid_and_of_the_item_in_it() -> None:
    for asked, answer in zip(REQUESTS, answers(), strict=True):
        batch = collate([asked], INDEX, SCENARIOS)
        sids = torch.tensor([[item.sid for item in answer.items]])
        with torch.no_grad():
            codes = POLICY.generator.sid_logprobs(batch, sids, INDEX)[0]
            decoding = POLICY.generator.begin(batch, INDEX)
            scores = POLICY.generator.item_scores(decoding, INDEX, torch.arange(len(INDEX.keys_N)))[
                0
            ]
        for item, own in zip(answer.items, codes, strict=True):
            same = (INDEX.codes_NL == torch.tensor(item.sid)).all(dim=1)
            row = int(INDEX.rows_of(torch.tensor([item.item_key])))
            inside = float(scores[row] - scores[same].logsumexp(0))
            assert item.sid == list(INDEX.sid_of(item.item_key) or ())
            assert item.logprobs == pytest.approx(own.tolist(), abs=1e-5)
            assert item.score == pytest.approx(sum(item.logprobs) + inside, abs=1e-4)
        ranked = [item.score for item in answer.items]
        assert ranked == sorted(ranked, reverse=True)


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    for asked, together in zip(REQUESTS, answers(), strict=True):
        alone = ENGINE.generate([asked])[0]
        assert isinstance(alone, GenerationResponse)
        assert [i.item_key for i in alone.items] == [i.item_key for i in together.items]


def test_a_bad_request_is_answered_alone_and_in_its_place() -> None:
    bad = msgspec.structs.replace(REQUESTS[0], scenario="nowhere")
    found = ENGINE.generate([REQUESTS[0], bad, REQUESTS[1]])
    assert [type(answer).__name__ for answer in found] == [
        "GenerationResponse",
        "BadGenerationRequest",
        "GenerationResponse",
    ]
    assert isinstance(found[1], BadGenerationRequest)
    assert found[1].field == "scenario"


def test_every_answer_carries_the_three_versions() -> None:
    manifest = msgspec.structs.replace(
        POLICY.manifest, generation=8, policy_version=41, index_offset=977
    )
    found = GeneratorEngine(replace(POLICY, manifest=manifest)).generate(REQUESTS[:1])[0]
    assert isinstance(found, GenerationResponse)
    assert (found.generation, found.policy_version, found.index_offset) == (8, 41, 977)


def test_unknown_items_of_a_history_are_left_out_and_counted() -> None:
    unknown: list[int] = []
    engine = GeneratorEngine(POLICY, unknown.append)
    history = REQUESTS[2].history
    strange = msgspec.structs.replace(
        history,
        item_keys=[5, *history.item_keys, 6],
        action_codes=[0, *history.action_codes, 0],
        gap_buckets=[0, *history.gap_buckets, 0],
    )
    found = engine.generate([REQUESTS[2], msgspec.structs.replace(REQUESTS[2], history=strange)])
    assert found[0] == found[1]
    assert unknown == [2]


def test_nothing_eligible_is_an_empty_answer() -> None:
    everything = msgspec.structs.replace(REQUESTS[0], exclude_keys=INDEX.keys_N.tolist())
    found = ENGINE.generate([everything, REQUESTS[1]])
    assert [len(a.items) for a in found if isinstance(a, GenerationResponse)] == [0, 7]


@pytest.mark.parametrize("number", range(4))
def test_a_request_survives_the_wire_of_client_and_model(number: int) -> None:
    arrays = request_arrays(REQUESTS[number], SCENARIOS, CONTENT_DIM)
    tensors = {name: torch.from_numpy(arrays[name]) for name in INPUTS}
    assert request_of(tensors, SCENARIOS) == REQUESTS[number]


def test_an_answer_survives_the_wire_of_model_and_client() -> None:
    everything = msgspec.structs.replace(REQUESTS[0], exclude_keys=INDEX.keys_N.tolist())
    empty = ENGINE.generate([everything])[0]
    assert isinstance(empty, GenerationResponse)
    for answer in [*answers(), empty]:
        tensors = response_tensors(answer, levels=3)
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        assert response_from(arrays) == answer


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("SCENARIO", torch.tensor([[3]])),
        ("SCENARIO", torch.tensor([[-1]])),
        ("HISTORY_GAPS", torch.tensor([[1, 2]])),
        ("BEAMS", torch.tensor([[1, 2]])),
        ("TRIGGER", torch.tensor([[1], [2]])),
    ],
)
def test_tensors_that_make_no_request_are_refused_by_name(name: str, tensor: torch.Tensor) -> None:
    arrays = request_arrays(REQUESTS[2], SCENARIOS, CONTENT_DIM)
    tensors = {n: torch.from_numpy(arrays[n]) for n in INPUTS} | {name: tensor}
    with pytest.raises(BadGenerationRequest) as caught:
        request_of(tensors, SCENARIOS)
    assert caught.value.field in (name, "HISTORY_KEYS")
