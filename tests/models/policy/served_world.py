"""A small catalogue and a random-initialised generator, published as version 1 of generation 1."""

import random
from pathlib import Path

import msgspec
import numpy as np
import torch

from models.generator.config import GeneratorConfig
from models.generator.files import save_generator
from models.generator.generator import Generator
from models.serving.engine import GeneratorEngine
from models.serving.index_file import index_of
from models.serving.neighbours_file import save_neighbours
from models.serving.policy_directory import LoadedPolicy, Manifest, load_version, write_version
from models.vectors import pack
from schemas.actions import ActionType
from schemas.catalog import SidAssignment
from schemas.generation import GenerationRequest, GenerationResponse
from schemas.impressions import HistoryFeatures, Impression, ServedInstruction, SlateItem, Slot
from schemas.rewards import RewardEvent
from tests.models.decoding.small_neighbours import small_neighbours
from tests.models.policy.reward_events import reward_event

SCENARIOS = ["home", "search", "detail"]
ITEMS = 60
CONFIG = GeneratorConfig(codes=8, content_dim=8, width=16, heads=2, feed_forward=16, max_history=8)


def catalogue(seed: int = 0) -> list[SidAssignment]:
    """Returns 60 items of generation 1 with random SIDs and embeddings."""
    chance = np.random.default_rng(seed)
    return [
        SidAssignment(
            item_key=1_000 + number,
            item_id=f"item-{number}",
            sid=chance.integers(0, CONFIG.codes, CONFIG.levels).tolist(),
            generation=1,
            embedding=pack(chance.standard_normal(CONFIG.content_dim).astype(np.float32)),
            in_stock=True,
            scenarios=None,
            published_ms=1_700_000_000_000,
        )
        for number in range(ITEMS)
    ]


def fresh_generator(seed: int = 0) -> Generator:
    """Returns random weights in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(CONFIG).eval()


def write_generation(home: Path) -> Generator:
    """Writes what the publisher needs of generations/1, and returns its offline model. A table of
    neighbours re-ranks what its versions answer.
    """
    folder = home / "generations" / "1"
    offline = fresh_generator()
    save_generator(folder, offline)
    index = index_of(catalogue(), generation=1, scenarios=SCENARIOS)
    record = save_neighbours(folder, small_neighbours(index))
    (folder / "manifest.json").write_bytes(msgspec.json.encode({"neighbours": record}))
    return offline


def publish(repository: Path, version: int, weights: Generator) -> LoadedPolicy:
    """Writes one version directory with the whole catalogue."""
    manifest = Manifest(
        policy_version=version,
        generation=1,
        index_offset=ITEMS,
        scenarios=SCENARIOS,
        created_ms=1_700_000_000_000,
        parent=version - 1 or None,
    )
    index = index_of(catalogue(), generation=1, scenarios=SCENARIOS)
    return load_version(write_version(repository, manifest, weights, index))


def request(number: int) -> GenerationRequest:
    """Returns a request with a history of 0 to 4 items and, every second time, an instruction."""
    chance = random.Random(number)
    keys = [1_000 + chance.randrange(ITEMS) for _ in range(number % 5)]
    instruction = pack(np.full(CONFIG.content_dim, 0.1 * (number % 3), dtype=np.float32))
    return GenerationRequest(
        scenario=SCENARIOS[number % 3],
        history=HistoryFeatures(
            item_keys=keys, action_codes=[2] * len(keys), gap_buckets=[3] * len(keys)
        ),
        beams=20,
        instruction=instruction if number % 2 else None,
    )


def shown(number: int, answer: GenerationResponse) -> Impression:
    """Returns the impression of an answered request: its first 6 items."""
    asked = request(number)
    slate = [
        SlateItem(
            item_key=item.item_key,
            item_id=f"item-{item.item_key - 1_000}",
            sid=item.sid,
            logprobs=item.logprobs,
            score=item.score,
            position=position,
            slot=Slot.TOP,
        )
        for position, item in enumerate(answer.items[:6])
    ]
    instruction = asked.instruction and ServedInstruction(
        instruction_id=f"i-{number}", vector=asked.instruction, as_of_ms=1_699_999_999_000
    )
    return Impression(
        request_id=f"request-{number}",
        user_id=f"user-{number % 7}",
        scenario=asked.scenario,
        served_ms=1_700_000_000_000 + number,
        generation=answer.generation,
        policy_version=answer.policy_version,
        index_offset=answer.index_offset,
        history=asked.history,
        slate=slate,
        beams=asked.beams,
        instruction=instruction or None,
    )


def rewarded(number: int, answer: GenerationResponse) -> RewardEvent:
    """Returns a reward event of a shopper who wants SIDs that begin with an even code."""
    impression = shown(number, answer)
    wanted = [item.item_key for item in impression.slate if item.sid[0] % 2 == 0]
    chosen = dict.fromkeys(wanted[:1], ActionType.ORDER) | dict.fromkeys(
        wanted[1:], ActionType.CLICK
    )
    outside = {} if wanted else {1_000 + number % ITEMS: ActionType.CART}
    return reward_event(
        impression, chosen=chosen, outside=outside, examined=range(len(impression.slate))
    )


def served_log(engine: GeneratorEngine, count: int) -> list[RewardEvent]:
    """Returns `count` rewarded requests that the engine really answered, one at a time."""
    events = []
    for number in range(count):
        answer = engine.generate([request(number)])[0]
        assert isinstance(answer, GenerationResponse)
        events.append(rewarded(number, answer))
    return events
