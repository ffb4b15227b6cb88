"""Trains a generation and publishes version 1, in a process of its own: torch's memory goes back.

The child is `python -m agents.demo.preparation_job`. It writes progress as JSON lines, says when
the generation is there, and publishes once it is told the addresses: a second process would import
torch a second time (5 s on a busy core).
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Struct

from schemas.errors import OxygenRecError
from streams.local.process import LocalProcess, tail

JOB = "agents.demo.preparation_job"
POLL_S = 0.1
# Kafka starts beside it: threads that spin for a shared core made a step 10 times slower.
THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
GENERATION_READY = "generation ready"
VERSION_PUBLISHED = "version published"


def origin_of(data: Path | None, seed: int) -> str:
    """Returns in words what a generation is trained on."""
    return f"data of {data.resolve()}" if data is not None else f"simulated shop, seed {seed}"


def origin_file(generation: Path) -> Path:
    """Returns where it stands what a generation was trained on: beside its folder."""
    return generation.with_name(f"{generation.name}.origin")


def read_origin(generation: Path) -> str | None:
    """Returns what the generation was trained on, None where there is none or nobody said."""
    origin = origin_file(generation)
    return origin.read_text() if generation.is_dir() and origin.is_file() else None


class Progress(Struct, frozen=True, kw_only=True):
    """How far one stage is."""

    stage: str
    done: float
    total: float
    note: str = ""


class PreparationFailed(OxygenRecError):
    """The process ended before it had done its part."""

    def __init__(self, *, wanted: str, ended_with: int | None, log: Path) -> None:
        self.log = log
        super().__init__(
            f"preparation ended with exit code {ended_with} before {wanted!r}:"
            f" {tail(log, 1)}; its log is {log}"
        )


class Preparation:
    """A context around one run of the job."""

    def __init__(
        self,
        *,
        home: Path,
        data: Path | None,
        seed: int,
        until_ms: int,
        environment: Mapping[str, str],
    ) -> None:
        """Prepares it; nothing runs before the context begins."""
        arguments: list[str | Path] = ["--seed", str(seed), "--until-ms", str(until_ms)]
        if data is not None:
            arguments += ["--data", data]
        self._log = home / "logs" / "preparation.log"
        self._progress = home / "preparation.jsonl"
        self._read = 0
        self._process = LocalProcess(
            "preparation",
            [sys.executable, "-m", JOB, *arguments, "--to", self._progress],
            log=self._log,
            environment={**THREADS, **environment, "OXYGENREC_HOME": str(home)},
            with_input=True,
        )

    def __enter__(self) -> Self:
        """Starts the process: it trains, unless a generation is there."""
        self._progress.unlink(missing_ok=True)
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it, if it still runs."""
        self._process.stop(grace_s=1.0)
        self._progress.unlink(missing_ok=True)

    def await_generation(self, show: Callable[[Progress], None]) -> None:
        """Returns when the generation is there; `show` gets the progress. Raises the failure."""
        self._await(GENERATION_READY, show)

    def publish(self, environment: Mapping[str, str]) -> None:
        """Publishes version 1 to the servers that `environment` names. Raises the failure."""
        self._process.stdin.write(msgspec.json.encode(environment) + b"\n")
        self._process.stdin.flush()
        self._await(VERSION_PUBLISHED, lambda _: None)

    def _await(self, stage: str, show: Callable[[Progress], None]) -> None:
        while True:
            running = self._process.alive  # asked first: what a dead one wrote is read below
            for progress in self._news():
                if progress.stage == stage:
                    return
                show(progress)
            if not running:
                code = self._process.exit_code
                raise PreparationFailed(wanted=stage, ended_with=code, log=self._log)
            time.sleep(POLL_S)

    def _news(self) -> list[Progress]:
        if not self._progress.exists():
            return []
        with self._progress.open("rb") as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        return [msgspec.json.decode(line, type=Progress) for line in lines]
