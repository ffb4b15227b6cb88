"""Whether what is served is what was trained, and how far the weights moved."""

import math

import torch

from models.generator.generator import Generator
from models.policy.served_policies import ServedPolicy
from schemas.generation import GenerationResponse
from schemas.impressions import Impression


def answer_mismatch(
    weights: Generator,
    served: ServedPolicy,
    impression: Impression,
    response: GenerationResponse,
) -> float:
    """Returns max |log-prob answered - log-prob of `weights`| under the index of `served`.

    `response` is what that version answered to the impression's request; 0 for no items.
    """
    if not response.items:
        return 0.0
    sids_1ML = torch.tensor([[item.sid for item in response.items]])
    answered_1ML = torch.tensor([[item.logprobs for item in response.items]])
    with torch.no_grad():
        own_1ML = served.logprobs(weights, [impression], sids_1ML)
    return float((own_1ML - answered_1ML).abs().max())


def weight_change_norm(weights: Generator, parent: Generator) -> float:
    """Returns the Euclidean norm of the difference of all weights."""
    pairs = zip(weights.parameters(), parent.parameters(), strict=True)
    return math.sqrt(sum(float((new - old).detach().square().sum()) for new, old in pairs))
