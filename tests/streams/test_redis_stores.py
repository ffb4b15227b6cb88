"""The Redis stores on a real server and a real cluster: every effect is idempotent, the newest
window wins.
"""

import random
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import cast

import msgspec
import pytest
import redis
import redis.asyncio

from schemas.actions import ActionType, UserAction, UserErased
from schemas.catalog import ItemRow, item_key_of
from schemas.instructions import InstructionKind, ReasoningInstruction
from schemas.topics import DEAD_LETTERS, TOPICS
from schemas.users import UserProfile
from streams.connections import RedisConfig
from streams.redis_client import edge_client, router_client, worker_client
from streams.redis_cluster import RouterCluster
from streams.redis_epoch import EpochMissing, begin_epoch
from streams.redis_history import (
    HistoryWriter,
    RedisErasures,
    RedisHistory,
    Written,
    behaviour_of,
)
from streams.redis_instructions import RedisInstructions
from streams.redis_items import RedisItems
from streams.redis_keys import (
    EPOCH_KEY,
    buckets_of,
    erased_key,
    instruction_key,
    popular_key,
)
from streams.redis_profiles import RedisProfiles

pytestmark = pytest.mark.integration
Router = redis.Redis | RouterCluster
AT_MS = 1_767_225_600_000


@pytest.fixture
def user() -> str:
    return f"user-{uuid.uuid4().hex}"


@pytest.fixture
def scenario() -> str:
    return f"scenario-{uuid.uuid4().hex}"


@pytest.fixture
def router(redis_url: str) -> Iterator[Router]:
    client = router_client(RedisConfig(url=redis_url))
    yield client
    client.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    made = worker_client(RedisConfig(url=redis_url))
    yield made
    await made.aclose()


async def popularity(client: redis.asyncio.Redis, scenario: str) -> Counter[int]:
    """Returns each item key's weight, over all buckets."""
    weights: Counter[int] = Counter()
    for tag in buckets_of(client).tags:
        partial = await client.zrange(tag + popular_key(scenario), 0, -1, withscores=True)
        for member, weight in cast(list[tuple[bytes, float]], partial):
            weights[int(member)] += int(weight)
    return weights


def action(
    user: str,
    event: int,
    kind: ActionType = ActionType.CLICK,
    at_ms: int | None = None,
    scenario: str = "home",
) -> UserAction:
    return UserAction(
        event_id=str(event),
        user_id=user,
        action=kind,
        item_id="item-1",
        scenario=scenario,
        event_time_ms=AT_MS + event if at_ms is None else at_ms,
    )


