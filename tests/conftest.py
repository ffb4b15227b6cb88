"""Fixtures of every tier: a clean environment, and real servers for the integration tier.

A server that cannot be had (no Java, no jars, no binary for this machine) skips the integration
test that wants it, with one line that says why; where CI=true it fails it, so that a green run
there means that everything ran. A server that is there and does not start is always a failure.
"""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from streams.connections import RedisConfig
from streams.local.errors import (
    JavaMissing,
    KafkaJarsUnavailable,
    RedisMissing,
    TritonUnavailable,
)
from streams.local.kafka import LocalKafka
from streams.local.redis_cluster import LocalRedisCluster
from streams.local.redis_server import LocalRedis
from streams.local.triton import LocalTriton
from streams.redis_epoch import begin_epoch

CANNOT_BE_HAD = (JavaMissing, KafkaJarsUnavailable, RedisMissing, TritonUnavailable)

# What a Triton without a Kafka is told: its replicas serve their snapshots
NO_CATALOG = {"OXYGENREC_SERVING__FOLLOW_CATALOG": "false"}

# A shared machine's pauses are no defects: no deadline for one example; a failure prints its seed.
# Half as many examples at a desk as in CI: the default tier is to stay under a minute there.
hypothesis_settings.register_profile("ci", deadline=None, print_blob=True, max_examples=100)
hypothesis_settings.register_profile("desk", deadline=None, print_blob=True, max_examples=50)
hypothesis_settings.load_profile("ci" if os.environ.get("CI") == "true" else "desk")


def pytest_configure() -> None:
    """Collect no garbage while torch and the tests are imported: nothing of it is ever freed."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later collection."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Skip where a fixture's server cannot be had."""
    yield from _skip_without_server(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Skip where a server that the test itself starts cannot be had."""
    yield from _skip_without_server(item)


def _skip_without_server(item: pytest.Item) -> Generator[None, None, None]:
    try:
        return (yield)
    except CANNOT_BE_HAD as error:
        if os.environ.get("CI") == "true" or not item.get_closest_marker("integration"):
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the developer's own settings: a test sees the defaults and what it sets itself."""
    for variable in list(os.environ):
        if variable.startswith("OXYGENREC_") and "__" in variable:
            monkeypatch.delenv(variable)
    monkeypatch.delenv("OXYGENREC_CONFIG", raising=False)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """One real broker for the whole run: a test names its own topics or reads from an offset."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """One real Redis or Valkey for the whole run: a test uses its own users or database."""
    with LocalRedis(tmp_path_factory.mktemp("redis")) as server:
        begin_epoch(RedisConfig(url=server.url), now_ms=0)
        yield server


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedisCluster]:
    """One real cluster of three masters for the whole run; as `redis_server` in all else."""
    with LocalRedisCluster(tmp_path_factory.mktemp("redis-cluster")) as cluster:
        begin_epoch(RedisConfig(url=cluster.url), now_ms=0)
        yield cluster


@pytest.fixture(params=["redis_server", "redis_cluster"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """The address of one server, then of a cluster: what is claimed of one holds for the other."""
    url: str = request.getfixturevalue(request.param).url
    return url


@pytest.fixture(scope="session")
def model_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the session's Triton serves from; empty at first, models load by name."""
    return tmp_path_factory.mktemp("model_repository")


@pytest.fixture(scope="session")
def triton(
    model_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    """One real Triton for the run, without a model: a test puts its own there, and loads it."""
    folder = tmp_path_factory.mktemp("triton")
    with LocalTriton(model_repository, folder, environment=NO_CATALOG) as server:
        yield server
