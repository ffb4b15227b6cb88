"""Items over HTTP: stated, changed, taken away; acknowledged by Kafka before the answer."""

import json

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisGone

from schemas import topics
from schemas.catalog import ItemRow, ItemUpsert, item_key_of
from tests.agents.edge.edge_world import NOW_MS, MemoryStores, World
from tests.agents.edge.test_http import client

LAMP = ItemRow(
    item_key=item_key_of("lamp"),
    item_id="lamp",
    live=True,
    title="Desk lamp",
    category="Home",
    brand="Lux",
    price=20.0,
    scenarios=["home"],
)
WHOLE = {"item_id": "lamp", "title": "Desk lamp", "category": "Home", "brand": "Lux"}


def world() -> World:
    return World(stores=MemoryStores(rows_by_key={LAMP.item_key: LAMP}))


async def ask(world: World, method: str, body: object = None, item: str = "lamp") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(world) as http:
        return await http.request(method, f"/v1/items/{item}", content=content)


def written(world: World) -> ItemUpsert:
    ((topic, record, key),) = world.produced
    assert (topic, key) == (topics.CATALOG, getattr(record, "item_id", None))
    assert isinstance(record, ItemUpsert)
    return record


async def test_a_put_replaces_the_item_and_adds_an_unknown_one() -> None:
    for item in ("lamp", "new"):
        edge = world()
        response = await ask(edge, "PUT", {"title": "Oil lamp", "in_stock": False}, item=item)
        assert response.status_code == 202
        expected = ItemUpsert(item_id=item, title="Oil lamp", in_stock=False, updated_ms=NOW_MS)
        assert written(edge) == expected
        assert (response.json()["item_id"], response.json()["in_stock"]) == (item, False)


@pytest.mark.parametrize(
    ("patch", "changes"),
    [
        ({}, {}),
        ({"in_stock": False}, {"in_stock": False}),
        ({"title": "Lamp", "price": 18}, {"title": "Lamp", "price": 18.0}),
        ({"brand": None, "price": None}, {"brand": "", "price": None}),
        ({"scenarios": None}, {"scenarios": None}),
        ({"scenarios": ["search", "home"]}, {"scenarios": ["search", "home"]}),
    ],
)
async def test_a_patch_changes_what_it_names_and_keeps_the_rest(
    patch: dict[str, object], changes: dict[str, object]
) -> None:
    edge = world()
    assert (await ask(edge, "PATCH", patch)).status_code == 202
    known = {**WHOLE, "price": 20.0, "scenarios": ["home"], "updated_ms": NOW_MS}
    assert written(edge) == ItemUpsert(**{**known, **changes})  # type: ignore[arg-type]


async def test_a_deletion_is_a_tombstone_also_of_an_unknown_item() -> None:
    for item in ("lamp", "never"):
        edge = world()
        response = await ask(edge, "DELETE", item=item)
        assert response.status_code == 202
        assert edge.produced == [(topics.CATALOG, None, item)]
        assert response.json() == {"item_id": item, "deleted_ms": NOW_MS}


async def test_a_get_shows_what_is_served_and_no_number_that_browsers_round() -> None:
    response = await ask(world(), "GET")
    assert response.status_code == 200
    assert response.json() == {**WHOLE, "live": True, "price": 20.0, "scenarios": ["home"]}


@pytest.mark.parametrize("method", ["GET", "PATCH"])
async def test_an_unknown_item_is_404_and_nothing_is_written(method: str) -> None:
    edge = world()
    response = await ask(edge, method, {"in_stock": True}, item="never")
    assert response.status_code == 404
    assert "never" in response.json()["detail"]
    assert edge.produced == []


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"title": 7}, "wrong_type", "title"),
        ({"title": None}, "wrong_type", "title"),
        ({"title": "t", "price": -1}, "out_of_range", "price"),
        ({"title": "t", "in_stock": "no"}, "wrong_type", "in_stock"),
        ({"title": "t", "colour": "red"}, "out_of_range", "colour"),
        ({"title": "t", "scenarios": ["home", "moon"]}, "out_of_range", "scenarios"),
        (b"{", "malformed_json", "$"),
    ],
)
async def test_what_is_no_item_is_refused_by_field(
    method: str, body: object, reason: str, field: str
) -> None:
    edge = world()
    response = await ask(edge, method, body)
    assert response.status_code == 400
    assert (response.json()["reason"], response.json()["field"]) == (reason, field)
    assert edge.produced == []


async def test_a_put_without_a_title_is_refused() -> None:
    response = await ask(world(), "PUT", {"price": 3})
    assert (response.status_code, response.json()["field"]) == (400, "title")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_without_an_acknowledgement_the_answer_is_503(method: str) -> None:
    edge = world()
    edge.lost = frozenset({topics.CATALOG})
    response = await ask(edge, method, {"title": "Lamp"})
    assert response.status_code == 503
    assert "retry-after" in response.headers


async def test_a_patch_without_redis_is_503_and_nothing_is_written() -> None:
    edge = world()
    edge.stores.fault = RedisGone("away")
    assert (await ask(edge, "PATCH", {"in_stock": True})).status_code == 503
    assert edge.produced == []


async def test_an_id_that_is_too_long_is_refused() -> None:
    response = await ask(world(), "DELETE", item="x" * 129)
    assert (response.status_code, response.json()["field"]) == (400, "item_id")
