"""Does an instruction help to find the next item of real users? HR@K on Amazon Beauty.

Leave-one-out, full ranking over all items: trained on the rows `train`, asked for `test` with the
validation item in the history. Reduced to what two CPU cores train: preset tiny, semantic IDs from
text alone, a few epochs, a sample of the users. Each user is asked with the own instruction, with
the learnable default, with another user's, and with the own one while a table of neighbours
re-ranks the beams (its weight is chosen on validation items of other users, for each seed anew);
instructions are the local reasoner's, replayed as served (day timestamps: they do not go stale).
Items of the history are left out in every row. Data: a folder with items.parquet and
interactions.parquet (`--data`). --keep DIR: trained generations stay there, a run that was cut goes
on. --seed: these alone. --features fused: semantic IDs from what users chose too. --trained-out: a
model of 2 M parameters with dropout, 14 epochs, as validation chose on a card; --device cuda trains
there. --quick: 150 steps, one seed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.next_item_asking import KS, gap_of, hits_of, places, request_of
from benchmarks.next_item_baselines import NEAREST, baseline_ranks
from benchmarks.next_item_cases import Case, Cases, cases_of
from benchmarks.next_item_generation import (
    REDUCED,
    TRAINED_OUT,
    fitted_generation,
    policy_of,
)
from benchmarks.report import finish, parser, show
from models.evaluation.steering import shuffled
from models.reasoning.text_encoder import CharacterEncoder
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy
from models.training.fit import Features, FitConfig
from models.training.folder import FolderData, read_folder
from models.vectors import pack

QUICK_STEPS = 150
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
USERS, QUICK_USERS = 4_000, 500
VALIDATION_USERS, QUICK_VALIDATION_USERS = 2_000, 300
WIDE_BEAMS = 200
TIMED = 400
DEFAULT_DATA = Path("../shared/data/amazon14_beauty")
OWN, DEFAULT, OTHERS = "own instruction", "learnable default", "another user's"
RERANKED = "own instruction + table on the beams"
WIDER = f"the same, {WIDE_BEAMS} beams"
CONDITIONS = (OWN, DEFAULT, OTHERS, RERANKED, WIDER)
GAPS = ((OWN, DEFAULT), (OWN, OTHERS), (RERANKED, OWN), (RERANKED, NEAREST), (WIDER, NEAREST))
WEIGHTS = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
CHOSEN_BY = "HR@10"
Ranks = Mapping[str, Sequence[int | None]]


def main() -> None:
    """Prints HR@5 and HR@10 by condition and seed, differences with intervals, and baselines."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR")
    options.add_argument("--steps", type=int, metavar="N", help="training steps a seed")
    options.add_argument("--seed", type=int, action="append", metavar="N", help="this seed alone")
    options.add_argument("--keep", type=Path, metavar="DIR", help="where generations rest")
    options.add_argument("--features", choices=get_args(Features), default="text")
    options.add_argument("--trained-out", action="store_true", help="more than two cores train")
    options.add_argument("--device", choices=("cpu", "cuda", "auto"), default="cpu")
    given = options.parse_args()
    started = time.monotonic()
    fit = replace(TRAINED_OUT if given.trained_out else REDUCED, features=given.features)
    steps = given.steps or (QUICK_STEPS if given.quick else fit.training.steps)
    data = read_folder(given.data)
    sizes = (QUICK_USERS, QUICK_VALIDATION_USERS) if given.quick else (USERS, VALIDATION_USERS)
    cases = cases_of(given.data, data, *sizes)
    baselines = baseline_ranks(data, cases.test)
    results: dict[str, Any] = {
        "users": len(cases.test),
        "validation_users": len(cases.validation),
        "steps": steps,
        "features": given.features,
        "baselines": {name: hits_of(ranks) for name, ranks in baselines.items()},
        "seeds": [],
    }
    for seed in given.seed or (QUICK_SEEDS if given.quick else SEEDS):
        with _home(given.keep) as home:
            config = replace(
                fit,
                training=replace(fit.training, steps=steps, device=given.device, seed=seed),
            )
            results["seeds"].append(_seed(home, data, cases, baselines, config))
    _report(results)
    finish("next_item", results, started=started, path=given.json)


@contextmanager
def _home(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)


