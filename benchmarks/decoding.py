"""How long does one request's decoding take, against other ways, and is it exact?

One thread, batch 1, random weights. Every way decodes the same requests in turn, round by round, so
that a busy moment meets all of them; figures are medians over the rounds, differences medians of
the rounds' differences. --quick: fewer rounds, the smallest setting only.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch

from benchmarks.decoding_transformers import TransformersWay, version
from benchmarks.decoding_ways import (
    Sid,
    Task,
    Way,
    brute_force,
    dense_table,
    kept_by_width,
    ours,
    trie_by_beam,
    unconstrained,
    without_masks,
)
from benchmarks.decoding_world import Setting, policy_of, request_of
from benchmarks.report import arguments, finish, show
from models.decoding.legal import ScoreSemantics
from models.generator.batch import collate, excluded_keys
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy

LARGE = 200_000
SETTINGS = [
    Setting(items=600, codes=64, clusters=32),
    Setting(items=12_000, codes=256, clusters=300),
    Setting(items=LARGE, codes=8_192),
    Setting(items=LARGE, codes=8_192, history=200),
    Setting(items=LARGE, codes=8_192, history=200, size="4 + 4 layers of 256"),
    Setting(items=LARGE, codes=8_192, history=200, size="6 + 6 layers of 512 (T5-small)"),
]
WIDTHS = (20, 50)
BATCHES = (1, 8)
ROUNDS, QUICK_ROUNDS = 60, 8
BUDGET_S = 15  # a setting and width: slow ways get fewer rounds, at least FEWEST
FEWEST = 5
WARM_UP = 3
REQUESTS = 4  # different ones, in turn
OURS = "ours, legal"
NO_MASKS = "ours without masks"
ENCODE = "encoding alone"
HUGGING_FACE = "transformers generate"


def main() -> None:
    """Prints a table a catalogue and width, and the engine's time for whole requests."""
    given = arguments(__doc__)
    started = time.monotonic()
    torch.set_num_threads(1)
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    results: dict[str, Any] = {"transformers": version(), "threads": 1, "rounds": rounds}
    for setting in SETTINGS[: 1 if given.quick else None]:
        policy = policy_of(setting)
        title = (
            f"{setting.size}, {setting.items} items, V {setting.codes},"
            f" {len(policy.index.sids)} SIDs, history {setting.history}"
        )
        results[title] = {"requests": engine_times(policy, setting, rounds)}
        for beams in WIDTHS:
            with torch.inference_mode():
                results[title][f"beam {beams}"] = measure(policy, setting, beams, rounds)
            _show_ways(f"{title}, beam {beams}", results[title][f"beam {beams}"])
        _show_engine(title, results[title]["requests"])
    if results["transformers"] is None:
        print(f"no row '{HUGGING_FACE}': transformers cannot be imported here")
    finish("decoding", results, started=started, path=given.json)


def measure(policy: LoadedPolicy, setting: Setting, beams: int, rounds: int) -> dict[str, Any]:
    """Returns time and exactness by way."""
    requests = 1 if setting.is_large else REQUESTS  # a trie of 200,000 SIDs takes 0.2 GB
    tasks = [task_of(policy, setting, beams, seed) for seed in range(requests)]
    by_task = [ways_of(task, setting) for task in tasks]
    references = [references_of(task) for task in tasks]
    hugging_face = [TransformersWay(task) for task in tasks] if version() else []
    for number, way in enumerate(hugging_face):
        by_task[number][HUGGING_FACE] = way.way()
        references[number][HUGGING_FACE] = way.kept_by_width()
    each = timed(by_task, rounds)
    times = {name: median(found) for name, found in each.items()}
    rows = {
        name: {"ms": ms, "times_ours": ms / times[OURS]}
        | exactness(tasks, [ways[name]() for ways in by_task], [r.get(name) for r in references])
        for name, ms in times.items()
    }
    search = times[OURS] - times[ENCODE]
    shares = {
        f"against {name}": median(a - b for a, b in zip(each[OURS], each[name], strict=True))
        / search
        for name in (NO_MASKS, "unconstrained")
    }
    return {"ways": rows, "rounds": len(each[OURS]), "constraint_share": shares}


def task_of(policy: LoadedPolicy, setting: Setting, beams: int, seed: int) -> Task:
    """Returns one request, collated, and the SIDs that are live for it."""
    index = policy.index
    request = request_of(index, beams, seed, setting.history)
    batch = collate([request], index, policy.manifest.scenarios)
    excluded_BE = excluded_keys([request])
    leaves_1P = torch.arange(len(index.sids)).unsqueeze(0)
    alive_P = ~index.masks(batch.scenario_B, excluded_BE).empty(index.depth - 1, leaves_1P)[0]
    return Task(
        policy=policy,
        batch=batch,
        excluded_BE=excluded_BE,
        beams=beams,
        vectors_ND=policy.generator.item_vectors(index),
        live=[tuple(sid) for sid in index.sids[alive_P].tolist()],
    )


