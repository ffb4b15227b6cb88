"""Our windowed path against other frameworks at the same job, on the same machine, in turn.

The job: read `actions` from a real Kafka (4 partitions), keep recent behaviour by user in Redis,
and write for each user and 5 minutes of event time (grace 10 s) one trigger with the high-value
actions (4 %), at least once. Ours is two processes, router and window aggregator; a peer is one
script in a Python environment of its own (`benchmarks/peers/`), made in the cache at the first run.
The log is full before a system starts. Counted from the first record it reads until everything is
written and committed; every trigger is compared with an offline recount. Systems run in turn,
each on new servers.

--quick: a quarter of the log, once.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.near_line_stack import PARTITIONS, Servers, empty_servers
from benchmarks.peers.environments import PeerUnavailable
from benchmarks.peers.log import Log, log_of
from benchmarks.peers.runs import PeerFailed, Run, Span, ours, peer, run
from benchmarks.report import finish, parser, show

OURS = "oxygenrec"
SYSTEMS: Mapping[str, Callable[[Servers, Log], Span]] = {
    OURS: ours,
    "quixstreams": peer("quixstreams"),
    "quixstreams, commits as ours": peer("quixstreams", commit_every=2_000),
    "quixstreams, 2 processes": peer("quixstreams", processes=2),
    "bytewax": peer("bytewax"),
    "aiokafka loop": peer("aiokafka"),
}
ACTIONS = 400_000
REPETITIONS = 3
LIMIT_S = 900.0  # 18 runs take 500 s on quiet cores


def main() -> None:
    """Prints speed, cost and correctness of every system."""
    asked = parser(__doc__)
    asked.add_argument("--actions", type=int, default=0, help=f"length of the log ({ACTIONS:,})")
    asked.add_argument("--repetitions", type=int, default=0, help=f"of each system ({REPETITIONS})")
    asked.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    asked.add_argument(
        "--limit-s", type=float, default=LIMIT_S, help="no run begins that may end later"
    )
    given = asked.parse_args()
    started = time.monotonic()
    count = given.actions or (ACTIONS // 4 if given.quick else ACTIONS)
    log = log_of(count, PARTITIONS, time.time_ns() // 1_000_000)
    repetitions = given.repetitions or (1 if given.quick else REPETITIONS)
    runs, faults = _in_turn(log, given.systems * repetitions, started + given.limit_s)
    _show(log, runs, faults)
    results = {
        "actions": len(log.records),
        "windows": len(log.windows),
        "runs": {name: [asdict(one) for one in found] for name, found in runs.items()},
        "faults": faults,
    }
    finish("near_line_peers", results, started=started, path=given.json)


def _in_turn(
    log: Log, names: Sequence[str], limit_s: float
) -> tuple[dict[str, list[Run]], dict[str, str]]:
    """Runs systems one after the other; returns their runs, and why some have none.

    `limit_s`: on the monotonic clock; no run begins that would end later, were it the longest yet.
    """
    runs: dict[str, list[Run]] = {name: [] for name in names}
    faults: dict[str, str] = {}
    longest_s = 0.0
    for name in names:
        begun = time.monotonic()
        if begun + longest_s > limit_s:
            faults[name] = f"{len(runs[name])} runs, no time for more"
            continue
        try:
            with TemporaryDirectory() as folder, empty_servers(Path(folder)) as at:
                runs[name].append(run(at, log, SYSTEMS[name]))
        except (PeerUnavailable, PeerFailed) as error:
            faults[name] = error.why
            print(f"{name}: {error.why}", flush=True)
        else:
            print(f"{name}: {runs[name][-1].seconds:.1f} s", flush=True)
        longest_s = max(longest_s, time.monotonic() - begun)
    return runs, faults


def _show(log: Log, runs: Mapping[str, Sequence[Run]], faults: Mapping[str, str]) -> None:
    worked = {name: found for name, found in runs.items() if found}
    count, our = len(log.records), runs.get(OURS, ())
    show(
        f"{count:,} actions, {len(log.windows):,} windows; medians [smallest, largest]",
        ["system", "runs", "s", "actions/s", "ours / it"],
        [_speed(name, found, our, count) for name, found in worked.items()],
    )
    show(
        "its processes' CPU time, the servers' beside it, and its largest resident memory",
        ["system", "CPU s", "actions per CPU s", "ours / it", "Kafka CPU s", "Redis CPU s", "MiB"],
        [_cost(name, found, our, count) for name, found in worked.items()],
    )
    show(
        "triggers against the recount, of the worst run; entries of history in Redis",
        ["system", "right", "missing", "different", "surplus", "repeated", "history"],
        [_correctness(name, found, log) for name, found in worked.items()],
    )
    for name, why in faults.items():
        print(f"{name}: {why}")


def _speed(name: str, found: Sequence[Run], our: Sequence[Run], count: int) -> list[str]:
    seconds = [one.seconds for one in found]
    speed = f"{count / statistics.median(seconds):,.0f}"
    ratio = _ratio(seconds, [one.seconds for one in our])
    return [name, str(len(found)), _spread(seconds), speed, ratio]


def _cost(name: str, found: Sequence[Run], our: Sequence[Run], count: int) -> list[str]:
    cpu_s = [sum(one.cpu_s.values()) for one in found]
    return [
        name,
        _spread(cpu_s),
        f"{count / statistics.median(cpu_s):,.0f}",
        _ratio(cpu_s, [sum(one.cpu_s.values()) for one in our]),
        *(
            f"{statistics.median(one.servers_cpu_s[server] for one in found):.1f}"
            for server in ("Kafka", "Redis")
        ),
        f"{max(one.peak_mib for one in found):,.0f}",
    ]


def _correctness(name: str, found: Sequence[Run], log: Log) -> list[str]:
    worst = min(found, key=lambda one: (one.comparison.right, -one.comparison.repeated))
    told = worst.comparison
    return [
        name,
        f"{told.right:,} of {told.wanted:,}",
        *map(str, (told.missing, told.different, told.surplus, told.repeated)),
        f"{min(one.history for one in found):,} of {len(log.records):,}",
    ]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


def _ratio(theirs: Sequence[float], our: Sequence[float]) -> str:
    return f"{statistics.median(theirs) / statistics.median(our):.2f}" if our else "-"


if __name__ == "__main__":
    main()
