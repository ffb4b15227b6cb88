"""Puts one explored item into a share of the slates, with the probabilities it was drawn with.

A deterministic top k has no propensity; only slots drawn at random allow an honest estimate of
another policy (ours). The estimate judges re-ranking inside the candidate set, not new items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from schemas.generation import GeneratedItem
from schemas.impressions import Exploration

MAX_CANDIDATES = 50  # bounds the impression: a key, a score and a probability each


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationConfig:
    """`share` of the requests get one explored slot; `temperature` flattens the draw."""

    share: float = 0.02
    temperature: float = 1.0


def explores(config: ExplorationConfig, rng: Random) -> bool:
    """Returns whether this request gets an explored slot."""
    return rng.random() < config.share


def place(
    ranked: Sequence[GeneratedItem], num_items: int, temperature: float, rng: Random
) -> tuple[list[GeneratedItem], Exploration | None]:
    """Returns a slate with one explored slot, and its draw.

    The slot is any but the first, uniformly; the other items keep their order. The candidates C are
    the best ranked items not placed in the other slots, at most 50; one is drawn with
    q = softmax(score / T) over C. With a slate of one item, or one candidate, nothing is explored.
    `Exploration.position` counts from 0; `Exploration.chosen` is an index into its lists.
    """
    top = list(ranked[:num_items])
    candidates = ranked[len(top) - 1 :][:MAX_CANDIDATES]
    if len(top) < 2 or len(candidates) < 2:
        return top, None
    probabilities = softmax([item.score for item in candidates], temperature)
    chosen = rng.choices(range(len(candidates)), probabilities)[0]
    position = rng.randrange(1, len(top))
    slate = top[:-1]
    slate.insert(position, candidates[chosen])
    return slate, Exploration(
        position=position,
        temperature=temperature,
        candidate_keys=[item.item_key for item in candidates],
        scores=[item.score for item in candidates],
        probabilities=probabilities,
        chosen=chosen,
    )


def softmax(scores: Sequence[float], temperature: float) -> list[float]:
    """Returns probabilities proportional to exp(score / temperature)."""
    largest = max(scores)  # subtracted, so that no exponential overflows
    weights = [math.exp((score - largest) / temperature) for score in scores]
    total = math.fsum(weights)
    return [weight / total for weight in weights]
