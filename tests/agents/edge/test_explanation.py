"""Why a slate is what it is: what the generator was given and answered, and each item's fate."""

import pytest

from agents.cli_recommend import slate_text
from agents.edge.explanation import Explanation
from agents.edge.exploration import ExplorationConfig
from schemas.catalog import item_key_of
from tests.agents.edge.edge_world import (
    ITEM_IDS,
    MemoryStores,
    ScriptedGenerator,
    World,
    clicked,
    instruction,
    question,
    row,
)
from tests.agents.edge.test_http import client


def stores() -> MemoryStores:
    """Items 0 to 9 are in the slate but 1 (not live), 2 (elsewhere), 3 (no row)."""
    rows = {item_key_of(item_id): row(item_id) for item_id in ITEM_IDS}
    rows[item_key_of("item-01")] = row("item-01", live=False)
    rows[item_key_of("item-02")] = row("item-02", scenarios=["search"])
    del rows[item_key_of("item-03")]
    behaviour = [clicked(number, ITEM_IDS[number + 20]) for number in range(3)]
    return MemoryStores(behaviour=behaviour, instruction=instruction(), rows_by_key=rows)


async def explained(world: World, **changes: object) -> Explanation:
    slate = await world.recommender.recommend(question(explain=True, **changes))
    assert slate.explanation is not None
    return slate.explanation


async def test_every_candidate_has_its_scores_and_its_fate() -> None:
    why = await explained(World(stores=stores()), exclude_keys=frozenset({item_key_of("item-05")}))
    fates = {one.item_id: one.fate for one in why.candidates}
    assert len(why.candidates) == why.beams - 1 == 49  # an excluded item is no candidate
    assert fates["item-00"] == "shown"
    assert fates["item-01"] == "not live"
    assert fates["item-02"] == "not in this scenario"
    assert fates[None] == "no row"
    assert fates["item-40"] == "below the slate"
    assert sum(fate == "shown" for fate in fates.values()) == 10
    assert why.excluded == 1
    for one in why.candidates:
        place = int(one.semantic_id.rpartition("-")[2])
        assert one.table_term == -0.01 * place
        assert one.item_logprob == pytest.approx(3.0 - 0.09 * place)
        parts = sum(one.code_logprobs) + one.item_logprob + one.table_term
        assert parts == pytest.approx(one.score)


async def test_the_context_is_what_the_generator_was_given() -> None:
    world = World(stores=stores())
    why = await explained(world, trigger_key=item_key_of("item-07"))
    request, _, _ = world.generator.calls[0]
    assert [read.item_id for read in why.history] == ["item-20", "item-21", "item-22"]
    assert {read.action for read in why.history} == {"click"}
    assert [read.seconds_ago for read in why.history] == [
        2**bucket - 1 for bucket in request.history.gap_buckets
    ]
    assert (why.trigger_item_id, why.instruction) == ("item-07", "looks for umbrellas")


async def test_an_explored_item_says_so() -> None:
    world = World(stores=stores(), exploration=ExplorationConfig(share=1.0))
    why = await explained(world)
    assert sum(one.fate == "explored" for one in why.candidates) == 1


async def test_nobody_pays_for_what_is_not_asked_and_a_fallback_explains_itself() -> None:
    world = World(stores=stores())
    slate = await world.recommender.recommend(question())
    assert slate.explanation is None
    plain_reads = len(world.stores.row_reads)
    await explained(world)
    assert len(world.stores.row_reads) == 2 * plain_reads + 1
    world.policies = [None]
    slate = await world.recommender.recommend(question(explain=True))
    assert (slate.explanation, slate.impression.degraded) == (None, "no_policy")


async def test_the_answer_carries_it_only_where_it_was_asked_for() -> None:
    async with client(World(stores=stores(), generator=ScriptedGenerator())) as http:
        plain = (await http.post("/v1/recommendations", json={"user_id": "u"})).json()
        asked = (
            await http.post("/v1/recommendations", json={"user_id": "u", "explain": True})
        ).json()
    assert "explanation" not in plain
    assert len(asked["explanation"]["candidates"]) == 50
    text = slate_text(asked)
    assert "candidates of 50 beams: code log-probs, log P(item | SID), table term, score" in text
    assert "-0.490   -4.900" in text  # the last one's table term and score
    assert "not live" in text
    assert "candidates" not in slate_text(plain)
