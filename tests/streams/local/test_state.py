"""The state file, the folder's lock, and the settings that workers get."""

import os
import stat
from pathlib import Path

import pytest

from streams.local.errors import AlreadyRunning, NotRunning
from streams.local.state import (
    Addresses,
    HomeLock,
    ProcessRecord,
    StackState,
    read_state,
    remove_state,
    supervisor_record,
    write_state,
)


def state(*processes: ProcessRecord) -> StackState:
    return StackState(
        supervisor=supervisor_record(),
        broker="kafka",
        triton="server",
        addresses=Addresses(kafka_bootstrap="127.0.0.1:9", redis_url="redis://user:secret@host/0"),
        processes=list(processes),
    )


def test_the_state_is_read_as_it_was_written_and_only_its_owner_can(tmp_path: Path) -> None:
    written = state(
        ProcessRecord(name="kafka", kind="server", pid=7, mark="1@b", started_ms=5, url="u")
    )
    write_state(tmp_path, written)
    assert read_state(tmp_path) == written
    assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_without_a_stack_the_error_names_the_folder_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="`oxygenrec up` starts one") as raised:
        read_state(tmp_path)
    assert str(tmp_path) in str(raised.value)
    remove_state(tmp_path)  # nothing there: nothing to do


def test_a_folder_has_one_supervisor(tmp_path: Path) -> None:
    lock = HomeLock(tmp_path)
    write_state(tmp_path, state())
    with pytest.raises(AlreadyRunning) as raised:
        HomeLock(tmp_path)
    assert raised.value.pid == os.getpid()
    assert "oxygenrec down" in str(raised.value)
    lock.release()
    lock.release()
    HomeLock(tmp_path).release()


def test_a_record_is_of_one_start_of_a_process_id() -> None:
    this = supervisor_record()
    assert this.runs()
    recycled = ProcessRecord(name="x", kind="server", pid=this.pid, mark="1@old", started_ms=0)
    assert not recycled.runs()


def test_workers_get_every_address_as_a_setting(tmp_path: Path) -> None:
    addresses = Addresses(
        kafka_bootstrap="127.0.0.1:1",
        kafka_partitions=4,
        kafka_check_crcs=False,
        redis_url="redis://127.0.0.1:2/0",
        http_port=3,
    )
    assert addresses.environment(tmp_path) == {
        "OXYGENREC_HOME": str(tmp_path),
        "OXYGENREC_KAFKA__BOOTSTRAP": "127.0.0.1:1",
        "OXYGENREC_KAFKA__PARTITIONS": "4",
        "OXYGENREC_KAFKA__REPLICATION": "1",
        "OXYGENREC_KAFKA__CHECK_CRCS": "false",
        "OXYGENREC_REDIS__URL": "redis://127.0.0.1:2/0",
        "OXYGENREC_TRITON__GRPC_URL": "",
        "OXYGENREC_HTTP__PORT": "3",
    }
