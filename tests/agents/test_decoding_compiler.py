"""Compiling where versions are published: asked for, possible, once; else eager, and said."""

import logging
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Timer

import msgspec
import pytest

from agents import decoding_compiler
from agents.catalogue_replica import CatalogueReplica
from agents.decoding_compiler import DecodingCompiler
from agents.settings import PathsConfig, ServingConfig, Settings
from models.serving.compiled_record import FILE_NAME, CompiledArtifact, CompiledRecord
from models.serving.policy_directory import write_version
from tests.models.generator.small_policy import small_config, small_policy

CONFIG = small_config()


def compiler(home: Path, *, wanted: bool = True) -> DecodingCompiler:
    serving = ServingConfig(compiled=wanted, beams=6)
    return DecodingCompiler(Settings(paths=PathsConfig(home=str(home)), serving=serving))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would compile; each writes a file where it was told."""
    found: list[list[str]] = []

    def run(_: DecodingCompiler, command: list[str], environment: object) -> None:
        found.append(command)
        Path(command[-1]).write_bytes(b"program")

    monkeypatch.setattr(DecodingCompiler, "_run", run)
    monkeypatch.setattr("shutil.which", lambda name: name)
    return found


def test_nothing_is_compiled_where_nobody_asked(tmp_path: Path, runs: list[list[str]]) -> None:
    assert compiler(tmp_path, wanted=False).artifact(CONFIG) is None
    assert not runs


def test_it_is_compiled_once_and_found_by_the_next_process(
    tmp_path: Path, runs: list[list[str]]
) -> None:
    first = compiler(tmp_path).artifact(CONFIG)
    assert first is not None
    assert first.record == CompiledRecord.here(CONFIG, 6)
    assert first.path.read_bytes() == b"program"
    assert compiler(tmp_path).artifact(CONFIG) == first
    assert len(runs) == 1
    assert [path.name for path in first.path.parent.iterdir()] == [FILE_NAME]


def test_without_a_compiler_versions_decode_eagerly_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert compiler(tmp_path).artifact(CONFIG) is None
    assert "no C++ compiler: found no g++" in caplog.text


def test_a_mixture_of_experts_is_not_tried(
    tmp_path: Path, runs: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    mixture = replace(CONFIG, gated=True, experts=4, experts_per_token=2)
    assert compiler(tmp_path).artifact(mixture) is None
    assert "mixture of experts" in caplog.text
    assert not runs


def test_a_failure_is_said_with_its_cause_and_not_tried_again(
    tmp_path: Path,
    runs: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: DecodingCompiler, command: list[str], environment: object) -> None:
        runs.append(command)
        raise subprocess.CalledProcessError(1, command, stderr="Traceback\nno space left\n")

    monkeypatch.setattr(DecodingCompiler, "_run", fail)
    tried = compiler(tmp_path)
    assert tried.artifact(CONFIG) is None
    assert tried.artifact(CONFIG) is None
    assert "no space left" in caplog.text
    assert len(runs) == 1


def test_a_replica_that_must_not_run_an_artefact_serves_eagerly_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "made.pt2"
    path.write_bytes(b"program")
    policy = small_policy()
    record = msgspec.structs.replace(CompiledRecord.here(CONFIG, 6), torch_version="2.0")
    folder = write_version(
        tmp_path / "generator",
        policy.manifest,
        policy.generator,
        policy.index,
        compiled=CompiledArtifact(path, record),
    )
    with caplog.at_level(logging.WARNING):
        replica = CatalogueReplica(folder, lambda _: None)
    assert not replica.is_compiled
    (line,) = [record for record in caplog.records if "decoding eagerly" in record.message]
    assert "torch_version: found 2.0" in str(getattr(line, "cause", ""))


def ends(tmp_path: Path, act: Callable[[DecodingCompiler], None]) -> None:
    """A command whose own child would run for a minute ends, with its child, by what `act` does."""
    tried = compiler(tmp_path)
    written = tmp_path / "child"
    command = ["sh", "-c", f"sleep 60 & echo $! > {written}; wait"]
    acting = Timer(0.5, act, [tried])
    acting.start()
    began = time.monotonic()
    with pytest.raises(subprocess.SubprocessError):
        tried._run(command, os.environ)
    acting.join()
    assert time.monotonic() - began < 30
    child = int(written.read_text())
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.05)
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or ") Z " in state.read_text()


def test_a_compilation_ends_with_its_compilers_when_it_is_closed(tmp_path: Path) -> None:
    ends(tmp_path, DecodingCompiler.close)


def test_a_compilation_ends_with_its_compilers_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_compiler, "LIMIT_S", 1.0)
    ends(tmp_path, lambda _: None)
