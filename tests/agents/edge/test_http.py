"""The edge's HTTP: a result an action, faults that name field, found and wanted, slates, health."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from agents.edge.edge import wall_clock_ms
from agents.edge.health import Readiness
from agents.edge.http import PortTaken, create_app, listen
from agents.settings import HttpConfig, Settings
from schemas.catalog import item_key_of
from schemas.generation import GeneratorUnavailable
from streams import metrics
from tests.agents.edge.edge_world import (
    GENERATION,
    ITEM_IDS,
    NOW_MS,
    VERSION,
    MemoryStores,
    World,
    clicked,
    instruction,
)


@asynccontextmanager
async def client(
    world: World, readiness: Readiness | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = create_app(world.edge(readiness))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://edge") as opened:
        yield opened


def action(name: str, **changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "event_id": name,
        "user_id": "u",
        "action": "click",
        "item_id": "item-01",
        "event_time_ms": NOW_MS,
    }
    return {**plain, **changes}


async def post(world: World, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(world) as http:
        return await http.post(path, content=content)


async def ask(world: World, **asked: object) -> dict[str, Any]:
    response = await post(world, "/v1/recommendations", {"user_id": "u", **asked})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_one_action_and_an_array_are_taken() -> None:
    world = World()
    assert (await post(world, "/v1/actions", action("e1"))).status_code == 202
    response = await post(world, "/v1/actions", [action("e2"), action("e3")])
    assert response.json()["accepted"] == 2
    assert [sent.event_id for sent in world.sent] == ["e1", "e2", "e3"]


async def test_the_good_events_beside_three_bad_ones_pass() -> None:
    world = World()
    batch = [action(f"e{number}") for number in range(1_000)]
    batch[10] = action("e10", action="jump")
    batch[500] = {key: value for key, value in action("e500").items() if key != "user_id"}
    batch[999] = action("e999", event_time_ms=NOW_MS + 3_600_000)
    response = await post(world, "/v1/actions", batch)
    answer = response.json()
    assert response.status_code == 202
    assert (answer["accepted"], answer["rejected"], len(world.sent)) == (997, 3, 997)
    bad = {number: answer["results"][number] for number in (10, 500, 999)}
    assert {r["event_id"]: r["rejection"]["reason"] for r in bad.values()} == {
        "e10": "unknown_action",
        "e500": "missing_field",
        "e999": "from_future",
    }
    assert bad[500]["rejection"]["field"] == "user_id"


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"event_id": 5}, "wrong_type", "event_id"),
        ({"event_id": ""}, "out_of_range", "event_id"),
        ({"action": "jump"}, "unknown_action", "action"),
        ({"event_time_ms": 1_700_000_000}, "absurd_time", "event_time_ms"),
        ({"scenario": "nowhere"}, "unknown_scenario", "scenario"),
        ({"item_id": None}, "missing_field", "item_id"),
        ({"action": "search"}, "missing_field", "query"),
        ({"position": -1}, "out_of_range", "position"),
        ({"schema": "user_action/9"}, "unknown_schema", "schema"),
        ({"price": float("nan")}, "wrong_type", "price"),
    ],
)
async def test_a_bad_action_is_rejected_with_field_found_and_wanted(
    changes: dict[str, object], reason: str, field: str
) -> None:
    world = World()
    response = await post(world, "/v1/actions", [action("bad", **changes), action("good")])
    first, second = response.json()["results"]
    assert (first["status"], second["status"]) == ("rejected", "accepted")
    rejection = first["rejection"]
    assert (rejection["reason"], rejection["field"]) == (reason, field)
    assert rejection["found"]
    assert rejection["wanted"]
    assert [sent.event_id for sent in world.sent] == ["good"]


async def test_an_event_without_id_is_rejected_for_a_retry_must_carry_the_same() -> None:
    lacking = {key: value for key, value in action("x").items() if key != "event_id"}
    response = await post(World(), "/v1/actions", lacking)
    assert response.status_code == 400
    (result,) = response.json()["results"]
    assert result["rejection"]["field"] == "event_id"
    assert result["rejection"]["reason"] == "missing_field"


async def test_an_id_seen_before_in_the_request_is_a_duplicate_and_sent_once() -> None:
    world = World()
    batch = [action("same", action="jump"), action("same"), action("same")]
    response = await post(world, "/v1/actions", batch)
    statuses = [result["status"] for result in response.json()["results"]]
    assert statuses == ["rejected", "accepted", "duplicate"]
    assert len(world.sent) == 1


async def test_what_kafka_does_not_acknowledge_is_named_with_a_503() -> None:
    world = World(lost=frozenset({"e2"}))
    response = await post(world, "/v1/actions", [action("e1"), action("e2"), action("e3!")])
    assert response.status_code == 503
    answer = response.json()
    assert answer["unacknowledged"] == ["e2", "e3!"]
    assert [r["status"] for r in answer["results"]] == ["accepted", *["unacknowledged"] * 2]
    assert response.headers["retry-after"] == "1"


def counted() -> list[bytes]:
    lines = metrics.exposition().splitlines()
    return [line for line in lines if line.startswith(b"oxygenrec_actions_total")]


def judged(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "dry_run"}


async def test_a_dry_run_answers_the_same_and_sends_and_counts_nothing() -> None:
    batch = [action("e1"), action("e2", action="jump"), action("e1"), action("e3", user_id="")]
    dry, real = World(), World()
    before = counted()
    tried = await post(dry, "/v1/actions?dry_run=true", batch)
    assert counted() == before
    done = await post(real, "/v1/actions?dry_run=false", batch)
    assert (tried.status_code, done.status_code) == (200, 202)
    assert judged(tried.json()) == judged(done.json())
    assert (tried.json()["dry_run"], done.json()["dry_run"]) == (True, False)
    assert (dry.sent, [one.event_id for one in real.sent]) == ([], ["e1"])


async def test_a_dry_run_of_nothing_usable_is_a_400_as_without() -> None:
    response = await post(World(), "/v1/actions?dry_run=true", action("e", action="jump"))
    assert response.status_code == 400
    assert response.json()["results"][0]["rejection"]["reason"] == "unknown_action"


@pytest.mark.parametrize(
    ("query", "field", "wanted"),
    [
        ("dryrun=true", "?dryrun", "dry_run or nothing"),
        ("dry_run=yes", "?dry_run", "true or false"),
        ("dry_run=true&dry_run=false", "?dry_run", "once"),
    ],
)
async def test_a_misspelt_dry_run_is_refused_and_not_sent(
    query: str, field: str, wanted: str
) -> None:
    world = World()
    response = await post(world, f"/v1/actions?{query}", action("e"))
    assert response.status_code == 400
    assert (response.json()["field"], wanted in response.json()["wanted"]) == (field, True)
    assert world.sent == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1,", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_is_a_400(body: bytes) -> None:
    actions = await post(World(), "/v1/actions", body)
    asked = await post(World(), "/v1/recommendations", body)
    assert (actions.status_code, asked.status_code) == (400, 400)
    assert actions.json()["reason"] == "malformed_json"


async def test_an_empty_array_and_plain_values_are_400s() -> None:
    for body in ([], [1, "x"], 5, None):
        assert (await post(World(), "/v1/actions", body)).status_code == 400


async def test_too_many_actions_and_too_many_bytes_are_413s() -> None:
    world = World(settings=Settings(http=HttpConfig(max_actions=3, max_body_bytes=2_000)))
    many = await post(world, "/v1/actions", [action(f"e{n}") for n in range(4)])
    large = await post(world, "/v1/actions", [action("e", query="x" * 3_000)])
    for response, found in ((many, "4 elements"), (large, "bytes")):
        assert response.status_code == 413
        assert response.json()["reason"] == "oversized"
        assert found in response.json()["found"]
    assert world.sent == []


async def test_a_recommendation_says_items_versions_and_instruction() -> None:
    stored = instruction(as_of_ms=wall_clock_ms() - 5_000)
    world = World(stores=MemoryStores(instruction=stored))
    answer = await ask(world, num_items=3)
    assert [item["item_id"] for item in answer["items"]] == ITEM_IDS[:3]
    assert answer["items"][2]["semantic_id"] == "1-2-2"
    assert answer["items"][2]["score"] == pytest.approx(-0.2)
    assert (answer["policy_version"], answer["generation"]) == (VERSION, GENERATION)
    assert answer["instruction"]["text"] == "looks for umbrellas"
    assert answer["instruction"]["age_ms"] == pytest.approx(5_000, abs=2_000)
    assert answer["degraded"] is None
    assert world.impressions[0].request_id == answer["request_id"]


async def test_a_degraded_answer_names_its_cause_and_has_no_versions() -> None:
    world = World()
    world.generator.faults = [GeneratorUnavailable(cause="gone", version=1, detail="x")]
    answer = await ask(world, num_items=2)
    assert answer["degraded"] == "generator_gone"
    assert answer["items"][0] == {"item_id": "item-59", "semantic_id": None, "score": None}
    assert (answer["policy_version"], answer["generation"]) == (None, None)


async def test_excluded_items_are_not_shown_and_unknown_ones_are_ignored() -> None:
    answer = await ask(World(), num_items=2, exclude_item_ids=["item-00", "never-seen"])
    assert [item["item_id"] for item in answer["items"]] == ["item-01", "item-02"]


@pytest.mark.parametrize(
    ("asked", "reason", "field"),
    [
        ({"scenario": "nowhere"}, "unknown_scenario", "scenario"),
        ({"trigger_item_id": "never-seen"}, "unknown_item", "trigger_item_id"),
        ({"num_items": 0}, "out_of_range", "num_items"),
        ({"num_items": 51}, "out_of_range", "num_items"),
        ({"num_items": float("nan")}, "wrong_type", "num_items"),
        ({"user_id": None}, "wrong_type", "user_id"),
        ({"exclude_item_ids": "item-00"}, "wrong_type", "exclude_item_ids"),
    ],
)
async def test_a_bad_request_is_a_400_with_field_found_and_wanted(
    asked: dict[str, object], reason: str, field: str
) -> None:
    response = await post(World(), "/v1/recommendations", {"user_id": "u", **asked})
    assert response.status_code == 400
    fault = response.json()
    assert (fault["reason"], fault["field"]) == (reason, field)
    assert fault["found"]
    assert fault["wanted"]


async def test_a_user_is_shown_with_profile_instruction_and_behaviour() -> None:
    stores = MemoryStores(behaviour=[clicked(1, "item-01")], instruction=instruction())
    async with client(World(stores=stores)) as http:
        user = (await http.get("/v1/users/u")).json()
    assert user["profile"]["city"] == "Bergen"
    assert user["instruction"]["id"] == "i1"
    assert [one["item_key"] for one in user["recent"]] == [item_key_of("item-01")]


async def test_readiness_is_503_while_a_part_is_missing_and_health_is_not() -> None:
    broken = Readiness(
        status="not ready", kafka="ok", redis="gone", generator="ok", policy_version=None
    )
    async with client(World(), broken) as http:
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).json() == {"status": "ok"}
    async with client(World()) as http:
        assert (await http.get("/readyz")).json()["policy_version"] == VERSION


async def test_metrics_count_requests_and_degraded_answers() -> None:
    world = World(policies=[None])
    await ask(world)
    async with client(world) as http:
        text = (await http.get("/metrics")).text
    assert 'oxygenrec_degraded_total{cause="no_policy"}' in text
    assert 'oxygenrec_recommendation_seconds_bucket{le="0.08",scenario="home"}' in text


async def test_the_docs_describe_every_route_and_its_body_without_a_cdn() -> None:
    async with client(World()) as http:
        described = (await http.get("/docs/openapi.json")).json()
        page = await http.get("/docs")
    assert set(described["paths"]) == {
        "/v1/actions",
        "/v1/recommendations",
        "/v1/users/{user_id}",
        "/v1/items/{item_id}",
        "/healthz",
        "/readyz",
    }
    body = described["paths"]["/v1/actions"]["post"]["requestBody"]
    assert "UserAction" in json.dumps(body)
    [parameter] = described["paths"]["/v1/actions"]["post"]["parameters"]
    assert (parameter["name"], parameter["schema"]["type"]) == ("dry_run", "boolean")
    assert "event_id" in described["components"]["schemas"]["UserAction"]["properties"]
    assert "POST /v1/recommendations" in page.text
    assert "https://" not in page.text.replace("https://json-schema.org", "")


async def test_an_unknown_path_is_a_404_in_json() -> None:
    async with client(World()) as http:
        response = await http.get("/v2/nothing")
    assert (response.status_code, response.json()["status"]) == (404, 404)


def test_a_taken_port_is_one_clear_line_before_anything_is_opened() -> None:
    first = listen(HttpConfig(port=0))
    port = first.getsockname()[1]
    first.listen()
    try:
        with pytest.raises(PortTaken, match=f"127.0.0.1:{port}.*OXYGENREC_HTTP__PORT"):
            listen(HttpConfig(port=port))
    finally:
        first.close()
