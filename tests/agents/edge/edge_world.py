"""An edge whose parts are in memory: what the tests of the request path stand on."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from random import Random

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from agents.edge.acknowledgement import Acknowledged
from agents.edge.action_intake import ActionIntake
from agents.edge.edge import Edge
from agents.edge.exploration import ExplorationConfig
from agents.edge.health import Readiness
from agents.edge.item_intake import ItemIntake
from agents.edge.popular_items import PopularItems
from agents.edge.profile_intake import ProfileIntake
from agents.edge.recommender import Recommender, RecommenderConfig
from agents.edge.slates import Question
from agents.edge.user_context import ContextConfig, ContextReader
from agents.settings import HttpConfig, Settings
from schemas.actions import ActionType, UserAction, UserErased
from schemas.behaviour import Behaviour
from schemas.catalog import ItemRow, item_key_of
from schemas.generation import GeneratedItem, GenerationRequest, GenerationResponse
from schemas.impressions import Impression
from schemas.instructions import InstructionKind, ReasoningInstruction
from schemas.policies import PolicyPublished
from schemas.users import UserProfile
from streams.producer import Delivered, UndeliveredRecord

NOW_MS = 1_700_000_000_000
GENERATION, VERSION, OFFSET = 3, 7, 120
ITEM_IDS = [f"item-{number:02d}" for number in range(60)]


def announced(version: int = VERSION, generation: int = GENERATION) -> PolicyPublished:
    return PolicyPublished(
        line="default",
        stable_version=version,
        generation=generation,
        index_offset=OFFSET,
        epoch=1,
        published_ms=NOW_MS,
    )


def row(item_id: str, *, live: bool = True, scenarios: list[str] | None = None) -> ItemRow:
    return ItemRow(
        item_key=item_key_of(item_id),
        item_id=item_id,
        live=live,
        title=item_id,
        category="c",
        scenarios=scenarios,
    )


def instruction(as_of_ms: int = NOW_MS - 5_000) -> ReasoningInstruction:
    return ReasoningInstruction(
        instruction_id="i1",
        trigger_id="u:1",
        user_id="u",
        generation=GENERATION,
        kind=InstructionKind.INTENT,
        text="looks for umbrellas",
        vector=b"\x00\x3c" * 4,
        encoder_id=LetterEncoder.encoder_id,
        as_of_ms=as_of_ms,
        created_ms=as_of_ms,
        reasoner="local",
    )


def question(**changes: object) -> Question:
    asked: dict[str, object] = {
        "request_id": "r1",
        "user_id": "u",
        "scenario": "home",
        "num_items": 10,
        "asked_ms": NOW_MS,
        **changes,
    }
    return Question(**asked)  # type: ignore[arg-type]


@dataclass
class MemoryStores:
    """Every store port in one; `fault` is raised by each read, `delay_s` slows it down."""

    behaviour: list[Behaviour] = field(default_factory=list)
    instruction: ReasoningInstruction | None = None
    rows_by_key: dict[int, ItemRow] = field(
        default_factory=lambda: {item_key_of(item_id): row(item_id) for item_id in ITEM_IDS}
    )
    fault: Exception | None = None
    delay_s: float = 0.0
    row_reads: list[list[int]] = field(default_factory=list)
    profiles: dict[str, UserProfile] = field(default_factory=dict)
    erasures: dict[str, int] = field(default_factory=dict)

    async def _answer(self) -> None:
        await asyncio.sleep(self.delay_s)
        if self.fault is not None:
            raise self.fault

    async def recent(self, user_id: str, count: int) -> list[Behaviour]:
        await self._answer()
        return self.behaviour[-count:]

    async def read(self, generation: int, user_id: str) -> ReasoningInstruction | None:
        await self._answer()
        stored = self.instruction
        return stored if stored is not None and stored.generation == generation else None

    async def write(self, instruction: ReasoningInstruction) -> bool:
        self.instruction = instruction
        return True

    async def erased_ms(self, user_id: str) -> int | None:
        return self.erasures.get(user_id)

    async def apply(self, erased: UserErased) -> None:
        await self._answer()
        self.erasures[erased.user_id] = erased.event_time_ms

    async def rows(self, item_keys: Sequence[int]) -> Mapping[int, ItemRow]:
        self.row_reads.append(list(item_keys))
        await self._answer()
        return {key: self.rows_by_key[key] for key in item_keys if key in self.rows_by_key}

    async def popular(self, scenario: str, count: int) -> list[int]:
        await self._answer()
        return list(reversed(self.rows_by_key))[:count]

    async def profile(self, user_id: str) -> UserProfile | None:
        await self._answer()
        return self.profiles.get(user_id, UserProfile(user_id=user_id, city="Bergen"))


@dataclass
class ScriptedGenerator:
    """Ranks the items in their order; `faults` are raised one a call, then it answers."""

    stamped: tuple[int, int, int] = (GENERATION, VERSION, OFFSET)
    faults: list[Exception] = field(default_factory=list)
    calls: list[tuple[GenerationRequest, int, int]] = field(default_factory=list)

    async def generate(
        self, request: GenerationRequest, *, version: int, deadline_ms: int
    ) -> GenerationResponse:
        self.calls.append((request, version, deadline_ms))
        await asyncio.sleep(0)
        if self.faults:
            raise self.faults.pop(0)
        keys = [item_key_of(item_id) for item_id in ITEM_IDS[: request.beams]]
        generation, _, offset = self.stamped
        return GenerationResponse(
            items=[
                GeneratedItem(
                    item_key=key,
                    sid=[1, 2, place],
                    logprobs=[-1.0, -1.0, -1.0],
                    score=-0.1 * place,
                    table_term=-0.01 * place,
                )
                for place, key in enumerate(keys)
                if key not in request.exclude_keys
            ],
            generation=generation,
            policy_version=version,
            index_offset=offset,
        )


class LetterEncoder:
    """Embeds a text by four of its letters, or raises `fault`."""

    encoder_id = "letters"
    dim = 4

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault

    async def encode(
        self, texts: Sequence[str], *, deadline_ms: int | None = None
    ) -> npt.NDArray[np.float32]:
        assert deadline_ms is not None, "the edge waits for nothing without an end"
        if self.fault is not None:
            raise self.fault
        rows = [[float(text.count(letter)) for letter in "aeio"] for text in texts]
        return np.array(rows, dtype=np.float32)


@dataclass
class World:
    """The parts, and what went out: impressions and sent actions."""

    stores: MemoryStores = field(default_factory=MemoryStores)
    generator: ScriptedGenerator = field(default_factory=ScriptedGenerator)
    policies: list[PolicyPublished | None] = field(default_factory=lambda: [announced()])
    impressions: list[Impression] = field(default_factory=list)
    sent: list[UserAction] = field(default_factory=list)
    produced: list[tuple[str, Struct | None, str]] = field(default_factory=list)
    lost: frozenset[str] = frozenset()  # event ids, or topics
    encoder_fault: Exception | None = None
    exploration: ExplorationConfig = field(default_factory=lambda: ExplorationConfig(share=0.0))
    settings: Settings = field(default_factory=lambda: Settings(http=HttpConfig(acknowledge_ms=50)))

    def __post_init__(self) -> None:
        scenarios = self.settings.serving.scenarios
        self.popular = PopularItems(self.stores, scenarios)

    def policy(self) -> PolicyPublished | None:
        """Returns the announcements one after the other, the last one for ever."""
        return self.policies.pop(0) if len(self.policies) > 1 else self.policies[0]

    def encoder(self, generation: int) -> LetterEncoder | None:
        """The one encoder there is, of one generation."""
        return LetterEncoder(self.encoder_fault) if generation == GENERATION else None

    @property
    def recommender(self) -> Recommender:
        context = ContextReader(
            ContextConfig(),
            history=self.stores,
            instructions=self.stores,
            items=self.stores,
            encoder=self.encoder,
        )
        return Recommender(
            RecommenderConfig(exploration=self.exploration),
            context=context,
            items=self.stores,
            popular=self.popular,
            generator=self.generator,
            policy=self.policy,
            emit=self.impressions.append,
            rng=Random(1),
        )

    def send(self, action: UserAction) -> Future[Delivered]:
        """Acknowledges at once; never what is `lost`, and with an error what ends in `!`."""
        self.sent.append(action)
        future: Future[Delivered] = Future()
        if action.event_id.endswith("!"):
            future.set_exception(
                UndeliveredRecord(topic="actions", identity=action.event_id, cause="gone")
            )
        elif action.event_id not in self.lost:
            future.set_result(Delivered(topic="actions", partition=0, offset=0, append_ms=0))
        return future

    def produce(self, topic: str, record: Struct | None, user_id: str) -> Future[Delivered]:
        """Acknowledges at once, but never to a topic that is `lost`."""
        self.produced.append((topic, record, user_id))
        future: Future[Delivered] = Future()
        if topic not in self.lost:
            future.set_result(Delivered(topic=topic, partition=0, offset=0, append_ms=0))
        return future

    def profile_intake(self) -> ProfileIntake:
        return ProfileIntake(
            acknowledged=self.acknowledged(),
            profiles=self.stores,
            erasures=self.stores,
            now_ms=lambda: NOW_MS,
            new_id=lambda: "erasure-1",
        )

    def item_intake(self) -> ItemIntake:
        return ItemIntake(
            acknowledged=self.acknowledged(),
            items=self.stores,
            scenarios=self.settings.serving.scenarios,
            now_ms=lambda: NOW_MS,
        )

    def acknowledged(self) -> Acknowledged:
        return Acknowledged(self.produce, within_ms=self.settings.http.acknowledge_ms)

    def intake(self, now_ms: Callable[[], int] = lambda: NOW_MS) -> ActionIntake:
        return ActionIntake(
            send=self.send,
            scenarios=frozenset(self.settings.serving.scenarios),
            now_ms=now_ms,
            max_actions=self.settings.http.max_actions,
            acknowledge_ms=self.settings.http.acknowledge_ms,
        )

    def edge(self, readiness: Readiness | None = None) -> Edge:
        async def ready() -> Readiness:
            return readiness or Readiness(
                status="ready", kafka="ok", redis="ok", generator="ok", policy_version=VERSION
            )

        return Edge(
            settings=self.settings,
            intake=self.intake(),
            profile_intake=self.profile_intake(),
            item_intake=self.item_intake(),
            recommender=self.recommender,
            policy=self.policy,
            readiness=ready,
            history=self.stores,
            instructions=self.stores,
            profiles=self.stores,
        )


def clicked(number: int, item_id: str) -> Behaviour:
    return Behaviour(
        event_id=f"e{number}",
        action=ActionType.CLICK,
        event_time_ms=NOW_MS - 60_000 + number,
        item_key=item_key_of(item_id),
    )
