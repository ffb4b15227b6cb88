"""The trainer's diary: one JSON line a step, which proves that none was skipped or done twice.

A line is appended before its checkpoint appears; whoever resumes from a checkpoint cuts off the
lines after it, because those steps are done again from the same state.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimiser step on the groups found in `rewards` [start_offset, next_offset).

    `logprob_mismatch_max` is the largest |trainer - served| of the used groups so far.
    """

    step: int
    start_offset: int
    next_offset: int
    request_ids: list[str]
    loss: float
    objective: float
    kl: float
    observed_ce: float
    gradient_norm: float
    logprob_mismatch_max: float
    weights_sha256: str


class StepLog:
    """One file of step reports, by rising step."""

    def __init__(self, path: Path) -> None:
        """Prepares the log; the file appears with the first step."""
        self.path = path

    def append(self, report: StepReport) -> None:
        """Adds one line and returns when it is on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(report) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> list[StepReport]:
        """Returns the complete lines; a line torn by a crash ends the log."""
        reports: list[StepReport] = []
        if not self.path.exists():
            return reports
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            reports.append(msgspec.json.decode(line, type=StepReport))
        return reports

    def keep_until(self, step: int) -> None:
        """Cuts off the lines of later steps and a torn last line."""
        kept = [report for report in self.read() if report.step <= step]
        if not self.path.exists():
            return
        rewritten = self.path.with_suffix(".rewritten")
        rewritten.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in kept))
        rewritten.replace(self.path)
