"""One request: the slate, its versions, its impression, and what happens when a part is gone."""

import time
from random import Random

import pytest
from msgspec.structs import replace
from redis.exceptions import ConnectionError as RedisConnectionError

from agents.edge.exploration import ExplorationConfig
from agents.edge.slates import NO_VERSION
from agents.edge.user_context import UnknownItem
from models.features import build_history
from schemas.catalog import item_key_of
from schemas.encoding import EncoderMismatch, EncoderUnavailable, EncodingFailed
from schemas.generation import BadGenerationRequest, GeneratorUnavailable
from schemas.impressions import Slot
from streams import metrics
from tests.agents.edge.edge_world import (
    GENERATION,
    ITEM_IDS,
    NOW_MS,
    OFFSET,
    VERSION,
    MemoryStores,
    ScriptedGenerator,
    World,
    announced,
    clicked,
    instruction,
    question,
    row,
)


def gone(cause: str) -> GeneratorUnavailable:
    return GeneratorUnavailable(cause=cause, version=VERSION, detail="scripted")


async def test_a_slate_is_the_best_items_with_the_versions_that_answered() -> None:
    world = World()
    slate = await world.recommender.recommend(question())
    shown = slate.impression
    assert [item.item_id for item in shown.slate] == ITEM_IDS[:10]
    assert [item.position for item in shown.slate] == list(range(10))
    versions = (shown.generation, shown.policy_version, shown.index_offset)
    assert versions == (GENERATION, VERSION, OFFSET)
    assert shown.degraded is None
    assert world.impressions == [shown]


@pytest.mark.parametrize("vector", [b"\x00\x7e" * 4, b"\x00\x3c" * 3, b"\x00"])
async def test_a_vector_that_is_none_serves_the_default_and_is_counted(vector: bytes) -> None:
    refused = metrics.INSTRUCTIONS_REFUSED.labels(cause="vector")._value
    before = refused.get()
    stored = replace(instruction(), vector=vector)
    world = World(stores=MemoryStores(instruction=stored))
    slate = await world.recommender.recommend(question())
    assert world.generator.calls[0][0].instruction is None
    assert (slate.instruction, slate.impression.degraded) == (None, None)
    assert refused.get() == before + 1


async def test_an_impression_holds_what_the_generator_was_given() -> None:
    behaviour = [clicked(number, ITEM_IDS[number]) for number in range(30)]
    world = World(stores=MemoryStores(behaviour=behaviour, instruction=instruction()))
    shown = (
        await world.recommender.recommend(question(trigger_key=item_key_of("item-05")))
    ).impression
    request, _, deadline_ms = world.generator.calls[0]
    assert shown.history == request.history == build_history(behaviour, NOW_MS, 20)
    assert shown.instruction is not None
    assert shown.instruction.vector == request.instruction == instruction().vector
    assert shown.trigger_key == request.trigger_key == item_key_of("item-05")
    assert shown.beams == request.beams
    assert 0 < deadline_ms <= 70


async def test_items_that_are_not_live_excluded_or_of_other_scenarios_are_not_shown() -> None:
    world = World()
    world.stores.rows_by_key[item_key_of("item-00")] = row("item-00", live=False)
    world.stores.rows_by_key[item_key_of("item-01")] = row("item-01", scenarios=["search"])
    del world.stores.rows_by_key[item_key_of("item-02")]
    asked = question(exclude_keys=frozenset({item_key_of("item-03"), 4711}))
    shown = (await world.recommender.recommend(asked)).impression
    assert [item.item_id for item in shown.slate] == ITEM_IDS[4:14]


async def test_the_explored_slot_is_marked_and_its_draw_is_logged() -> None:
    world = World(exploration=ExplorationConfig(share=1.0))
    shown = (await world.recommender.recommend(question())).impression
    assert shown.exploration is not None
    explored = [item for item in shown.slate if item.slot is Slot.EXPLORED]
    drawn = shown.exploration.candidate_keys[shown.exploration.chosen]
    assert [(item.position, item.item_key) for item in explored] == [
        (shown.exploration.position, drawn)
    ]


async def test_a_stale_instruction_gives_way_to_the_default() -> None:
    stored = instruction(as_of_ms=NOW_MS - 37 * 3_600_000)
    world = World(stores=MemoryStores(instruction=stored))
    slate = await world.recommender.recommend(question())
    assert slate.instruction is None
    assert slate.impression.instruction is None
    assert world.generator.calls[0][0].instruction is None


