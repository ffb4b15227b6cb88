"""A compiled decoding gives the eager path's answers, whatever catalogue, weights and request; one
artefact serves them all.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models.decoding.item_index import ItemIndex
from models.serving.compiled_decoding import MAX_EXCLUDED, CompiledDecoding, open_compiled
from models.serving.compiled_record import CompiledArtifact
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy, load_version, write_version
from models.vectors import pack
from schemas.catalog import SidAssignment
from schemas.generation import GenerationRequest, GenerationResponse
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.generator.small_policy import CODES, CONTENT_DIM, SCENARIOS, request, small_index
from tests.models.serving.compiled import BEAMS, policy_of

pytestmark = pytest.mark.integration

CLOSE = 1e-5
REQUESTS = st.lists(
    st.builds(
        lambda history, seed, scenario, flags, excluded, beams: (
            history,
            {
                "seed": seed,
                "scenario": scenario,
                "trigger": flags[0],
                "instruction": flags[1],
                "excluded": excluded,
                "beams": beams,
            },
        ),
        st.integers(0, 12),
        st.integers(0, 1_000),
        st.sampled_from(SCENARIOS),
        st.tuples(st.booleans(), st.booleans()),
        st.sampled_from([0, 1, 5, 40, 150]),
        st.sampled_from([BEAMS, BEAMS, BEAMS, 3]),
    ),
    min_size=1,
    max_size=5,
)


def engines(policy: LoadedPolicy, artifact: CompiledArtifact) -> list[GeneratorEngine]:
    compiled = CompiledDecoding(artifact.path, policy.generator, BEAMS)
    return [GeneratorEngine(policy), GeneratorEngine(policy, compiled=compiled)]


def answers(engine: GeneratorEngine, asked: list[GenerationRequest]) -> list[GenerationResponse]:
    found = engine.generate(asked)
    assert all(isinstance(answer, GenerationResponse) for answer in found)
    return [answer for answer in found if isinstance(answer, GenerationResponse)]


def assert_same(found: GenerationResponse, wanted: GenerationResponse) -> None:
    """The same items in the same order, but where scores are equal up to rounding."""
    scores = [item.score for item in wanted.items]
    np.testing.assert_allclose([item.score for item in found.items], scores, atol=CLOSE)
    by_key = {item.item_key: item for item in wanted.items}
    for mine, theirs in zip(found.items, wanted.items, strict=True):
        own = by_key.get(mine.item_key, theirs)
        assert mine.score == pytest.approx(own.score, abs=CLOSE)
        assert mine.table_term == pytest.approx(own.table_term, abs=CLOSE)
        if own.item_key == mine.item_key:
            assert mine.sid == own.sid
            assert mine.logprobs == pytest.approx(own.logprobs, abs=CLOSE)
    assert len({item.item_key for item in found.items}) == len(found.items)


def further(index: ItemIndex, count: int, seed: int) -> list[SidAssignment]:
    """Returns new items and new stock of some that are there."""
    rng = np.random.default_rng(seed)
    known = rng.choice(len(index.keys_N), 5, replace=False).tolist()
    there = [(int(index.keys_N[row]), index.codes_NL[row].tolist()) for row in known]
    fresh = [(2**62 + n, rng.integers(0, CODES, 3).tolist()) for n in range(count)]
    return [
        SidAssignment(
            item_key=key,
            item_id=f"item-{key}",
            generation=3,
            sid=sid,
            embedding=pack(rng.standard_normal(CONTENT_DIM).astype(np.float32)),
            in_stock=bool(rng.random() < 0.5),
            scenarios=None if rng.random() < 0.5 else ["home"],
            published_ms=1_700_000_000_000,
        )
        for key, sid in [*there, *fresh]
    ]


@given(
    items=st.sampled_from([60, 120, 400]),
    seed=st.integers(0, 1_000),
    drawn=REQUESTS,
    grown=st.integers(0, 8),
    reranked=st.booleans(),
)
@hypothesis_settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_answers_are_the_eager_ones(
    small_artifact: CompiledArtifact,
    items: int,
    seed: int,
    drawn: list[tuple[int, dict[str, object]]],
    grown: int,
    reranked: bool,
) -> None:
    index = small_index(items, seed)
    policy = policy_of(index, seed=seed)
    if reranked:
        policy = replace(policy, neighbours=small_neighbours(index))
    eager, compiled = engines(policy, small_artifact)
    asked = [request(index, history, **options) for history, options in drawn]  # type: ignore[arg-type]
    for _ in range(2):
        for mine, theirs in zip(answers(compiled, asked), answers(eager, asked), strict=True):
            assert_same(mine, theirs)
        changes = further(index, grown, seed)
        removed = index.keys_N[:2].tolist()
        for engine in (eager, compiled):
            engine.catalogue.apply(changes, removed, 200)


def test_equal_scores_stand_in_the_order_of_sid_and_key(small_artifact: CompiledArtifact) -> None:
    sids = torch.cartesian_prod(torch.arange(CODES), torch.arange(2), torch.arange(2))
    codes = sids.repeat(3, 1)
    index = ItemIndex.build(
        keys=torch.randperm(len(codes), generator=torch.Generator().manual_seed(0)),
        codes=codes,
        content=torch.zeros(len(codes), CONTENT_DIM),
        scenarios=torch.ones(len(SCENARIOS), len(codes), dtype=torch.bool),
    )
    policy = policy_of(index)
    with torch.no_grad():
        for weight in (policy.generator.head_weight_LVD, policy.generator.item_query.weight):
            weight.zero_()
        policy.generator.item_query.bias.zero_()
    asked = [request(index, 4, beams=BEAMS, excluded=0)]
    for engine in engines(policy, small_artifact):
        items = answers(engine, asked)[0].items
        assert [item.sid for item in items] == [[0, 0, 0]] * 3 + [[0, 0, 1]] * 3
        keys = [item.item_key for item in items]
        assert keys == sorted(keys[:3]) + sorted(keys[3:])


def test_what_it_cannot_decode_is_left_to_the_eager_path(small_artifact: CompiledArtifact) -> None:
    policy = policy_of()
    compiled = CompiledDecoding(small_artifact.path, policy.generator, BEAMS)
    few = ItemIndex.build(
        keys=torch.arange(5), codes=torch.zeros(5, 3), content=torch.zeros(5, CONTENT_DIM)
    )
    assert compiled.takes(policy.index, BEAMS, MAX_EXCLUDED)
    assert not compiled.takes(policy.index, BEAMS, MAX_EXCLUDED + 1)
    assert not compiled.takes(policy.index, BEAMS - 1, 0)
    assert not compiled.takes(few, BEAMS, 0)


def test_a_version_carries_it_and_a_loaded_one_decodes_with_it(
    small_artifact: CompiledArtifact, tmp_path: Path
) -> None:
    policy = policy_of(seed=3)
    args = (policy.manifest, policy.generator, policy.index)
    folder = write_version(tmp_path, *args, compiled=small_artifact)
    loaded = load_version(folder)
    engine = GeneratorEngine(loaded, compiled=open_compiled(folder, loaded))
    assert engine.compiled is not None
    asked = [request(policy.index, 9, seed=5, beams=BEAMS)]
    assert_same(answers(engine, asked)[0], answers(GeneratorEngine(policy), asked)[0])
