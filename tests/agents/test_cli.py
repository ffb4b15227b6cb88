import asyncio
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.exit_codes import ExitCode, exit_code_of
from agents.log_lines import LineFormatter, LogConfig, OncePerInterval
from agents.settings import Settings, UnknownSetting
from agents.workers import WORKERS, UnknownWorker, _until_stopped, run_worker
from schemas.errors import InvalidRecord
from streams.local.errors import NotRunning, RedisMissing, ServerExited, UnknownProcess

VERBS = (
    *("demo", "up", "down", "status", "logs", "worker", "recommend", "config", "import"),
    *("restore", "probe", "refresh", "train"),
)


def oxygenrec(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "agents.cli", *arguments]
    paths = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, env=paths, capture_output=True, text=True, check=False)


def test_the_verbs_are_the_promised_ones() -> None:
    assert {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    } == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_shows_an_example_that_begins_with_the_verb(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == ExitCode.OK
    assert f"oxygenrec {verb}" in shown.output.split("Usage:")[1].split("\n", 1)[1]


def test_an_expected_error_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    stopped = oxygenrec("down", OXYGENREC_HOME=str(tmp_path))
    assert stopped.returncode == ExitCode.NOT_RUNNING
    assert stopped.stderr.startswith("oxygenrec: no stack runs in ")
    assert stopped.stderr.count("\n") == 1


def test_an_unknown_setting_is_a_usage_error_that_names_the_nearest() -> None:
    refused = oxygenrec("config", OXYGENREC_WINDOWS__WINDW_MS="5000")
    assert refused.returncode == ExitCode.USAGE
    assert "did you mean windows.window_ms?" in refused.stderr


def test_config_shows_the_environment_and_hides_the_password() -> None:
    shown = oxygenrec(
        "config",
        OXYGENREC_WINDOWS__WINDOW_MS="5000",
        OXYGENREC_REDIS__URL="rediss://user:secret@redis:6379/0",
    )
    table = json.loads(shown.stdout)
    assert table["windows"]["window_ms"] == 5_000
    assert "secret" not in shown.stdout
    assert table["redis"]["url"].endswith("@redis:6379/0")


def test_the_error_of_a_workers_task_is_the_workers_own() -> None:
    async def fails() -> None:
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
            outer.create_task(asyncio.sleep(60))
            inner.create_task(refuse())

    async def refuse() -> None:
        raise UnknownWorker(name="router")

    with pytest.raises(UnknownWorker):
        asyncio.run(_until_stopped(fails()))


def test_an_unknown_worker_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownWorker, match="did you mean window-aggregator") as refused:
        run_worker("window-agregator", Settings())
    assert exit_code_of(refused.value) is ExitCode.USAGE


def test_a_data_folder_without_items_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "interactions.parquet").touch()
    refused = oxygenrec("demo", "--data", str(tmp_path), OXYGENREC_HOME=str(tmp_path / "home"))
    assert refused.returncode == ExitCode.MISSING
    assert "wanted items.parquet" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "home").exists()


def test_exit_codes_tell_what_is_missing_from_what_failed(tmp_path: Path) -> None:
    exited = ServerExited(name="kafka", exit_code=1, log=tmp_path, tail="")
    invalid = InvalidRecord(reason="r", field="f", found="x", wanted="y")
    assert exit_code_of(RedisMissing(wanted="one", found="none")) is ExitCode.MISSING
    assert exit_code_of(NotRunning(home=tmp_path)) is ExitCode.NOT_RUNNING
    assert exit_code_of(UnknownSetting(key="a", source="s", known=["b"])) is ExitCode.USAGE
    assert exit_code_of(UnknownProcess(name="a", known=["b"])) is ExitCode.USAGE
    assert exit_code_of(exited) is ExitCode.FAILED
    assert exit_code_of(invalid) is ExitCode.FAILED


def test_a_log_line_is_one_line_with_its_fields() -> None:
    record = logging.LogRecord("agents.router", logging.INFO, "", 0, "closed\n%s", ("it",), None)
    record.user, record.text = "u 1", 'say "hi"'
    line = LineFormatter().format(record)
    assert "\n" not in line
    assert line.endswith('INFO agents.router closed\\nit user="u 1" text="say \\"hi\\""')


def test_a_repeated_line_is_said_once_in_ten_seconds() -> None:
    repeats = OncePerInterval()
    lines = [logging.makeLogRecord({"name": "aiokafka", "msg": "gone"}) for _ in range(3)]
    for line, created in zip(lines, (100.0, 109.0, 111.0), strict=True):
        line.created = created
    assert [repeats.filter(line) for line in lines] == [True, False, True]


def test_every_worker_of_the_contract_has_an_entry_point() -> None:
    assert LogConfig().level == "INFO"
    assert set(WORKERS) == {
        *("edge", "router", "window-aggregator", "instruction-writer"),
        *("catalog-indexer", "reward-joiner", "policy-trainer"),
    }