async def test_a_vector_of_another_encoder_is_refused_and_counted() -> None:
    refused = metrics.INSTRUCTIONS_REFUSED.labels(cause="encoder")._value
    before = refused.get()
    stored = replace(instruction(), encoder_id="another")
    world = World(stores=MemoryStores(instruction=stored))
    slate = await world.recommender.recommend(question())
    assert slate.instruction is None
    assert world.generator.calls[0][0].instruction is None
    assert refused.get() == before + 1


async def test_the_query_of_a_search_is_its_instruction_and_nowhere_else() -> None:
    world = World(stores=MemoryStores(instruction=instruction()))
    searched = await world.recommender.recommend(question(scenario="search", query="tea"))
    browsed = await world.recommender.recommend(question(scenario="home", query="tea"))
    unknown = await world.recommender.recommend(question(scenario="search", query="xyz"))
    assert searched.instruction is not None
    assert (searched.instruction.text, searched.instruction.as_of_ms) == ("tea", NOW_MS)
    assert world.generator.calls[0][0].instruction != instruction().vector
    assert browsed.instruction == unknown.instruction
    assert browsed.instruction is not None
    assert browsed.instruction.instruction_id == "i1"


@pytest.mark.parametrize(
    "fault",
    [
        EncoderUnavailable(cause="late", place="text_encoder", detail="no answer within 25 ms"),
        EncoderMismatch(place="text_encoder", found="bert-2", wanted="bert-1", remedy="load it"),
    ],
)
async def test_words_that_are_not_encoded_leave_the_default_and_are_counted(
    fault: EncodingFailed,
) -> None:
    counted = metrics.QUERIES_NOT_ENCODED.labels(cause=fault.cause)._value
    before = counted.get()
    world = World(stores=MemoryStores(instruction=instruction()), encoder_fault=fault)
    searched = await world.recommender.recommend(question(scenario="search", query="tea"))
    browsed = await world.recommender.recommend(question())
    assert searched.impression.degraded is None
    assert searched.instruction is None  # not the older window's, which may say the contrary
    assert browsed.instruction is not None
    assert counted.get() == before + 1


async def test_each_slate_is_counted_by_what_instructed_it_and_words_have_no_age() -> None:
    def counted() -> list[float]:
        kinds = ("own", "query", "default", "none")
        return [metrics.SLATES.labels(instruction=kind)._value.get() for kind in kinds]

    before, age_before_s = counted(), metrics.INSTRUCTION_AGE_SECONDS._sum.get()
    own = World(stores=MemoryStores(instruction=instruction(as_of_ms=NOW_MS - 90_000)))
    await own.recommender.recommend(question())
    await own.recommender.recommend(question(scenario="search", query="tea"))
    await World().recommender.recommend(question())
    await World(policies=[None]).recommender.recommend(question())
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [1, 1, 1, 1]
    assert metrics.INSTRUCTION_AGE_SECONDS._sum.get() - age_before_s == pytest.approx(90)


async def test_a_version_just_replaced_is_asked_for_again_with_the_new_one() -> None:
    world = World(policies=[announced(), announced(VERSION + 1)])
    world.generator.faults = [gone("version")]
    shown = (await world.recommender.recommend(question())).impression
    assert shown.degraded is None
    assert shown.policy_version == VERSION + 1
    assert [version for _, version, _ in world.generator.calls] == [VERSION, VERSION + 1]


async def test_in_a_new_generation_the_old_vector_is_left_out_everywhere() -> None:
    stores = MemoryStores(instruction=instruction())
    generator = ScriptedGenerator(
        stamped=(GENERATION + 1, VERSION + 1, OFFSET), faults=[gone("version")]
    )
    policies = [announced(), announced(VERSION + 1, GENERATION + 1)]
    world = World(stores=stores, generator=generator, policies=list(policies))
    slate = await world.recommender.recommend(question())
    assert slate.impression.generation == GENERATION + 1
    assert generator.calls[1][0].instruction is None
    assert slate.impression.instruction is None
    assert slate.instruction is None


