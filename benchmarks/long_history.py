"""Does instruction-guided retrieval find what the newest actions do not say? HR@K on Amazon Beauty.

Generators of equal size that read at most ten actions: the newest ten, or the newest five and the
five of the 45 before them that the instruction chooses (IGR with the query-to-item loss). Beside
them the newest five and the newest fifty. Users, instructions and training are those of `next_item
--features fused`, but that every training row reads its history. Asked with the own instruction,
for all users and for those with more than ten actions. --keep DIR: what was ranked stays there, so
that parts can be run beside each other (--variant, --seed), and one call more shows all. --device
cuda trains on a card. --quick: 150 steps, one seed, 500 users.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from benchmarks.next_item import (
    DEFAULT_DATA,
    QUICK_SEEDS,
    QUICK_STEPS,
    QUICK_USERS,
    SEEDS,
    USERS,
)
from benchmarks.next_item_asking import KS, gap_of, hits_of, places
from benchmarks.next_item_cases import Case, cases_of
from benchmarks.next_item_generation import REDUCED, fitted_generation, policy_of
from benchmarks.report import finish, parser, show
from models.serving.engine import GeneratorEngine
from models.training.examples import ExampleConfig
from models.training.fit import FitConfig
from models.training.folder import FolderData, read_folder
from models.vectors import pack

READ = 10
LOOKED_BACK = 3  # actions looked at for each one read: searches stand between
Ranks = list[int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How many actions the generator is given, and which of them it reads."""

    given: int
    sizes: Mapping[str, int]

    def fit(self, steps: int, device: Any, seed: int) -> FitConfig:
        """Returns what is trained."""
        training = replace(
            REDUCED.training, history_limits=(1_000,), steps=steps, device=device, seed=seed
        )
        examples = ExampleConfig(recent=self.given, looked_back=LOOKED_BACK * self.given)
        return replace(REDUCED, sizes=dict(self.sizes), training=training, examples=examples)


NEWEST, RETRIEVED = f"newest {READ}", "newest 5 + 5 retrieved of 50"
VARIANTS = {
    "newest 5": Variant(given=5, sizes={}),
    NEWEST: Variant(given=READ, sizes={}),
    RETRIEVED: Variant(given=50, sizes={"recent": READ // 2, "retrieved": READ // 2}),
    "newest 50": Variant(given=50, sizes={}),
}
GAPS = (
    (RETRIEVED, NEWEST),
    ("newest 50", NEWEST),
    ("newest 50", "newest 5"),
    (NEWEST, "newest 5"),
)


def main() -> None:
    """Prints HR@K by variant, seed and length of history, and differences with intervals."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR")
    options.add_argument("--variant", action="append", choices=list(VARIANTS), help="this alone")
    options.add_argument("--seed", type=int, action="append", metavar="N", help="this seed alone")
    options.add_argument("--steps", type=int, metavar="N", help="training steps")
    options.add_argument("--keep", type=Path, metavar="DIR", help="where ranks rest")
    options.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    given = options.parse_args()
    started = time.monotonic()
    steps = given.steps or (QUICK_STEPS if given.quick else REDUCED.training.steps)
    data = read_folder(given.data)
    cases = cases_of(given.data, data, QUICK_USERS if given.quick else USERS, 0).test
    if given.keep is not None:
        given.keep.mkdir(parents=True, exist_ok=True)
    found: dict[int, dict[str, Ranks]] = {}
    for seed in given.seed or (QUICK_SEEDS if given.quick else SEEDS):
        for name in given.variant or VARIANTS:
            config = VARIANTS[name].fit(steps, given.device, seed)
            kept = given.keep and given.keep / f"{name}, {steps} steps, {len(cases)}, {seed}.json"
            if kept is None or not kept.is_file():
                ranks = _ranks(data, cases, config, VARIANTS[name].given)
                if kept is not None:
                    kept.write_bytes(msgspec.json.encode(ranks))
            else:
                ranks = msgspec.json.decode(kept.read_bytes(), type=Ranks)
            found.setdefault(seed, {})[name] = ranks
    long = [place for place, case in enumerate(cases) if len(case.past) > READ]
    results = {"steps": steps, "device": given.device, "users": len(cases), "long": len(long)}
    for title, places_ in (("all users", range(len(cases))), (f"more than {READ} actions", long)):
        results[title] = _shown(title, steps, found, places_)
    finish("long_history", results, started=started, path=given.json)


def _ranks(data: FolderData, cases: Sequence[Case], config: FitConfig, given: int) -> Ranks:
    with TemporaryDirectory() as home:
        _, folder = fitted_generation(Path(home), data, config)
        policy, encoder = policy_of(folder, data)
    engine = GeneratorEngine(replace(policy, neighbours=None))
    vectors = [pack(vector) for vector in encoder.encode([case.instruction for case in cases])]
    return places(engine, cases, vectors, recent=given)


def _shown(
    title: str, steps: int, found: Mapping[int, Mapping[str, Ranks]], users: Sequence[int]
) -> dict[str, Any]:
    by_seed = {
        seed: {name: [ranks[user] for user in users] for name, ranks in by_name.items()}
        for seed, by_name in found.items()
    }
    hits = {
        seed: {name: hits_of(ranks) for name, ranks in by_name.items()}
        for seed, by_name in by_seed.items()
    }
    gaps = {
        seed: {
            f"{one} - {other}": gap_of(by_name[one], by_name[other])
            for one, other in GAPS
            if one in by_name and other in by_name
        }
        for seed, by_name in by_seed.items()
    }
    for k in KS:
        column = f"HR@{k}"
        rows: list[list[object]] = [
            [name, *(f"{hits[seed][name][column]:.4f}" for seed in found)]
            for name in next(iter(hits.values()))
        ]
        for name in next(iter(gaps.values())):
            cells = ("{:+.4f} [{:+.4f}, {:+.4f}]".format(*gaps[s][name][column]) for s in found)
            rows.append([name, *cells])
        columns = [column, *(f"seed {seed}" for seed in found)]
        show(f"{title} ({len(users)}), {steps} steps", columns, rows)
    return {"users": len(users), "hits": hits, "gaps": gaps}


if __name__ == "__main__":
    main()
