"""The demo's last word: what was counted, under the promised keys, and what is missing."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agents.exit_codes import ExitCode
from schemas.errors import OxygenRecError


class ActionCounts(Struct, frozen=True, kw_only=True):
    """Actions that shoppers sent to the edge, and those that Kafka acknowledged through it."""

    sent: int
    acknowledged: int


class RequestCounts(Struct, frozen=True, kw_only=True):
    """Recommendations as the shoppers' clients saw them; None where there was no request."""

    total: int
    failed: int
    degraded: int
    p50_ms: float | None
    p99_ms: float | None


class VersionPair(Struct, frozen=True, kw_only=True):
    """The policy version of the first answer and of the last one."""

    before: int | None
    after: int | None


class Summary(Struct, frozen=True, kw_only=True):
    """Every number was measured: by clients, or read from Kafka and the published manifests."""

    broker: str
    triton: Literal["server", "in-process"]
    seconds: float
    actions: ActionCounts
    windows_closed: int
    instructions_written: int
    requests: RequestCounts
    reward_groups: int
    policy_version: VersionPair
    slate_before: list[str]
    slate_after: list[str]
    logprob_mismatch_max: float | None


class DemoIncomplete(OxygenRecError):
    """The demo ran to its end, and something that it must show did not happen."""

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, *, missing: Sequence[str], home: Path) -> None:
        self.missing = tuple(missing)
        super().__init__(f"the demo is not complete: {'; '.join(missing)}; logs are in {home}")


def missing_in(summary: Summary, max_mismatch: float) -> list[str]:
    """Returns what did not happen, in words; empty for a complete demo."""
    requests, actions, version = summary.requests, summary.actions, summary.policy_version
    rose = None not in (version.before, version.after) and version.after > version.before  # type: ignore[operator]
    mismatch = summary.logprob_mismatch_max
    checks = {
        f"{requests.failed} of {requests.total} requests failed": requests.failed > 0,
        "no recommendation was asked for": requests.total == 0,
        f"{actions.sent - actions.acknowledged} actions were not acknowledged": (
            actions.acknowledged < actions.sent
        ),
        "no window closed": summary.windows_closed == 0,
        "no instruction was written": summary.instructions_written == 0,
        "no reward group was used": summary.reward_groups == 0,
        f"the policy version did not rise ({version.before} -> {version.after})": not rose,
        "no slate under an instruction": not summary.slate_after,
        f"served and recomputed log-probs differ by {mismatch}, wanted {max_mismatch}": (
            mismatch is not None and mismatch > max_mismatch
        ),
        "no log-prob was compared": mismatch is None,
    }
    return [what for what, holds in checks.items() if holds]


def percentile(values: Sequence[float], share: float) -> float | None:
    """Returns the smallest value that `share` of all values do not exceed; None without values."""
    if not values:
        return None
    rank = max(1, math.ceil(share * len(values)))
    return round(sorted(values)[rank - 1], 2)


def write_summary(summary: Summary, path: Path) -> None:
    """Writes the summary as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