@pytest.mark.parametrize("cause", ["gone", "late", "full", "version", "refused"])
async def test_without_the_generator_popular_items_are_shown_and_marked(cause: str) -> None:
    world = World()
    world.generator.faults = [gone(cause)]
    shown = (await world.recommender.recommend(question(num_items=3))).impression
    assert shown.degraded == f"generator_{cause}"
    assert [item.item_id for item in shown.slate] == ["item-59", "item-58", "item-57"]
    versions = {shown.generation, shown.policy_version, shown.index_offset}
    assert versions == {NO_VERSION}
    assert world.impressions == [shown]


async def test_a_request_the_generator_refuses_is_degraded_too() -> None:
    world = World()
    world.generator.faults = [BadGenerationRequest(field="beams", found="0", wanted="1")]
    shown = (await world.recommender.recommend(question())).impression
    assert shown.degraded == "generator_refused"


async def test_late_redis_is_answered_in_time_from_what_was_last_seen() -> None:
    world = World()
    await world.popular.refresh("home")
    world.stores.delay_s = 5.0
    start = time.monotonic()
    shown = (await world.recommender.recommend(question())).impression
    assert time.monotonic() - start < 0.1
    assert shown.degraded == "redis_late"
    assert [item.item_id for item in shown.slate] == list(reversed(ITEM_IDS))[:10]


async def test_redis_gone_from_the_start_is_an_empty_list_marked() -> None:
    world = World(stores=MemoryStores(fault=RedisConnectionError("refused")))
    shown = (await world.recommender.recommend(question())).impression
    assert (shown.degraded, shown.slate) == ("redis_gone", [])


async def test_degraded_items_are_live_and_not_excluded() -> None:
    world = World()
    world.generator.faults = [gone("gone")]
    world.stores.rows_by_key[item_key_of("item-59")] = row("item-59", live=False)
    asked = question(num_items=2, exclude_keys=frozenset({item_key_of("item-58")}))
    shown = (await world.recommender.recommend(asked)).impression
    assert [item.item_id for item in shown.slate] == ["item-57", "item-56"]


async def test_a_degraded_answer_reads_no_more_rows_than_it_needs_and_sees_them_as_they_are() -> (
    None
):
    world = World()
    await world.popular.refresh("home")
    world.stores.row_reads.clear()
    world.generator.faults = [gone("late")]
    world.stores.rows_by_key[item_key_of("item-59")] = row("item-59", live=False)
    shown = (await world.recommender.recommend(question(num_items=2))).impression
    assert [item.item_id for item in shown.slate] == ["item-58", "item-57"]
    assert [len(keys) for keys in world.stores.row_reads if keys] == [7]


async def test_before_the_first_announcement_the_answer_is_degraded() -> None:
    shown = (await World(policies=[None]).recommender.recommend(question())).impression
    assert shown.degraded == "no_policy"


async def test_when_nothing_the_generator_found_may_be_shown_popular_items_are() -> None:
    world = World()
    allowed = {item_key_of(item_id): row(item_id) for item_id in ITEM_IDS[55:]}
    world.stores.rows_by_key = allowed
    shown = (await world.recommender.recommend(question(num_items=2))).impression
    assert shown.degraded == "no_items"
    assert [item.item_id for item in shown.slate] == ["item-59", "item-58"]


async def test_a_trigger_item_without_a_row_is_refused() -> None:
    with pytest.raises(UnknownItem):
        await World().recommender.recommend(question(trigger_key=4711))


async def test_no_answer_mixes_versions_while_policies_change() -> None:
    rng = Random(5)
    for _ in range(200):
        first, second = rng.randrange(1, 5), rng.randrange(1, 5)
        world = World(policies=[announced(first), announced(second)])
        world.generator.faults = [gone("version")] if rng.random() < 0.5 else []
        shown = (await world.recommender.recommend(question())).impression
        answered = world.generator.calls[-1][1]
        assert shown.policy_version == (NO_VERSION if shown.degraded else answered)


async def test_rows_are_read_for_the_slate_and_for_more_only_where_it_is_short() -> None:
    world = World()
    await world.recommender.recommend(question())
    assert [len(keys) for keys in world.stores.row_reads if keys] == [15]
    for item_id in ITEM_IDS[:12]:
        world.stores.rows_by_key[item_key_of(item_id)] = row(item_id, live=False)
    world.stores.row_reads.clear()
    shown = (await world.recommender.recommend(question())).impression
    assert [item.item_id for item in shown.slate] == ITEM_IDS[12:22]
    assert [len(keys) for keys in world.stores.row_reads if keys] == [15, 35]
