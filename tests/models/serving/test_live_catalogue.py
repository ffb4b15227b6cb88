"""A followed catalogue answers as one that was loaded with everything."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from models.decoding.item_index import ItemIndex
from models.serving.engine import GeneratorEngine
from models.serving.index_file import index_of
from models.serving.live_catalogue import LiveCatalogue
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.vectors import pack
from schemas.catalog import SidAssignment
from schemas.generation import GenerationResponse
from tests.models.policy.served_world import (
    CONFIG,
    ITEMS,
    SCENARIOS,
    catalogue,
    fresh_generator,
    request,
)

WEIGHTS = fresh_generator()
KEYS = [1_000 + number for number in (*range(12), *range(ITEMS, ITEMS + 8))]  # known and young


def young(key: int) -> SidAssignment:
    """Returns an item that may be new: its SID and vector are the key's."""
    chance = np.random.default_rng(key)
    known = catalogue()
    if key - 1_000 < ITEMS:
        return known[key - 1_000]
    return replace(
        known[0],
        item_key=key,
        item_id=f"item-{key - 1_000}",
        sid=chance.integers(0, CONFIG.codes, CONFIG.levels).tolist(),
        embedding=pack(chance.standard_normal(CONFIG.content_dim).astype(np.float32)),
    )


CHANGES = st.builds(
    lambda key, stock, scenarios: replace(young(key), in_stock=stock, scenarios=scenarios),
    st.sampled_from(KEYS),
    st.booleans(),
    st.sampled_from([None, ["home"], ["search", "elsewhere"], []]),
)


def engine_of(items: list[SidAssignment], offset: int = ITEMS) -> GeneratorEngine:
    manifest = Manifest(
        policy_version=1,
        generation=1,
        index_offset=offset,
        scenarios=SCENARIOS,
        created_ms=1_700_000_000_000,
    )
    index = index_of(items, generation=1, scenarios=SCENARIOS)
    return GeneratorEngine(LoadedPolicy(manifest=manifest, generator=WEIGHTS, index=index))


def answers(engine: GeneratorEngine) -> list[GenerationResponse]:
    found = engine.generate([replace(request(number), beams=200) for number in range(6)])
    assert all(isinstance(answer, GenerationResponse) for answer in found)
    return [answer for answer in found if isinstance(answer, GenerationResponse)]


@given(st.lists(st.lists(CHANGES, max_size=6), max_size=4))
def test_a_followed_catalogue_answers_as_one_loaded_whole(
    batches: list[list[SidAssignment]],
) -> None:
    log = catalogue()
    followed = engine_of(log)
    for batch in batches:
        log += batch
        newest = list({change.item_key: change for change in batch}.values())
        followed.catalogue.apply(newest, [], len(log))
    for found, wanted in zip(answers(followed), answers(engine_of(log, len(log))), strict=True):
        assert found.index_offset == wanted.index_offset == len(log)
        assert [item.item_key for item in found.items] == [item.item_key for item in wanted.items]
        scores = torch.tensor([[i.score, *i.logprobs] for i in found.items])
        expected = torch.tensor([[i.score, *i.logprobs] for i in wanted.items])
        assert torch.allclose(scores, expected, atol=1e-5)


def test_a_removed_item_is_out_of_stock() -> None:
    followed = engine_of(catalogue())
    followed.catalogue.apply([], [1_007, 77], ITEMS + 2)
    for answer in answers(followed):
        assert len(answer.items) == ITEMS - 1
        assert 1_007 not in {item.item_key for item in answer.items}


def test_a_known_item_keeps_its_sid_whatever_a_change_says() -> None:
    followed = engine_of(catalogue())
    moved = replace(catalogue()[5], sid=[0, 0, 0])
    followed.catalogue.apply([moved], [], ITEMS + 1)
    with followed.catalogue.held() as now:
        assert now.index.sid_of(1_005) == tuple(catalogue()[5].sid)


@pytest.mark.parametrize(
    "bad",
    [
        {"sid": [1, 2]},
        {"sid": [1, 2, CONFIG.codes]},
        {"sid": [-1, 2, 3]},
        {"embedding": b"\x00\x3c"},
        {"generation": 2},
    ],
)
def test_what_these_weights_cannot_score_is_left_out_and_the_rest_applied(
    bad: dict[str, object],
) -> None:
    followed = engine_of(catalogue())
    wrong = replace(young(1_000 + ITEMS), **bad)
    followed.catalogue.apply([wrong, young(1_001 + ITEMS)], [], ITEMS + 2)
    for answer in answers(followed):
        keys = {item.item_key for item in answer.items}
        assert 1_001 + ITEMS in keys
        assert 1_000 + ITEMS not in keys
        assert answer.index_offset == ITEMS + 2


def test_a_larger_index_is_prepared_before_it_is_decoded_with() -> None:
    log = catalogue()
    policy = engine_of(log).policy
    prepared: list[tuple[int, int]] = []

    def prepare(index: ItemIndex, vectors_ND: torch.Tensor) -> None:
        with live.held() as now:  # nobody waits meanwhile
            assert now.index is not index
        prepared.append((len(index.keys_N), len(vectors_ND)))

    live = LiveCatalogue(policy, prepare)
    live.apply([replace(log[3], in_stock=False)], [], ITEMS + 1)
    assert prepared == []
    live.apply([young(1_000 + ITEMS), young(1_001 + ITEMS)], [], ITEMS + 3)
    assert prepared == [(ITEMS + 2, ITEMS + 2)]
