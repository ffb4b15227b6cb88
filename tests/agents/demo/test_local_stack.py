from dataclasses import replace
from pathlib import Path

from agents.demo.local_stack import environment_of, settings_at, worker_specs
from agents.settings import Settings, load_settings
from agents.workers import WORKERS
from streams.local.state import Addresses


def changed() -> Settings:
    defaults = Settings()
    return replace(
        defaults,
        serving=replace(defaults.serving, exploration_share=1.0, scenarios=("home", "detail")),
        windows=replace(defaults.windows, window_ms=5_000, stagger=False),
        router=replace(defaults.router, high_value=defaults.router.high_value[:2]),
        kafka=replace(defaults.kafka, bootstrap="127.0.0.1:1", partitions=4),
    )


def test_a_worker_reads_back_the_settings_it_was_started_with() -> None:
    given = changed()
    read = load_settings(environment_of(given))
    assert read == replace(given, kafka=Settings().kafka)


def test_the_stack_alone_says_where_its_servers_are() -> None:
    assert not [name for name in environment_of(changed()) if "KAFKA" in name]
    addresses = Addresses(kafka_bootstrap="127.0.0.1:2", redis_url="redis://127.0.0.1:3/0")
    environment = addresses.environment(Path("there"))
    read = load_settings({**environment_of(changed()), **environment})
    assert read == settings_at(changed(), addresses, Path("there"))


def test_every_worker_is_started_through_the_command_line() -> None:
    specs = worker_specs(Settings(), WORKERS)
    assert {name: spec.argv[-2:] for name, spec in specs.items()} == {
        name: ["worker", name] for name in WORKERS
    }
    assert [name for name, spec in specs.items() if spec.ready] == ["edge"]
