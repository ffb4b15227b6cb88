"""Runs one scenario: traffic, the fault in its midst, a probe, and the verdict on what is left."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from tests.faults.evidence import Evidence
from tests.faults.rig import ATTRIBUTION_MS, WINDOWS, Rig
from tests.faults.scenarios import Scenario
from tests.faults.traffic import Traffic
from tests.faults.verdict import Verdict, judge

BEFORE_S = 5.0
RECOVERY_TIMEOUT_S = 90.0
PROBED_EVERY_S = 1.0
DRAIN_TIMEOUT_S = 90.0
ENDING_S = 2.0 + (WINDOWS.window_ms + WINDOWS.grace_ms + ATTRIBUTION_MS) / 1_000
QUIET_S = 3.0  # after the first clean verdict: what comes twice or too late still comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row: the verdict, and when a probe sent after the fault was answered (None: never)."""

    name: str
    verdict: Verdict
    recovered_s: float | None
    restarts: int
    posted: int  # actions that the edge took with 202
    again: int  # posts that were repeated until it did

    @property
    def passed(self) -> bool:
        """Whether nothing was violated and the probe came through."""
        return not self.verdict.violations and self.recovered_s is not None


def run_scenario(rig: Rig, scenario: Scenario, seed: int) -> Result:
    """Runs it to its end and judges."""
    name = scenario.name.replace(" ", "-")
    restarts = rig.restarts
    with (
        rig.producer() as producer,
        closing(rig.edge_client()) as edge,
        ThreadPoolExecutor() as pool,
    ):
        traffic = Traffic(producer, edge, name, scenario.mix, seed)
        sending = pool.submit(traffic.run, scenario.seconds)
        time.sleep(BEFORE_S)
        strike = scenario.strike(rig)
        next(strike)
        struck = time.monotonic()
        watching = pool.submit(_recovery_s, rig, traffic, struck)
        for _ in strike:
            pass
        recovered_s = watching.result()
        sending.result()
    time.sleep(ENDING_S + scenario.mix.skew_ms / 1_000)
    verdict = _settled(rig, name, traffic, scenario.most_late)
    return Result(
        name=scenario.name,
        verdict=verdict,
        recovered_s=recovered_s,
        restarts=rig.restarts - restarts,
        posted=traffic.ledger.posted,
        again=edge.again,
    )


def _recovery_s(rig: Rig, traffic: Traffic, struck: float) -> float | None:
    """Sends new probes every second until those of one second are all answered.

    The first ones may have reached a stalled log behind its watermark: late, and never answered.
    """
    evidence = Evidence(rig)
    probes: list[list[str]] = []
    try:
        while (passed_s := time.monotonic() - struck) < RECOVERY_TIMEOUT_S:
            if passed_s >= len(probes) * PROBED_EVERY_S:
                probes.append(traffic.probe(len(probes)))
            if any(map(evidence.answered, probes)):
                return time.monotonic() - struck
            time.sleep(0.2)
    finally:
        evidence.close()
    return None


def _settled(rig: Rig, name: str, traffic: Traffic, most_late: float) -> Verdict:
    """Waits until nothing is missing any more, or too long; judges once more when it is quiet."""
    evidence, ledger = Evidence(rig), traffic.ledger

    def verdict() -> Verdict:
        seen = evidence.of(name, ledger)
        return judge(ledger, seen, WINDOWS, ATTRIBUTION_MS, most_late=most_late)

    try:
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while verdict().violations and time.monotonic() < deadline:
            time.sleep(1)
        time.sleep(QUIET_S)
        return verdict()
    finally:
        evidence.close()
