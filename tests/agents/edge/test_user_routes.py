"""Profiles over HTTP: stated, changed, erased; acknowledged by Kafka before the answer."""

import json
from typing import Any

import httpx
import pytest
from redis.exceptions import ConnectionError as RedisGone

from schemas import topics
from schemas.actions import UserErased
from schemas.users import UserProfile
from tests.agents.edge.edge_world import NOW_MS, MemoryStores, World
from tests.agents.edge.test_http import client

ANN = UserProfile(
    user_id="ann", city="Lima", age_band="25-34", attributes={"language": "es", "size": "S"}
)
STATED = {"city": "Cusco", "attributes": {"language": "qu"}}


def world() -> World:
    return World(stores=MemoryStores(profiles={"ann": ANN, "new": UserProfile(user_id="new")}))


async def ask(world: World, method: str, body: object = None, user: str = "ann") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(world) as http:
        return await http.request(method, f"/v1/users/{user}", content=content)


def written(world: World) -> UserProfile:
    ((topic, record, key),) = world.produced
    assert (topic, key) == (topics.USERS, getattr(record, "user_id", None))
    assert isinstance(record, UserProfile)
    return record


async def test_a_put_replaces_the_profile() -> None:
    edge = world()
    response = await ask(edge, "PUT", STATED)
    assert response.status_code == 202
    expected = UserProfile(
        user_id="ann", city="Cusco", attributes={"language": "qu"}, updated_ms=NOW_MS
    )
    assert written(edge) == expected
    assert (response.json()["city"], response.json()["updated_ms"]) == ("Cusco", NOW_MS)


@pytest.mark.parametrize(
    ("patch", "city", "age_band", "attributes"),
    [
        ({}, "Lima", "25-34", {"language": "es", "size": "S"}),
        ({"city": "Cusco"}, "Cusco", "25-34", {"language": "es", "size": "S"}),
        ({"age_band": None}, "Lima", "", {"language": "es", "size": "S"}),
        ({"attributes": {"size": None, "fit": "slim"}}, "Lima", "25-34",
         {"language": "es", "fit": "slim"}),
        ({"attributes": {"never": None}}, "Lima", "25-34", {"language": "es", "size": "S"}),
        ({"attributes": None}, "Lima", "25-34", {}),
    ],
)  # fmt: skip
async def test_a_patch_changes_what_it_names_and_keeps_the_rest(
    patch: dict[str, object], city: str, age_band: str, attributes: dict[str, str]
) -> None:
    edge = world()
    response = await ask(edge, "PATCH", patch)
    assert response.status_code == 202
    made = written(edge)
    assert (made.city, made.age_band, made.attributes) == (city, age_band, attributes)
    assert made.updated_ms == NOW_MS


async def test_a_patch_of_nobody_begins_a_profile() -> None:
    edge = world()
    assert (await ask(edge, "PATCH", STATED, user="new")).status_code == 202
    assert (written(edge).user_id, written(edge).city) == ("new", "Cusco")


MANY = {f"name-{n}": "x" for n in range(63)}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize(
    ("body", "reason", "field"),
    [
        ({"city": 7}, "wrong_type", "city"),
        ({"city": "x" * 513}, "out_of_range", "city"),
        ({"attributes": {"a": 1}}, "wrong_type", "attributes[...]"),
        ({"attributes": {**MANY, "a": "1", "b": "2"}}, "out_of_range", "attributes"),
        ({"town": "Lima"}, "out_of_range", "town"),
        ({"user_id": "bob"}, "out_of_range", "user_id"),
        ({"city": float("nan")}, "wrong_type", "city"),
        (b"{", "malformed_json", "$"),
        (b"", "malformed_json", "$"),
        ([], "wrong_type", "$"),
    ],
)
async def test_a_bad_profile_is_a_400_with_field_found_and_wanted(
    method: str, body: object, reason: str, field: str
) -> None:
    edge = world()
    response = await ask(edge, method, body)
    fault: dict[str, Any] = response.json()
    assert (response.status_code, fault["reason"], fault["field"]) == (400, reason, field)
    assert fault["found"]
    assert fault["wanted"]
    assert edge.produced == []


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_an_id_that_is_too_long_is_a_400(method: str) -> None:
    edge = world()
    response = await ask(edge, method, {}, user="u" * 129)
    assert (response.status_code, response.json()["field"]) == (400, "user_id")
    assert "129" in response.json()["found"]
    assert edge.produced == []


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_what_kafka_does_not_acknowledge_is_a_503_to_be_sent_again(method: str) -> None:
    edge = world()
    edge.lost = frozenset({topics.USERS})
    response = await ask(edge, method, STATED)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert "ann" in response.json()["detail"]


async def test_a_patch_without_redis_is_a_503_and_writes_nothing() -> None:
    edge = world()
    edge.stores.fault = RedisGone("away")
    assert (await ask(edge, "PATCH", STATED)).status_code == 503
    assert edge.produced == []


async def test_an_erasure_goes_in_band_first_then_tombstones_then_redis() -> None:
    edge = world()
    response = await ask(edge, "DELETE")
    assert response.status_code == 202
    assert response.json() == {"user_id": "ann", "event_id": "erasure-1", "erased_ms": NOW_MS}
    erased = UserErased(event_id="erasure-1", user_id="ann", event_time_ms=NOW_MS)
    assert edge.produced == [
        (topics.ACTIONS, erased, "ann"),
        (topics.USERS, None, "ann"),
        (topics.INSTRUCTIONS, None, "ann"),
    ]
    assert edge.stores.erasures == {"ann": NOW_MS}


@pytest.mark.parametrize("lost", [topics.ACTIONS, topics.USERS, topics.INSTRUCTIONS])
async def test_an_erasure_that_is_not_acknowledged_everywhere_is_a_503(lost: str) -> None:
    edge = world()
    edge.lost = frozenset({lost})
    response = await ask(edge, "DELETE")
    assert response.status_code == 503
    assert lost in response.json()["detail"]
    assert edge.stores.erasures == {}


async def test_the_docs_show_bodies_and_examples_of_a_profile() -> None:
    async with client(world()) as http:
        described = (await http.get("/docs/openapi.json")).json()
    routes = described["paths"]["/v1/users/{user_id}"]
    assert set(routes) == {"get", "put", "patch", "delete"}
    for method in ("put", "patch"):
        content = routes[method]["requestBody"]["content"]["application/json"]
        assert "city" in content["example"]
        name = content["schema"]["$ref"].rpartition("/")[2]
        assert "attributes" in described["components"]["schemas"][name]["properties"]
    assert "requestBody" not in routes["delete"]
    assert "202" in routes["delete"]["responses"]
