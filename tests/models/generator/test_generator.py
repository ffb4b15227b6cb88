"""The generator: one distribution in search, loss and policy learning; what it is conditioned on
matters.
"""

from dataclasses import replace

import msgspec
import pytest
import torch

from models.decoding.item_index import ItemIndex, UnknownSemanticId
from models.decoding.legal import ScoreSemantics
from models.generator.batch import Batch, collate, excluded_keys
from models.generator.config import GeneratorConfig, InstructionPosition
from models.generator.generator import Generator
from models.generator.losses import behaviour_weight, generation_loss
from schemas.actions import ActionType
from schemas.generation import BadGenerationRequest, GenerationRequest
from tests.models.generator.closeness import assert_close
from tests.models.generator.small_policy import SCENARIOS, request, small_config, small_index

INDEX = small_index()
MIXED = [
    request(INDEX, 20, seed=1),
    request(INDEX, 0, seed=2, instruction=False),
    request(INDEX, 3, seed=3, scenario="detail", trigger=True),
]


def generator(config: GeneratorConfig | None = None) -> Generator:
    torch.manual_seed(5)
    return Generator(config or small_config()).eval()


def some_sids(batch: Batch, candidates: int = 6) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    leaves = torch.randint(0, len(INDEX.sids), (len(batch), candidates), generator=rng)
    return INDEX.sids[leaves].long()


@pytest.mark.parametrize("semantics", list(ScoreSemantics))
@pytest.mark.parametrize("position", list(InstructionPosition))
def test_the_search_gives_the_teacher_forced_log_probs(
    position: InstructionPosition, semantics: ScoreSemantics
) -> None:
    model = generator(replace(small_config(), instruction_position=position))
    batch = collate(MIXED, INDEX, SCENARIOS)
    masks = INDEX.masks(batch.scenario_B, excluded_keys(MIXED))
    with torch.no_grad():
        found = model.search(model.begin(batch, INDEX), INDEX, masks, 25, semantics)
        sids = INDEX.sids[found.leaves_BW].long()
        forced = model.sid_logprobs(batch, sids, INDEX, semantics)
    assert bool(found.live_BW.all())
    assert_close(found.logprobs_BWL, forced, atol=1e-5, rtol=0)


def test_samples_carry_the_log_probs_of_the_policy_and_none_comes_twice() -> None:
    model = generator()
    batch = collate(MIXED, INDEX, SCENARIOS)
    masks = INDEX.masks(batch.scenario_B, excluded_keys(MIXED))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sample = model.sample(model.begin(batch, INDEX), INDEX, masks, 8, random)
        sids = INDEX.sids[sample.found.leaves_BW].long()
        forced = model.sid_logprobs(batch, sids, INDEX)
    assert_close(sample.found.logprobs_BWL, forced, atol=1e-5, rtol=0)
    assert [len(set(row)) for row in sample.found.leaves_BW.tolist()] == [8, 8, 8]
    assert bool((sample.logprobs_BW > sample.found.scores_BW - 1e-5).all())  # masks take mass away


def test_the_log_probs_of_all_legal_sids_sum_to_one() -> None:
    batch = collate(MIXED, INDEX, SCENARIOS)
    everything = INDEX.sids.long().expand(len(MIXED), -1, -1)
    logprobs = generator().sid_logprobs(batch, everything, INDEX)
    assert_close(logprobs.sum(dim=2).exp().sum(dim=1), torch.ones(len(MIXED)))


def test_neighbours_in_a_batch_change_nothing() -> None:
    model = generator()
    together = model.sid_logprobs(
        batch := collate(MIXED, INDEX, SCENARIOS), sids := some_sids(batch), INDEX
    )
    for number, one in enumerate(MIXED):
        alone = model.sid_logprobs(
            collate([one], INDEX, SCENARIOS), sids[number : number + 1], INDEX
        )
        assert_close(together[number], alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("position", "heard"),
    [(p, p is not InstructionPosition.NONE) for p in InstructionPosition],
)
def test_an_instruction_is_heard_in_every_position_but_none(
    position: InstructionPosition, heard: bool
) -> None:
    model = generator(replace(small_config(), instruction_position=position))
    told = collate(MIXED[:1], INDEX, SCENARIOS)
    silent = replace(told, has_instruction_B=torch.tensor([False]))
    sids = some_sids(told)
    differ = (
        (model.sid_logprobs(told, sids, INDEX) - model.sid_logprobs(silent, sids, INDEX))
        .abs()
        .max()
    )
    assert (float(differ.detach()) > 1e-4) == heard


