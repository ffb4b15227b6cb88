"""An engine whose weights and index stand elsewhere answers as the one on the CPU.

`-m gpu` runs it on a card, eagerly and captured; without one a copy of the index stands for it.
"""

from copy import deepcopy
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from models.decoding.index_mirror import IndexMirror
from models.generator.batch import collate
from models.generator.precision import in_bf16
from models.serving.captured_engine import CapturedEngine, padded_to, widened
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy
from schemas.catalog import SidAssignment
from schemas.generation import GenerationRequest, GenerationResponse
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.generator.closeness import assert_close
from tests.models.generator.small_policy import request, small_policy
from tests.models.policy.served_world import ITEMS, catalogue
from tests.models.policy.served_world import request as served_request
from tests.models.serving.test_live_catalogue import engine_of, young

CUDA = torch.device("cuda")
POLICY = small_policy()
REQUESTS = [
    *(request(POLICY.index, 20, seed=seed, excluded=30) for seed in range(6)),
    request(POLICY.index, 0, seed=7, scenario="detail", beams=7),
    request(POLICY.index, 3, seed=8, scenario="search", trigger=True, instruction=False),
    request(POLICY.index, 9, seed=9, beams=200),
]


def answers(engine: GeneratorEngine, requests: list[GenerationRequest]) -> list[GenerationResponse]:
    found = engine.generate(requests)
    assert all(isinstance(answer, GenerationResponse) for answer in found)
    return [answer for answer in found if isinstance(answer, GenerationResponse)]


def assert_same(
    found: list[GenerationResponse], wanted: list[GenerationResponse], *, atol: float = 1e-4
) -> None:
    """The same items in the same order; numbers to `atol`."""
    for one, other in zip(found, wanted, strict=True):
        assert [item.item_key for item in one.items] == [item.item_key for item in other.items]
        for mine, theirs in zip(one.items, other.items, strict=True):
            assert mine.sid == theirs.sid
            numbers = [[*item.logprobs, item.score, item.table_term] for item in (mine, theirs)]
            np.testing.assert_allclose(numbers[0], numbers[1], atol=atol, rtol=1e-4)


def on_card(policy: LoadedPolicy) -> LoadedPolicy:
    """Returns the policy with a copy of its weights on a card; its index is on the host."""
    return replace(policy, generator=deepcopy(policy.generator).to(CUDA))


def moved_on(engine: GeneratorEngine) -> None:
    """Sells out, brings back and adds items, as the log does."""
    log = catalogue()
    gone = [replace_stock(item, in_stock=False) for item in log[:9]]
    engine.catalogue.apply(gone, [log[20].item_key], ITEMS + 10)
    fresh = [young(1_000 + number) for number in range(ITEMS, ITEMS + 8)]
    engine.catalogue.apply([*fresh, replace_stock(log[3], in_stock=True)], [], ITEMS + 19)
    engine.catalogue.apply([replace_stock(fresh[0], in_stock=False)], [], ITEMS + 20)


def replace_stock(item: SidAssignment, *, in_stock: bool) -> SidAssignment:
    return msgspec.structs.replace(item, in_stock=in_stock)


def test_a_copied_index_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [msgspec.structs.replace(served_request(n), beams=200) for n in range(6)]
    plain = engine_of(catalogue())
    monkeypatch.setattr(IndexMirror, "of", IndexMirror.copied)
    copied = engine_of(catalogue())
    for engine in (plain, copied):
        moved_on(engine)
    with copied.catalogue.held() as now:
        assert now.mirror.index is not now.index
    assert answers(copied, requests) == answers(plain, requests)


def test_a_captured_engine_on_the_cpu_is_the_engine() -> None:
    engine = CapturedEngine(POLICY)
    assert not engine.captures
    assert answers(engine, REQUESTS) == answers(GeneratorEngine(POLICY), REQUESTS)


def test_a_widened_history_answers_the_same() -> None:
    index, generator = POLICY.index, POLICY.generator
    batch = collate(REQUESTS[:2], index, POLICY.manifest.scenarios)
    wider = widened(batch, padded_to(batch.rows_BS.shape[1], 40))
    assert wider.rows_BS.shape == (2, 40)
    with torch.no_grad():
        states = [generator.begin(one, index).first_BD for one in (batch, wider)]
    assert_close(states[0], states[1])


@pytest.mark.gpu
@pytest.mark.parametrize("engine_class", [GeneratorEngine, CapturedEngine])
def test_a_card_answers_as_the_cpu(engine_class: type[GeneratorEngine]) -> None:
    engine = engine_class(on_card(POLICY))
    wanted = answers(GeneratorEngine(POLICY), REQUESTS)
    for _ in range(2):  # the second time from the graphs
        assert_same(answers(engine, REQUESTS), wanted)
    alone = [answers(engine, [one])[0] for one in REQUESTS]  # a scenario's number is not asked for
    assert_same(alone, wanted)


@pytest.mark.gpu
def test_a_card_asks_the_table_of_neighbours() -> None:
    tabled = replace(POLICY, neighbours=small_neighbours(POLICY.index))
    engine = CapturedEngine(on_card(tabled))
    assert not engine.captures
    assert_same(answers(engine, REQUESTS), answers(GeneratorEngine(tabled), REQUESTS))


@pytest.mark.gpu
@pytest.mark.parametrize("engine_class", [GeneratorEngine, CapturedEngine])
def test_a_card_follows_the_catalogue(engine_class: type[GeneratorEngine]) -> None:
    requests = [msgspec.structs.replace(served_request(n), beams=200) for n in range(6)]
    plain = engine_of(catalogue())
    there = engine_class(on_card(engine_of(catalogue()).policy))
    answers(there, requests)  # captured before anything changes
    for engine in (plain, there):
        moved_on(engine)
    assert_same(answers(there, requests), answers(plain, requests))
    for engine in (plain, there):  # in place: the graph that was captured just now
        engine.catalogue.apply([], [catalogue()[30].item_key], ITEMS + 21)
    assert_same(answers(there, requests), answers(plain, requests))


@pytest.mark.gpu
@pytest.mark.parametrize("engine_class", [GeneratorEngine, CapturedEngine])
def test_bf16_on_a_card_stays_within_three_digits(engine_class: type[GeneratorEngine]) -> None:
    """Of the common items the log-probs; beams of untrained weights differ by less than that."""
    policy = on_card(POLICY)
    engine = engine_class(replace(policy, generator=in_bf16(policy.generator)))
    wide = [msgspec.structs.replace(one, beams=200) for one in REQUESTS]
    found, wanted = answers(engine, wide), answers(GeneratorEngine(POLICY), wide)
    for one, other in zip(found, wanted, strict=True):
        mine = {item.item_key: sum(item.logprobs) for item in one.items}
        theirs = {item.item_key: sum(item.logprobs) for item in other.items}
        assert mine.keys() == theirs.keys()  # all eligible items are answered
        np.testing.assert_allclose(
            list(mine.values()), [theirs[key] for key in mine], atol=0.1, rtol=0.02
        )


def test_bf16_layers_give_float32_scores() -> None:
    policy = replace(POLICY, generator=in_bf16(deepcopy(POLICY.generator)))
    found, wanted = (answers(GeneratorEngine(one), REQUESTS[:3]) for one in (policy, POLICY))
    for one, other in zip(found, wanted, strict=True):
        mine, theirs = ({item.item_key for item in answer.items} for answer in (one, other))
        assert len(mine & theirs) >= 0.8 * len(theirs)
