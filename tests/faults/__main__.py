"""`python -m tests.faults [NAME ...]`: the table of docs/reliability.md, measured anew.

Starts three Kafka nodes, one Redis and the near-line workers, hits them with one fault after the
other, and ends with 1 if anything that was acknowledged is lost, doubled, old or misplaced.
"""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import commit, machine
from tests.faults.rig import Rig
from tests.faults.run import Result, run_scenario
from tests.faults.scenarios import SCENARIOS

COLUMNS = (
    *("fault", "acked", "posted", "lost", "windows", "lost", "twice", "old"),
    *("rewards", "lost", "doubled", "changed", "lost", "moved"),
    *("dead letters", "late", "repeats", "restarts", "seconds"),
)


def row(result: Result) -> tuple[str, ...]:
    """Returns the cells of one line, as `COLUMNS` names them."""
    found = result.verdict
    seconds = "never" if result.recovered_s is None else f"{result.recovered_s:.1f}"
    cells = (
        *(found.actions, f"{result.posted}+{result.again}", len(found.lost_actions)),
        *(found.windows, len({*found.lost_windows, *found.wrong_windows})),
        *(len(found.closed_twice), len(found.old_instructions)),
        *(found.rewards, len(found.lost_rewards), len(found.doubled_rewards)),
        *(found.changed, len(found.lost_changes), len(found.moved_sids)),
        f"{found.buried}/{found.poison}",
        *(found.late, found.repeats, result.restarts),
    )
    return (result.name, *map(str, cells), seconds)


def say(line: str) -> None:
    """Writes a line at once: a run takes minutes, and somebody watches."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Runs the scenarios; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="keep logs and data of the run in this folder")
    asked = parser.parse_args()
    chosen = [one for one in SCENARIOS if not asked.names or one.name in asked.names]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is stopped
    began = time.monotonic()
    bad = False
    with (
        tempfile.TemporaryDirectory(prefix="oxygenrec-faults-") as temporary,
        Rig(asked.keep or Path(temporary)) as rig,
    ):
        say("| " + " | ".join(COLUMNS) + " |")
        say("|---" + "|---:" * (len(COLUMNS) - 1) + "|")
        for scenario in chosen:
            result = run_scenario(rig, scenario, asked.seed)
            bad |= not result.passed
            say("| " + " | ".join(row(result)) + " |")
            for name, wrong in result.verdict.violations.items():
                say(f"  {name}: {len(wrong)}, such as {', '.join(wrong[:3])}")
    say(f"\nmachine: {machine()}\ncommit: {commit()}\nseconds: {time.monotonic() - began:.0f}")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