@pytest.mark.parametrize(
    "change",
    [
        {"scenario": "search"},
        {"trigger_key": int(INDEX.keys_N[3])},
        {"history": MIXED[2].history},
        {"instruction": MIXED[2].instruction},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_condition_moves_the_distribution(change: dict[str, object]) -> None:
    model = generator()
    changed = msgspec.structs.replace(MIXED[0], **change)
    before, after = (collate([one], INDEX, SCENARIOS) for one in (MIXED[0], changed))
    sids = some_sids(before)
    differ = model.sid_logprobs(before, sids, INDEX) - model.sid_logprobs(after, sids, INDEX)
    assert float(differ.detach().abs().max()) > 1e-4


def test_history_order_matters_and_unknown_items_do_not() -> None:
    model = generator()
    known = MIXED[2]
    stranger = msgspec.structs.replace(
        known.history,
        item_keys=[17, *known.history.item_keys],
        action_codes=[1, *known.history.action_codes],
        gap_buckets=[4, *known.history.gap_buckets],
    )
    alike = msgspec.structs.replace(known.history, action_codes=[1, 1, 1], gap_buckets=[4, 4, 4])
    backwards = msgspec.structs.replace(alike, item_keys=alike.item_keys[::-1])
    sids = some_sids(collate([known], INDEX, SCENARIOS))

    def score(request: GenerationRequest) -> torch.Tensor:
        return model.sid_logprobs(collate([request], INDEX, SCENARIOS), sids, INDEX)

    same = score(msgspec.structs.replace(known, history=stranger))
    there, back = (score(msgspec.structs.replace(known, history=h)) for h in (alike, backwards))
    assert_close(same, score(known), atol=1e-6, rtol=0)
    assert float((there - back).detach().abs().max()) > 1e-4


def test_item_log_probs_are_a_softmax_over_all_items_of_the_sid() -> None:
    model = generator()
    batch = collate(MIXED, INDEX, SCENARIOS)
    leaves = torch.arange(len(INDEX.sids)).expand(len(MIXED), -1)
    ranked = model.rank_items(model.begin(batch, INDEX), INDEX, leaves)
    assert_close(ranked.logprobs_BWI.exp().sum(dim=2), torch.ones(len(MIXED), len(INDEX.sids)))
    assert ranked.places_BWI.shape[2] > 1


def test_an_unknown_sid_is_refused_by_name() -> None:
    batch = collate(MIXED[:1], INDEX, SCENARIOS)
    with pytest.raises(UnknownSemanticId, match=r"\(7, 7, 7\)"):
        generator().sid_logprobs(batch, torch.tensor([[[7, 7, 7]]]), INDEX)


def test_training_learns_the_targets_and_reaches_every_weight() -> None:
    torch.manual_seed(0)
    model = Generator(replace(small_config(), dropout=0.0))
    requests = [request(INDEX, 4, seed=n, trigger=n % 2 == 0) for n in range(24)]
    requests += [request(INDEX, 4, seed=n, instruction=False) for n in range(24, 32)]
    batch = collate(requests, INDEX, SCENARIOS)
    target = torch.randint(0, len(INDEX.keys_N), (len(batch),))
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    losses = []
    for _ in range(30):
        terms = generation_loss(model, batch, target, torch.ones(len(batch)), INDEX)
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        losses.append(float(terms.loss.detach()))
    assert losses[-1] < losses[0] / 4
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent


def test_the_loss_is_the_mean_of_weighted_cross_entropies() -> None:
    model = generator()
    batch = collate(MIXED[:2], INDEX, SCENARIOS)
    target = torch.tensor([4, 9])
    weight = torch.tensor([behaviour_weight(ActionType.ORDER), behaviour_weight(ActionType.VIEW)])
    terms = generation_loss(model, batch, target, weight, INDEX)
    codes = model.sid_logprobs(batch, INDEX.codes_NL[target].long().unsqueeze(1), INDEX)
    scores = model.item_scores(model.begin(batch, INDEX), INDEX, torch.arange(len(INDEX.keys_N)))
    items = scores.log_softmax(dim=1)[torch.arange(2), target]
    wanted = -(weight * (codes.sum(dim=(1, 2)) + items)).mean()
    assert weight.tolist() == [2.0, 1.0]
    assert_close(terms.loss, wanted)


def test_sampled_candidates_hold_the_targets() -> None:
    model = generator()
    batch = collate(MIXED[:2], INDEX, SCENARIOS)
    target = torch.tensor([4, 9])
    everything = torch.arange(len(INDEX.keys_N))
    full = generation_loss(model, batch, target, torch.ones(2), INDEX)
    sampled = generation_loss(model, batch, target, torch.ones(2), INDEX, everything[20:])
    few = generation_loss(model, batch, target, torch.ones(2), INDEX, everything[20:22])
    assert float(few.item_ce) < float(sampled.item_ce) < float(full.item_ce)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"scenario": "nowhere"}, "scenario"),
        ({"beams": 0}, "beams"),
        ({"beams": 513}, "beams"),
        ({"instruction": b"\x00\x00"}, "instruction"),
        ({"instruction": b"\x00\x7e" * 16}, "instruction"),
        ({"history": msgspec.structs.replace(MIXED[2].history, gap_buckets=[1])}, "history"),
        (
            {"history": msgspec.structs.replace(MIXED[2].history, gap_buckets=[1, 2, 32])},
            "history.gap_buckets",
        ),
        (
            {"history": msgspec.structs.replace(MIXED[2].history, action_codes=[1, 9, 2])},
            "history.action_codes",
        ),
    ],
)
def test_a_request_that_cannot_be_collated_names_its_field(
    change: dict[str, object], field: str
) -> None:
    with pytest.raises(BadGenerationRequest) as caught:
        collate([msgspec.structs.replace(MIXED[2], **change)], INDEX, SCENARIOS)
    assert caught.value.field == field


def test_an_index_of_one_level_is_searched_too() -> None:
    index = ItemIndex.build(
        keys=torch.arange(6), codes=torch.arange(6).unsqueeze(1), content=torch.zeros(6, 16)
    )
    model = generator(replace(small_config(), levels=1, scenarios=1))
    one = msgspec.structs.replace(MIXED[1], scenario="home", exclude_keys=[2])
    batch = collate([one], index, ["home"])
    masks = index.masks(batch.scenario_B, excluded_keys([one]))
    found = model.search(model.begin(batch, index), index, masks, 10)
    sids = index.sids[found.leaves_BW].long()
    assert_close(
        model.sid_logprobs(batch, sids, index)[found.live_BW], found.logprobs_BWL[found.live_BW]
    )
    assert int(found.live_BW.sum()) == 5