def ways_of(task: Task, setting: Setting) -> dict[str, Way]:
    """Returns what is timed, by name."""
    small = {"dense table": dense_table, "brute force": brute_force}

    def encode() -> list[Sid]:
        task.begin()
        return []

    return {
        OURS: ours(task, ScoreSemantics.LEGAL),
        "ours, raw": ours(task, ScoreSemantics.RAW),
        NO_MASKS: without_masks(task),
        "trie, beam by beam": trie_by_beam(task),
        **{name: make(task) for name, make in small.items() if not setting.is_large},
        "unconstrained": unconstrained(task),
        ENCODE: encode,
    }


def references_of(task: Task) -> dict[str, list[Sid]]:
    """Returns what each way must find: the beams that the width leaves over under its scores."""
    legal = kept_by_width(task, ScoreSemantics.LEGAL)
    raw = kept_by_width(task, ScoreSemantics.RAW)
    return {
        OURS: legal,
        "ours, raw": raw,
        "dense table": raw,
        "trie, beam by beam": raw,
        "brute force": legal,
    }


def timed(
    by_task: Sequence[Mapping[str, Callable[[], object]]], rounds: int
) -> dict[str, list[float]]:
    """Returns the ms of each round by way. The requests take turns; the ways an order drawn anew:
    the first compiled one behind eager ones took 50 us longer than the next (of 1,300).
    """
    rng = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in by_task[0]}
    until = time.monotonic() + BUDGET_S
    for number in range(WARM_UP + rounds):
        if number >= WARM_UP + FEWEST and time.monotonic() > until:
            break
        ways = by_task[number % len(by_task)]
        for name in rng.sample(list(ways), len(ways)):
            way = ways[name]
            way()  # untimed: caches hold its own weights and tables, not its neighbour's
            began = time.perf_counter()
            way()
            if number >= WARM_UP:
                times[name].append((time.perf_counter() - began) * 1e3)
    return times


def exactness(
    tasks: Sequence[Task],
    found: Sequence[list[Sid]],
    references: Sequence[list[Sid] | None],
) -> dict[str, Any]:
    """Returns invalid SIDs, count against min(W, live), recall of the reference; over all tasks."""
    invalid = sum(len(set(sids) - set(task.live)) for task, sids in zip(tasks, found, strict=True))
    wanted = [min(task.beams, len(task.live)) for task in tasks]
    recalls = [
        len(set(sids) & set(reference)) / len(reference)
        for sids, reference in zip(found, references, strict=True)
        if reference
    ]
    return {
        "invalid": invalid,
        "returned": sum(len(set(sids)) for sids in found),
        "wanted": sum(wanted),
        "recall": sum(recalls) / len(recalls) if recalls else None,
    }


def engine_times(policy: LoadedPolicy, setting: Setting, rounds: int) -> dict[str, float]:
    """Returns the median ms of `GeneratorEngine.generate`, requests in and ranked items out."""
    engine = GeneratorEngine(policy)
    times = {}
    for beams in WIDTHS:
        for batch in BATCHES[: None if setting.size == "tiny" else 1]:
            requests = [
                request_of(policy.index, beams, seed, setting.history) for seed in range(batch)
            ]
            found = timed([{"engine": partial(engine.generate, requests)}], rounds)
            times[f"batch {batch}, beam {beams}"] = median(found["engine"])
    return times


def _show_ways(title: str, measured: Mapping[str, Any]) -> None:
    show(
        f"{title}: one request, encoded and searched",
        ["way", "ms", "times ours", "invalid SIDs", "returned of min(W, live)", "recall"],
        [
            [
                name,
                f"{row['ms']:.2f}",
                f"{row['times_ours']:.2f}",
                *(
                    ["-"] * 3
                    if name == ENCODE
                    else [
                        row["invalid"],
                        f"{row['returned']} of {row['wanted']}",
                        "-" if row["recall"] is None else f"{row['recall']:.3f}",
                    ]
                ),
            ]
            for name, row in measured["ways"].items()
        ],
    )
    shares = ", ".join(
        f"{name} {share:.1%}" for name, share in measured["constraint_share"].items()
    )
    print(f"share of the constraints in the search: {shares}; {measured['rounds']} rounds")


def _show_engine(title: str, times: Mapping[str, float]) -> None:
    rows = [[name, f"{ms:.2f}"] for name, ms in times.items()]
    show(f"{title}: GeneratorEngine, requests to ranked items", ["requests", "ms"], rows)


if __name__ == "__main__":
    main()