def _seed(
    home: Path, data: FolderData, cases: Cases, baselines: Ranks, config: FitConfig
) -> dict[str, Any]:
    began = time.monotonic()
    seed = config.training.seed
    fitted, folder = fitted_generation(home, data, config)
    trained_s = time.monotonic() - began
    policy, encoder = policy_of(folder, data)
    weight, validation = _chosen_weight(policy, encoder, cases.validation)
    ranks = {**baselines, **_ranks(policy, encoder, cases.test, seed, weight)}
    return {
        "seed": seed,
        "training_s": round(trained_s, 1),
        "semantic_ids": fitted.distinct_semantic_ids,
        "code_ce": fitted.code_ce,
        "weight": weight,
        "request_ms": _cost_ms(policy, cases.test),
        "validation": validation,
        **{name: hits_of(ranks[name]) for name in CONDITIONS},
        **{f"{one} - {other}": gap_of(ranks[one], ranks[other]) for one, other in GAPS},
    }


def _weighted(policy: LoadedPolicy, weight: float) -> GeneratorEngine:
    """Returns the engine that serves the policy with its table at `weight`."""
    table = policy.neighbours
    if table is not None:
        table = replace(table, config=replace(table.config, weight=weight))
    return GeneratorEngine(replace(policy, neighbours=table))


def _chosen_weight(
    policy: LoadedPolicy, encoder: CharacterEncoder, cases: Sequence[Case]
) -> tuple[float, dict[str, dict[str, float]]]:
    """Returns the weight that finds most validation items, and what each one finds."""
    vectors = [pack(vector) for vector in encoder.encode([case.instruction for case in cases])]
    found = {
        weight: hits_of(places(_weighted(policy, weight), cases, vectors)) for weight in WEIGHTS
    }
    best = max(found, key=lambda weight: found[weight][CHOSEN_BY])
    return best, {str(weight): hits for weight, hits in found.items()}


def _cost_ms(policy: LoadedPolicy, cases: Sequence[Case]) -> dict[str, float]:
    """Returns the median of a request decoded alone on one thread, without and with the table, in
    turn.
    """
    policies = {"without": replace(policy, neighbours=None), "with": policy}
    engines = {name: GeneratorEngine(own) for name, own in policies.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in engines}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for request in map(request_of, cases[:TIMED]):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine.generate([request])
            times_ms[name].append(1_000 * (time.perf_counter() - began))
    torch.set_num_threads(threads)
    return {name: median(found) for name, found in times_ms.items()}


def _ranks(
    policy: LoadedPolicy,
    encoder: CharacterEncoder,
    cases: Sequence[Case],
    seed: int,
    weight: float,
) -> dict[str, list[int | None]]:
    """Returns the target's place by condition and user, None where it is not among the beams."""
    vectors = [pack(vector) for vector in encoder.encode([case.instruction for case in cases])]
    others = shuffled(len(cases), np.random.default_rng(seed))
    plain, tabled = _weighted(replace(policy, neighbours=None), 0), _weighted(policy, weight)
    return {
        OWN: places(plain, cases, vectors),
        DEFAULT: places(plain, cases, [None] * len(cases)),
        OTHERS: places(plain, cases, [vectors[other] for other in others]),
        RERANKED: places(tabled, cases, vectors),
        WIDER: places(tabled, cases, vectors, WIDE_BEAMS),
    }


def _report(results: dict[str, Any]) -> None:
    seeds = results["seeds"]
    for k in KS:
        name = f"HR@{k}"
        rows: list[list[object]] = [
            [baseline, *(f"{found[name]:.4f}" for _ in seeds)]
            for baseline, found in results["baselines"].items()
        ]
        rows += [
            [condition, *(f"{seed[condition][name]:.4f}" for seed in seeds)]
            for condition in CONDITIONS
        ]
        for gap in (f"{one} - {other}" for one, other in GAPS):
            cells = ("{:+.4f} [{:+.4f}, {:+.4f}]".format(*s[gap][name]) for s in seeds)
            rows.append([gap, *cells])
        columns = [name, *(f"seed {seed['seed']}" for seed in seeds)]
        show(f"{results['users']} users, {results['steps']} steps", columns, rows)
    rows = [
        [weight, *(f"{seed['validation'][weight][CHOSEN_BY]:.4f}" for seed in seeds)]
        for weight in map(str, WEIGHTS)
    ]
    for seed in seeds:
        cost = seed["request_ms"]
        print(
            f"seed {seed['seed']}: a request alone {cost['without']:.2f} ms, with the table"
            f" {cost['with']:.2f} ms (medians of {TIMED}, one thread)"
        )
    title = f"the table's weight, {CHOSEN_BY} of {results['validation_users']} validation items"
    chosen = [f"seed {seed['seed']} (takes {seed['weight']})" for seed in seeds]
    show(title, ["weight", *chosen], rows)


if __name__ == "__main__":
    main()
