"""A worker that keeps its name is known by it to its group, whichever client it reads with."""

from pathlib import Path

import pytest

from agents import catalog_indexer, instruction_writer, profile_writer, reward_joiner, router
from agents.faust_app import build_app
from agents.settings import load_settings
from streams.connections import KafkaConfig
from streams.consumer import group_consumer

ASYNCIO_WORKERS = (
    (catalog_indexer.GROUP, catalog_indexer.NAME),
    (instruction_writer.GROUP, instruction_writer.NAME),
    (profile_writer.GROUP, profile_writer.NAME),
    (reward_joiner.GROUP, reward_joiner.WORKER),
)


def kafka(instance_id: str) -> KafkaConfig:
    return load_settings({"OXYGENREC_KAFKA__INSTANCE_ID": instance_id}).kafka


@pytest.mark.parametrize(("instance_id", "wanted"), [("3", "router-3"), ("", "")])
def test_a_router_is_static_where_it_has_an_identity(instance_id: str, wanted: str) -> None:
    assert router.consumer_config(kafka(instance_id))["group.instance.id"] == wanted


@pytest.mark.parametrize(("instance_id", "wanted"), [("3", "window-aggregator-3"), ("", None)])
def test_an_aggregator_is_static_where_it_has_an_identity(
    instance_id: str, wanted: str | None, tmp_path: Path
) -> None:
    assert build_app(kafka(instance_id), tmp_path).conf.consumer_group_instance_id == wanted


@pytest.mark.parametrize(("group", "worker"), ASYNCIO_WORKERS)
@pytest.mark.parametrize("instance_id", ["3", ""])
async def test_workers_on_asyncio_are_static_where_they_have_an_identity(
    group: str, worker: str, instance_id: str
) -> None:
    consumer = group_consumer(kafka(instance_id), group, worker)
    await consumer.stop()
    assert consumer._group_instance_id == (f"{worker}-3" if instance_id else None)
