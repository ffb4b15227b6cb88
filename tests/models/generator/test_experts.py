"""Mixture of experts against a loop over tokens; the presets are as large as their names say."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from models.decoding.legal import ScoreSemantics
from models.generator.batch import collate, excluded_keys
from models.generator.config import PRESETS, GeneratorConfig, GeneratorConfigInvalid
from models.generator.experts import Experts, Routed, balance_loss, routing_recorded
from models.generator.generator import Generator, parameter_count
from tests.models.generator.closeness import assert_close
from tests.models.generator.small_policy import SCENARIOS, request, small_config, small_index


def mixture(experts: int = 4, per_token: int = 2) -> GeneratorConfig:
    return replace(
        small_config(), kv_heads=2, gated=True, experts=experts, experts_per_token=per_token
    )


def token_by_token(layer: Experts, x_BXD: torch.Tensor) -> torch.Tensor:
    """The reference: every token alone, every expert a matrix product."""
    out = torch.zeros_like(x_BXD)
    for b in range(x_BXD.shape[0]):
        for x in range(x_BXD.shape[1]):
            token = x_BXD[b, x]
            probabilities = torch.softmax(layer.router.weight @ token, dim=0)
            best = sorted(range(len(probabilities)), key=lambda e: -float(probabilities[e]))
            chosen = best[: layer.chosen]
            total = sum(float(probabilities[e]) for e in chosen) if layer.chosen > 1 else 1.0
            for expert in chosen:
                gate, up = (token @ layer.gate_and_up_EDF[expert]).chunk(2)
                value = (F.silu(gate) * up) @ layer.out_EFD[expert]
                out[b, x] += float(probabilities[expert]) / total * value
    return out


@pytest.mark.parametrize(("experts", "per_token"), [(2, 1), (4, 2), (5, 3), (24, 2)])
@torch.no_grad()
def test_a_mixture_gives_what_each_token_gets_alone(experts: int, per_token: int) -> None:
    torch.manual_seed(experts)
    layer = Experts(mixture(experts, per_token))
    x_BXD = torch.randn(3, 7, 32)
    assert_close(layer(x_BXD), token_by_token(layer, x_BXD))
    # As a card does it, which is not asked how many tokens each expert has.
    x_TD = x_BXD.flatten(0, 1)
    weights_TK, chosen_TK = layer.router(x_TD).softmax(dim=1).topk(per_token, dim=1)
    if per_token > 1:
        weights_TK = weights_TK / weights_TK.sum(dim=1, keepdim=True)
    found_TD = layer.all_experts(x_TD, weights_TK, chosen_TK)
    assert_close(found_TD.view_as(x_BXD), token_by_token(layer, x_BXD))


@pytest.mark.parametrize("per_token", [1, 2])
def test_router_and_chosen_experts_are_trained(per_token: int) -> None:
    torch.manual_seed(0)
    layer = Experts(mixture(4, per_token))
    layer(torch.randn(8, 4, 32)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 1e-6, name


def test_the_balance_loss_is_one_when_balanced_and_the_number_of_experts_when_not() -> None:
    even = Routed(torch.full((8, 4), 0.25), torch.arange(8).remainder(4).unsqueeze(1))
    one = Routed(F.one_hot(torch.zeros(8, dtype=torch.int64), 4).float(), torch.zeros(8, 1).long())
    assert float(balance_loss([[even]])) == pytest.approx(1.0)
    assert float(balance_loss([[one]])) == pytest.approx(4.0)
    assert float(balance_loss([[even], [one]])) == pytest.approx(2.5)
    assert float(balance_loss([])) == 0.0


def test_the_balance_loss_pushes_tokens_from_the_crowded_expert() -> None:
    torch.manual_seed(0)
    layer = Experts(mixture(4, 1))
    x_BXD = torch.randn(64, 4, 32) + 1
    with torch.no_grad():
        layer.router.weight[0] += 0.2
    optimizer = torch.optim.Adam(layer.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        with routing_recorded(layer) as routed:
            layer(x_BXD)
        loss = balance_loss(routed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 2
    assert losses[-1] < 1.2
    assert layer.routed is None


@torch.no_grad()
def test_the_search_of_a_mixture_with_shared_keys_gives_the_teacher_forced_log_probs() -> None:
    torch.manual_seed(5)
    index = small_index()
    model = Generator(mixture()).eval()
    requests = [request(index, 20, seed=1), request(index, 0, seed=2, instruction=False)]
    batch = collate(requests, index, SCENARIOS)
    masks = index.masks(batch.scenario_B, excluded_keys(requests))
    found = model.search(model.begin(batch, index), index, masks, 25, ScoreSemantics.LEGAL)
    sids = index.sids[found.leaves_BW].long()
    assert_close(found.logprobs_BWL, model.sid_logprobs(batch, sids, index), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny"])
def test_a_preset_has_the_parameters_that_its_name_says(name: str) -> None:
    with torch.device("meta"):
        model = Generator(PRESETS[name])
    billions = parameter_count(model) / 1e9
    assert billions == pytest.approx(float(name.removesuffix("B")), rel=0.17)
    assert len(model.encoder.layers) == 4


def test_tiny_stays_dense_and_small() -> None:
    model = Generator(PRESETS["tiny"])
    assert parameter_count(model) < 500_000
    assert not any(isinstance(module, Experts) for module in model.modules())


@pytest.mark.parametrize(
    ("field", "value"), [("kv_heads", 3), ("experts_per_token", 2), ("retrieved", 0)]
)
def test_sizes_that_do_not_fit_are_named(field: str, value: int) -> None:
    with pytest.raises(GeneratorConfigInvalid) as caught:
        GeneratorConfig.from_json({**small_config().to_json(), field: value})
    assert caught.value.field == field
