"""Sampling without replacement against enumeration: the draws of a test are one batch, one seed."""

import math
from dataclasses import dataclass
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decoding.item_index import ItemIndex
from models.decoding.legal import CodeHead
from models.decoding.sampling import Sample, sample_without_replacement
from tests.models.decoding.brute_force import Sid, TableStates

CODES = 4
DRAWS = 3_000
SIGMAS = 4.5  # one draw in 150,000 lies further out; the seeds are fixed
SIDS: list[Sid] = [
    (0, 0, 1), (0, 0, 3), (0, 2, 0), (1, 1, 1), (1, 3, 0), (1, 3, 2), (3, 0, 0), (3, 0, 2),
]  # fmt: skip
NO_STOCK = {(0, 0, 3), (1, 1, 1), (3, 0, 0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Samples of a small catalogue, and q by enumeration."""

    index: ItemIndex
    sample: Sample
    q: dict[Sid, float]

    def sids(self, request: int) -> list[Sid]:
        live_W = self.sample.found.live_BW[request]
        leaves_W = self.sample.found.leaves_BW[request][live_W]
        return [tuple(sid) for sid in self.index.sids[leaves_W].tolist()]


def draw(
    sids: list[Sid], live: set[Sid], count: int, *, draws: int = DRAWS, seed: int = 7
) -> Drawn:
    index = ItemIndex.build(
        keys=torch.arange(len(sids)),
        codes=torch.tensor(sids),
        content=torch.zeros(len(sids), 1),
        in_stock=torch.tensor([sid in live for sid in sids]),
    )
    states = TableStates.of(sids, batch=draws)
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(index.depth, CODES, states.width, generator=random)
    head = CodeHead(weight, torch.zeros(index.depth, CODES))
    masks = index.masks(
        torch.zeros(draws, dtype=torch.int64), torch.zeros(draws, 0, dtype=torch.int64)
    )
    sample = sample_without_replacement(states, head, index, masks, count, random)
    return Drawn(index=index, sample=sample, q=constrained(live, weight, states))


def constrained(live: set[Sid], weight: torch.Tensor, states: TableStates) -> dict[Sid, float]:
    """Returns q: at each step a softmax over the codes that lead to a live SID."""
    q = {}
    for sid in live:
        q[sid] = 1.0
        for level, code in enumerate(sid):
            row = weight[level, :, states.prefixes[sid[:level]]].tolist()
            codes = {other[level] for other in live if other[:level] == sid[:level]}
            q[sid] *= math.exp(row[code]) / sum(math.exp(row[other]) for other in codes)
    return q


def inclusion(q: dict[Sid, float], count: int) -> dict[Sid, float]:
    """Returns the probability that a SID is among `count` drawn one after the other."""
    included = dict.fromkeys(q, 0.0)
    for order in permutations(q, count):
        chance, left = 1.0, 1.0
        for sid in order:
            chance *= q[sid] / left
            left -= q[sid]
        for sid in order:
            included[sid] += chance
    return included


def within(found: float, wanted: float, deviation: float) -> bool:
    return abs(found - wanted) <= SIGMAS * deviation / math.sqrt(DRAWS) + 1e-9


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_each_sid_is_drawn_as_often_as_enumeration_says(count: int, masked: bool) -> None:
    live = set(SIDS) - (NO_STOCK if masked else set())
    drawn = draw(SIDS, live, count)
    times = dict.fromkeys(live, 0)
    for request in range(DRAWS):
        for sid in drawn.sids(request):
            times[sid] += 1
    for sid, wanted in inclusion(drawn.q, count).items():
        assert within(times[sid] / DRAWS, wanted, math.sqrt(wanted * (1 - wanted))), sid


def test_the_first_two_come_in_the_order_of_successive_draws() -> None:
    drawn = draw(SIDS, set(SIDS), 2)
    pairs = [tuple(drawn.sids(request)) for request in range(DRAWS)]
    for pair in permutations(SIDS, 2):
        wanted = drawn.q[pair[0]] * drawn.q[pair[1]] / (1 - drawn.q[pair[0]])
        assert within(pairs.count(pair) / DRAWS, wanted, math.sqrt(wanted)), pair


def test_weighing_by_inclusion_estimates_expectations_without_bias() -> None:
    drawn = draw(SIDS, set(SIDS), 3)
    sample = drawn.sample
    value = torch.arange(len(SIDS), dtype=torch.float64)
    weight_BW = sample.logprobs_BW.exp() / sample.inclusion_BW
    for of_leaf in (torch.ones_like(value), value):
        estimates = (weight_BW * of_leaf[sample.found.leaves_BW]).sum(dim=1)
        sids = [tuple(sid) for sid in drawn.index.sids.tolist()]
        wanted = sum(drawn.q[sid] * float(v) for sid, v in zip(sids, of_leaf, strict=True))
        assert within(float(estimates.mean()), wanted, float(estimates.std()))


def test_one_seed_gives_one_sample_and_requests_draw_apart() -> None:
    one, same, other = (draw(SIDS, set(SIDS), 3, draws=50, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.sample.found.leaves_BW, same.sample.found.leaves_BW)
    assert not torch.equal(one.sample.found.leaves_BW, other.sample.found.leaves_BW)
    assert len({tuple(row) for row in one.sample.found.leaves_BW.tolist()}) > 10


@given(
    st.lists(st.tuples(*[st.integers(0, CODES - 1)] * 2), min_size=1, max_size=12, unique=True),
    st.data(),
    st.integers(1, 14),
)
@settings(max_examples=40)
def test_as_many_distinct_live_sids_as_there_are_come_with_their_q(
    sids: list[Sid], data: st.DataObject, count: int
) -> None:
    live = set(data.draw(st.lists(st.sampled_from(sids), unique=True)))
    drawn = draw(sids, live, count, draws=3)
    for request in range(3):
        found = drawn.sids(request)
        assert len(found) == len(set(found)) == min(count, len(live))
        assert set(found) <= live
        logprobs = drawn.sample.logprobs_BW[request].exp().tolist()
        for sid, own in zip(found, logprobs, strict=False):
            assert own == pytest.approx(drawn.q[sid], abs=1e-5)
        keys = drawn.sample.keys_BW[request][: len(found)].tolist()
        assert keys == sorted(keys, reverse=True)
        if count >= len(live):
            assert drawn.sample.threshold_B[request] == -math.inf
            assert drawn.sample.inclusion_BW[request][: len(found)].tolist() == [1.0] * len(found)
