"""A real Redis or Valkey on loopback."""

from pathlib import Path

import pytest
import redis

from streams.local import redis_server
from streams.local.errors import RedisMissing, ServerExited
from streams.local.redis_server import LocalRedis, arguments, configured_url, find_server


def fake_server(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0:0 bits=64'\n")
    program.chmod(0o755)
    return program


def test_nothing_is_written_to_disk_and_nothing_listens_beyond_loopback() -> None:
    line = arguments(6379, Path("folder"))
    assert line[line.index("--bind") + 1] == "127.0.0.1"
    assert line[line.index("--save") + 1] == ""
    assert line[line.index("--appendonly") + 1] == "no"


def test_an_old_system_server_is_passed_over_for_the_carrier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(tmp_path / "bin", "redis-server", "7.0.15")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(redis_server, "find_carrier", lambda package: tmp_path)
    carried = fake_server(tmp_path / "_binaries" / "linux-x86_64", "valkey-server", "9.1.2")
    assert find_server() == carried


def test_without_a_server_the_error_names_what_was_found_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = fake_server(tmp_path, "redis-server", "6.2.1")
    monkeypatch.setattr(redis_server, "_programs", lambda: iter([old]))
    with pytest.raises(RedisMissing) as raised:
        find_server()
    assert f"found 6.2 at {old}" in str(raised.value)
    assert "make setup" in str(raised.value)
    assert "REDIS_URL" in str(raised.value)


def test_a_configured_server_is_taken_as_it_is() -> None:
    assert configured_url({"REDIS_URL": "redis://elsewhere:6379/1"}) == "redis://elsewhere:6379/1"
    assert configured_url({"REDIS_URL": ""}) is None
    assert configured_url({}) is None


@pytest.mark.integration
def test_it_starts_answers_and_forgets_everything_at_a_kill(tmp_path: Path) -> None:
    with LocalRedis(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
        server.kill()
        assert not server.process.alive
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") is None
    assert not server.process.alive
    assert sorted(path.name for path in tmp_path.iterdir()) == ["redis.log"]


@pytest.mark.integration
def test_a_port_lost_in_a_race_is_a_failed_start_with_the_log(tmp_path: Path) -> None:
    with LocalRedis(tmp_path / "first") as first:
        second = LocalRedis(tmp_path / "second")
        second.process.argv = [*second.process.argv, "--port", str(first.port)]
        (tmp_path / "second").mkdir()
        second.port = first.port + 1  # its own port answers nothing
        with pytest.raises(ServerExited, match="Address already in use"):
            second.start()
        assert not second.process.alive
