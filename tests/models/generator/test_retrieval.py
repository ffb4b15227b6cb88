"""IGR keeps what a sort of a list keeps; the Q2I loss is equation 2 written out, and does not die
where everything collapsed.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models.decoding.item_index import UNKNOWN
from models.generator.batch import Batch, collate
from models.generator.config import GeneratorConfig
from models.generator.generator import Generator
from models.generator.losses import LossWeights, generation_loss
from models.generator.query_to_item import FLOOR, QueryToItemWeights, query_to_item_loss
from models.generator.retrieval import keep_best
from tests.models.generator.closeness import assert_close
from tests.models.generator.small_policy import SCENARIOS, request, small_config, small_index

INDEX = small_index()
MIXED = [
    request(INDEX, 30, seed=1),
    request(INDEX, 0, seed=2, instruction=False),
    request(INDEX, 25, seed=3, instruction=False),
    request(INDEX, 4, seed=4, scenario="detail", trigger=True, instruction=False),
]


def retrieving(recent: int = 3, retrieved: int = 4) -> GeneratorConfig:
    return replace(small_config(), recent=recent, retrieved=retrieved, dropout=0.0)


def generator(config: GeneratorConfig | None = None) -> Generator:
    torch.manual_seed(3)
    return Generator(config or retrieving()).eval()


def histories(lengths: list[int], asked: list[bool]) -> Batch:
    """Rows 10, 11, .. as histories, so that a row tells its place."""
    rows = torch.full((len(lengths), max(lengths)), UNKNOWN)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.arange(10, 10 + length)
    return Batch(
        rows_BS=rows,
        actions_BS=rows.clamp(min=0) % 9,
        gaps_BS=rows.clamp(min=0) % 32,
        scenario_B=torch.zeros(len(lengths), dtype=torch.int64),
        trigger_B=torch.full((len(lengths),), UNKNOWN),
        instruction_BC=torch.zeros(len(lengths), 16),
        has_instruction_B=torch.tensor(asked),
    )


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_the_newest_and_the_best_of_the_rest_are_kept_in_order(
    cases: list[tuple[int, bool]], recent: int, retrieved: int, seed: int
) -> None:
    cases = [*cases, (13, True)]
    batch = histories([length for length, _ in cases], [asked for _, asked in cases])
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, batch.rows_BS.shape, generator=rng).float()  # with ties
    kept = keep_best(batch, scores, recent=recent, retrieved=retrieved)
    for number, (length, asked) in enumerate(cases):
        places = range(length)
        older = sorted(
            places[: max(0, length - recent)],
            key=lambda p: (float(scores[number, p]) if asked else 0.0, p),
            reverse=True,
        )
        wanted = sorted([*older[:retrieved], *places[max(0, length - recent) :]])
        found = kept.rows_BS[number]
        assert [row - 10 for row in found[found != UNKNOWN].tolist()] == wanted
        assert found.tolist()[: len(wanted)] == [p + 10 for p in wanted]
        assert kept.actions_BS[number, : len(wanted)].tolist() == [(p + 10) % 9 for p in wanted]
        assert kept.gaps_BS[number, : len(wanted)].tolist() == [(p + 10) % 32 for p in wanted]


@torch.no_grad()
def test_scores_are_products_of_the_instructions_query_and_the_items_keys() -> None:
    model = generator()
    assert model.retrieval is not None
    batch = collate(MIXED[:1], INDEX, SCENARIOS)
    scenario = model.scenario(batch, INDEX)
    query = model.retrieval.queries(batch, scenario)[0]
    keys = [model.retrieval.keys(row, INDEX) for row in batch.rows_BS[0]]
    assert float(query.norm()) == pytest.approx(1.0, abs=1e-5)
    scores = torch.stack([key @ query for key in keys])
    wanted = keep_best(batch, scores.unsqueeze(0), recent=3, retrieved=4)
    found = model.retrieval.select(batch, scenario, INDEX)
    assert torch.equal(found.rows_BS, wanted.rows_BS)
    every_key = model.retrieval.keys(torch.arange(len(INDEX.keys_N)), INDEX)
    again = model.retrieval.select(batch, scenario, INDEX, every_key)
    assert torch.equal(again.rows_BS, wanted.rows_BS)
    newest = batch.rows_BS[:, -7:]
    assert not torch.equal(found.rows_BS, newest)  # else this history shows nothing


@torch.no_grad()
def test_without_a_query_the_newest_are_read_and_nothing_older() -> None:
    model = generator()
    silent = MIXED[2]
    batch = collate([silent], INDEX, SCENARIOS)
    newest = replace(
        batch,
        rows_BS=batch.rows_BS[:, -7:],
        actions_BS=batch.actions_BS[:, -7:],
        gaps_BS=batch.gaps_BS[:, -7:],
    )
    sids = INDEX.sids[:5].long().unsqueeze(0)
    assert_close(model.sid_logprobs(batch, sids, INDEX), model.sid_logprobs(newest, sids, INDEX))


@torch.no_grad()
def test_neighbours_do_not_change_what_is_retrieved() -> None:
    model = generator()
    sids = INDEX.sids[:5].long().expand(len(MIXED), -1, -1)
    together = model.sid_logprobs(collate(MIXED, INDEX, SCENARIOS), sids, INDEX)
    for number, one in enumerate(MIXED):
        alone = model.sid_logprobs(collate([one], INDEX, SCENARIOS), sids[:1], INDEX)
        assert_close(together[number], alone[0], atol=1e-5, rtol=0)


def unit(rows: int, width: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=rng), dim=1)


def written_out(q: list[list[float]], t: list[list[float]], w: QueryToItemWeights) -> float:
    """Equation 2, number by number."""
    count, width = len(q), len(q[0])

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def variance(rows: list[list[float]]) -> float:
        total = 0.0
        for d in range(width):
            mean = sum(row[d] for row in rows) / count
            total += sum((row[d] - mean) ** 2 for row in rows) / count
        return total / width

    pull = -sum(dot(a, b) for a, b in zip(q, t, strict=True)) / count
    spread = -sum(math.log(width * variance(x) + FLOOR) for x in (q, t))
    pairs = [dot(q[i], q[j]) ** 2 for i in range(count) for j in range(count) if i != j]
    return pull + w.variance * spread + w.decorrelation * sum(pairs) / (count**2 - count)


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_the_loss_is_equation_2(rows: int) -> None:
    weights = QueryToItemWeights(variance=0.3, decorrelation=0.7)
    q, t = unit(rows, 6, 1), unit(rows, 6, 2)
    found = float(query_to_item_loss(q, t, weights))
    assert found == pytest.approx(written_out(q.tolist(), t.tolist(), weights), abs=1e-5)


def test_fewer_than_two_rows_lose_nothing() -> None:
    q = unit(1, 6, 1).requires_grad_()
    loss = query_to_item_loss(q, unit(1, 6, 2), QueryToItemWeights())
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_vectors_that_collapsed_are_driven_apart_again() -> None:
    """All but equal: D Var is 1e-8, far below the floor; a clamp there has no gradient."""
    raw = (torch.ones(16, 6) + 1e-4 * unit(16, 6, 1)).requires_grad_()
    items = F.normalize(torch.ones(16, 6), dim=1)  # the attraction holds them together
    weights = QueryToItemWeights(variance=1.0, decorrelation=0.0)
    optimizer = torch.optim.SGD([raw], 0.1)
    for _ in range(30):
        optimizer.zero_grad()
        query_to_item_loss(F.normalize(raw, dim=1), items, weights).backward()
        optimizer.step()
    assert float(F.normalize(raw.detach(), dim=1).var(dim=0, correction=0).sum()) > 0.1


def test_training_reaches_the_retrieval_and_brings_queries_to_their_items() -> None:
    model = generator().train()
    requests = [request(INDEX, 12, seed=n, trigger=n % 2 == 0) for n in range(32)]
    batch = collate(requests, INDEX, SCENARIOS)
    target = torch.arange(32)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    told = []
    for _ in range(30):
        terms = generation_loss(model, batch, target, torch.ones(32), INDEX)
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        told.append(float(terms.query_to_item))
    assert told[-1] < told[0] - 0.4
    assert not [name for name, p in model.named_parameters() if p.grad is None]


def test_the_q2i_loss_counts_by_its_weight_and_for_rows_that_ask_alone() -> None:
    model = generator()
    batch, target = collate(MIXED, INDEX, SCENARIOS), torch.tensor([1, 2, 3, 4])
    ones = torch.ones(4)
    zero = generation_loss(
        model, batch, target, ones, INDEX, weights=LossWeights(query_to_item=0.0)
    )
    half = generation_loss(
        model, batch, target, ones, INDEX, weights=LossWeights(query_to_item=0.5)
    )
    assert_close(half.loss - zero.loss, 0.5 * half.query_to_item)
    assert model.retrieval is not None
    asked = torch.tensor([0, 3])  # an instruction, a trigger
    queries = model.retrieval.queries(batch, model.scenario(batch, INDEX))[asked]
    keys = model.retrieval.keys(target[asked], INDEX)
    assert_close(half.query_to_item, query_to_item_loss(queries, keys, QueryToItemWeights()))