async def test_history_is_the_newest_actions_oldest_first(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    actions = [action(user, n) for n in range(30)]
    shuffled = random.Random(3).sample(actions, len(actions))
    assert HistoryWriter(router, history_length=20).write(shuffled).fresh >= 20
    kept = await RedisHistory(client).recent(user, 200)
    assert kept == [behaviour_of(a) for a in actions[-20:]]
    assert await RedisHistory(client).recent(user, 5) == kept[-5:]
    assert await RedisHistory(client).recent(user, 0) == []


async def test_a_repeated_batch_changes_neither_history_nor_popularity(
    router: Router, client: redis.asyncio.Redis, user: str, scenario: str
) -> None:
    batch = [
        action(user, 1, ActionType.ORDER, scenario=scenario),
        action(user, 2, ActionType.VIEW, scenario=scenario),
        action(user, 3, ActionType.EXPOSE, scenario=scenario),
    ]
    writer = HistoryWriter(router, history_length=2)  # the order falls out of history at once
    assert writer.write(batch).fresh == 3
    before = await popularity(client, scenario)
    assert before
    assert writer.write(batch).fresh == 0
    assert await popularity(client, scenario) == before
    assert await RedisItems(client).popular(scenario, 10) == [item_key_of("item-1")]


async def test_the_clicks_on_an_item_are_counted_up_to_each_click_and_a_repeat_counts_alike(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    said = f'"action":"click","item_key":{item_key_of("item-1")},'  # a query is no click
    batch: list[UserAction | UserErased] = [
        action(user, 1),
        msgspec.structs.replace(action(user, 2), item_id="item-2"),
        action(user, 3, ActionType.ORDER),
        msgspec.structs.replace(action(user, 4, ActionType.SEARCH), item_id=None, query=said),
        action(user, 5),
        UserErased(event_id="e", user_id=f"{user}-other", event_time_ms=AT_MS),
        msgspec.structs.replace(action(f"{user}-other", 0), event_time_ms=AT_MS),
        action(user, 6),
    ]
    writer = HistoryWriter(router, 200)
    first = writer.write(batch, [0, 1, 4, 6, 7])
    assert first == Written(fresh=6, clicks={0: 1, 1: 1, 4: 2, 6: 0, 7: 3})
    assert writer.write(batch, [0, 1, 4, 6, 7]) == Written(fresh=0, clicks=first.clicks)
    assert writer.write(batch[:1]) == Written(fresh=0, clicks={})


async def test_popularity_weighs_what_was_done(
    router: Router, client: redis.asyncio.Redis, user: str, scenario: str
) -> None:
    kinds = [ActionType.CLICK, ActionType.CART, ActionType.FAVORITE, ActionType.DISLIKE]
    batch = [action(user, n, kind, scenario=scenario) for n, kind in enumerate(kinds)]
    HistoryWriter(router, 200).write(batch)
    assert await popularity(client, scenario) == {item_key_of("item-1"): 1 + 4 + 3}


async def test_a_batch_of_many_users_is_written_as_one_by_one_and_counts_at_its_places(
    router: Router, client: redis.asyncio.Redis, user: str, scenario: str
) -> None:
    users = [f"{user}-{n}" for n in range(60)]
    clicks = [action(one, n, scenario=scenario) for n, one in enumerate(users)]
    again = [action(one, 100 + n, scenario=scenario) for n, one in enumerate(users)]
    written = HistoryWriter(router, 200).write([*clicks, *again], [3, 70, 119])
    assert written == Written(fresh=120, clicks={3: 1, 70: 2, 119: 2})
    kept = [await RedisHistory(client).recent(one, 9) for one in users]
    pairs = zip(clicks, again, strict=True)
    assert kept == [[behaviour_of(one), behaviour_of(two)] for one, two in pairs]
    assert await popularity(client, scenario) == {item_key_of("item-1"): 120}


async def test_popular_items_are_in_the_order_of_what_all_users_did(
    router: Router, client: redis.asyncio.Redis, user: str, scenario: str
) -> None:
    items = {f"item-{rank}": 50 - rank for rank in range(30)}
    batch = [
        msgspec.structs.replace(
            action(f"{user}-{n}", rank, scenario=scenario), item_id=item, event_id=f"{item}-{n}"
        )
        for rank, (item, clicks) in enumerate(items.items())
        for n in range(clicks)
    ]
    HistoryWriter(router, 200).write(random.Random(4).sample(batch, len(batch)))
    order = [item_key_of(item) for item in items]
    assert await RedisItems(client).popular(scenario, 30) == order
    assert await RedisItems(client).popular(scenario, 20) == order[:20]
    assert await RedisItems(client).popular(f"{scenario}-other", 20) == []


async def test_without_its_buckets_epoch_nothing_is_written_and_other_buckets_go_on(
    redis_url: str, router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    buckets = buckets_of(client)
    epoch = buckets.tag(user) + EPOCH_KEY
    others = [one for one in (f"{user}-{n}" for n in range(99)) if buckets.tag(one) != epoch[:-5]]
    writer, profiles = HistoryWriter(router, 200), RedisProfiles(client)
    await client.delete(epoch)
    try:
        with pytest.raises(redis.ResponseError, match=re.escape(f"no key {epoch}: run")):
            writer.write([action(user, 1)])
        with pytest.raises(redis.ResponseError, match="NOEPOCH"):
            await RedisInstructions(client).write(instruction(user, AT_MS))
        with pytest.raises(redis.ResponseError, match="NOEPOCH"):
            await profiles.put(UserProfile(user_id=user))
        with pytest.raises(EpochMissing, match=re.escape(epoch)):
            await profiles.remove(user)
        with pytest.raises(EpochMissing, match=re.escape(epoch)):
            await RedisItems(client).take_down(list(range(99)))
        assert await RedisHistory(client).recent(user, 9) == []
        for other in others[:1]:  # none on one server
            assert writer.write([action(other, 1)]).fresh == 1
            assert await profiles.put(UserProfile(user_id=other))
        # an erasure and a restore write all the same
        await RedisErasures(client).apply(
            UserErased(event_id="e", user_id=user, event_time_ms=AT_MS)
        )
        assert HistoryWriter(router, 200, restoring=True).write([action(user, 1)]).fresh == 1
    finally:
        begin_epoch(RedisConfig(url=redis_url), now_ms=0)


async def test_an_erasure_drops_what_came_before_it_and_stops_late_writes(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    writer = HistoryWriter(router, 200)
    await RedisProfiles(client).put(UserProfile(user_id=user, city="Lima"))
    erased = UserErased(event_id="e", user_id=user, event_time_ms=AT_MS + 5)
    writer.write([action(user, 1), erased, action(user, 2), action(user, 9)])
    assert [b.event_id for b in await RedisHistory(client).recent(user, 10)] == ["9"]
    assert await RedisProfiles(client).profile(user) is None
    assert not await RedisInstructions(client).write(instruction(user, as_of_ms=AT_MS))


def test_late_writes_of_any_number_of_users_in_one_batch_are_stopped(
    router: Router, user: str
) -> None:
    """The script asks for the markers of a thousand users at a time."""
    writer = HistoryWriter(router, 200)
    users = [f"{user}-{number}" for number in range(2_500)]
    writer.write([UserErased(event_id="e", user_id=u, event_time_ms=AT_MS + 5) for u in users])
    assert writer.write([action(u, 2) for u in users]).fresh == 0
    assert writer.write([action(u, 9) for u in users]).fresh == len(users)


def test_a_batch_of_several_calls_counts_as_one_call_would(router: Router, user: str) -> None:
    clicks = [action(f"{user}-{event % 2}", event) for event in range(2_400)]
    written = HistoryWriter(router, 5_000).write(clicks, [3, 1_500, 2_399])
    assert written == Written(fresh=2_400, clicks={3: 2, 1_500: 751, 2_399: 1_200})


def instruction(user: str, as_of_ms: int, text: str = "likes tea") -> ReasoningInstruction:
    return ReasoningInstruction(
        instruction_id=f"{user}:{as_of_ms}:1",
        trigger_id=f"{user}:{as_of_ms}",
        user_id=user,
        generation=1,
        kind=InstructionKind.INTENT,
        text=text,
        vector=b"\x00\x3c",
        encoder_id="characters-0",
        as_of_ms=as_of_ms,
        created_ms=as_of_ms + 1,
        reasoner="local/1",
    )


async def test_the_newest_window_wins_whichever_is_written_last(
    client: redis.asyncio.Redis, user: str
) -> None:
    store = RedisInstructions(client)
    assert await store.read(1, user) is None
    windows = [instruction(user, AT_MS + n) for n in (0, 2, 1, 2)]
    assert [await store.write(w) for w in windows] == [True, True, False, False]
    assert await store.read(1, user) == windows[1]
    assert await store.read(2, user) is None


async def test_an_instruction_goes_stale_by_itself(client: redis.asyncio.Redis, user: str) -> None:
    await RedisInstructions(client).write(instruction(user, AT_MS))
    left_ms = await client.pttl(buckets_of(client).tag(user) + instruction_key(1, user))
    assert 35 * 3_600_000 < left_ms <= 36 * 3_600_000


async def test_an_instruction_is_not_served_after_the_erasure(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    store = RedisInstructions(client)
    await store.write(instruction(user, AT_MS))
    HistoryWriter(router, 200).write([UserErased(event_id="e", user_id=user, event_time_ms=AT_MS)])
    assert await store.read(1, user) is None


async def test_after_an_erasure_only_what_knows_of_it_is_stored_and_served(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    store, writer = RedisInstructions(client), HistoryWriter(router, 200)
    await store.write(instruction(user, AT_MS + 50))  # a window that ends after the erasure
    writer.write([UserErased(event_id="e", user_id=user, event_time_ms=AT_MS)])
    assert await store.read(1, user) is None
    assert not await store.write(instruction(user, AT_MS + 90))  # made before, written after
    back = msgspec.structs.replace(instruction(user, AT_MS + 20), after_erasure_ms=AT_MS)
    assert await store.write(back)  # though what is there speaks of a later time
    assert await store.read(1, user) == back
    assert not await store.write(back)
    writer.write([UserErased(event_id="f", user_id=user, event_time_ms=AT_MS + 9)])
    assert await store.read(1, user) is None
    assert not await store.write(back)


async def test_an_older_erasure_that_comes_again_takes_nothing_away(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    writer = HistoryWriter(router, 200)
    older, newer = (
        UserErased(event_id=str(at), user_id=user, event_time_ms=AT_MS + at) for at in (5, 9)
    )
    writer.write([older, newer, action(user, 12), older, action(user, 7)])
    assert [b.event_id for b in await RedisHistory(client).recent(user, 10)] == ["12"]
    assert await RedisInstructions(client).erased_ms(user) == AT_MS + 9


async def test_the_erasure_is_remembered_for_longer_than_dead_letters_rest(
    client: redis.asyncio.Redis, user: str
) -> None:
    await RedisErasures(client).apply(UserErased(event_id="e", user_id=user, event_time_ms=AT_MS))
    retention_ms = next(t.retention_ms for t in TOPICS if t.name == DEAD_LETTERS)
    assert await client.pttl(buckets_of(client).tag(user) + erased_key(user)) > retention_ms


async def test_item_rows_come_back_as_written_and_a_removed_item_is_not_live(
    client: redis.asyncio.Redis, user: str
) -> None:
    rows = [
        ItemRow(
            item_key=item_key_of(f"{user}-{n}"),
            item_id=f"{user}-{n}",
            live=n != 1,
            title="Ümbrella",
            category="Outdoor",
            brand="Regn" if n else "",
            price=19.9 if n else None,
            scenarios=None if n else ["home"],
        )
        for n in range(3)
    ]
    items = RedisItems(client)
    keys = [row.item_key for row in rows]
    await items.put(rows)
    assert await items.rows([*keys, 5]) == {row.item_key: row for row in rows}
    await items.take_down(keys[2:])
    assert [row.live for row in (await items.rows(keys)).values()] == [True, False, False]
    assert await items.rows([]) == {}


async def test_a_profile_is_replaced_and_removed(client: redis.asyncio.Redis, user: str) -> None:
    profiles = RedisProfiles(client)
    for city in ("Lima", "Oslo"):
        await profiles.put(UserProfile(user_id=user, city=city))
    assert await profiles.profile(user) == UserProfile(user_id=user, city="Oslo")
    await profiles.remove(user)
    assert await profiles.profile(user) is None


async def test_an_erasure_at_the_edge_takes_effect_before_the_router_has_read_it(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    writer = HistoryWriter(router, 200)
    writer.write([action(user, 1)])
    await RedisProfiles(client).put(UserProfile(user_id=user, city="Lima"))
    erased = UserErased(event_id="e", user_id=user, event_time_ms=AT_MS + 5)
    assert await RedisInstructions(client).erased_ms(user) is None
    for _ in range(2):  # a repeat changes nothing
        await RedisErasures(client).apply(erased)
        assert await RedisHistory(client).recent(user, 10) == []
        assert await RedisProfiles(client).profile(user) is None
        assert await RedisInstructions(client).erased_ms(user) == AT_MS + 5
    writer.write([action(user, 4), action(user, 6)])
    assert [b.event_id for b in await RedisHistory(client).recent(user, 10)] == ["6"]


async def test_a_profile_from_before_the_erasure_is_refused_and_a_newer_one_stays(
    router: Router, client: redis.asyncio.Redis, user: str
) -> None:
    profiles = RedisProfiles(client)
    erased = UserErased(event_id="e", user_id=user, event_time_ms=AT_MS)
    await RedisErasures(client).apply(erased)
    assert not await profiles.put(UserProfile(user_id=user, city="Lima", updated_ms=AT_MS))
    assert not await profiles.put(UserProfile(user_id=user, city="Lima"))
    assert await profiles.profile(user) is None
    back = UserProfile(user_id=user, city="Oslo", updated_ms=AT_MS + 1)
    assert await profiles.put(back)
    HistoryWriter(router, 200).write([erased])  # the router reads the erasure after the return
    assert await profiles.profile(user) == back
    again = UserErased(event_id="f", user_id=user, event_time_ms=AT_MS + 9)
    HistoryWriter(router, 200).write([again])  # a later erasure, told to the router alone
    assert await profiles.profile(user) is None


async def test_the_edges_client_gives_up_at_its_deadline() -> None:
    client = edge_client(RedisConfig(url="redis://127.0.0.1:1/0", deadline_ms=10))
    with pytest.raises(redis.exceptions.ConnectionError):
        await client.get("x")
    await client.aclose()
