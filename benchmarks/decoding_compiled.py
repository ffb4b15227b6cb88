"""What does a compiled decoding gain, and what do the masks cost in it?

Preset `tiny`, beam 50, one thread, random weights; eager and compiled ways decode the same requests
in turn, round by round, in one process; medians and p10 over the rounds, differences medians of
the rounds' differences. The compiled ways rank the items too, which the eager searches here do
not. Needs g++: three programs a setting are compiled first (minutes; --artifacts DIR keeps them).
--quick: 12,000 items alone, fewer rounds.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.decoding import (
    HUGGING_FACE,
    NO_MASKS,
    OURS,
    exactness,
    references_of,
    task_of,
    timed,
)
from benchmarks.decoding_transformers import TransformersWay, version
from benchmarks.decoding_ways import Sid, Task, Way, ours, without_masks
from benchmarks.decoding_world import Setting, policy_of, request_of
from benchmarks.report import finish, parser, show
from models.decoding.legal import ScoreSemantics
from models.generator.generator import RankedItems
from models.serving.compile_decoding import compile_program
from models.serving.compiled_decoding import CompiledDecoding
from models.serving.decoding_program import DecodingProgram, IndexTensors, TensorMasks
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy

BEAMS = 50
SETTINGS = [
    Setting(items=12_000, codes=256, clusters=300),
    Setting(items=200_000, codes=8_192),
    Setting(items=200_000, codes=8_192, history=200),
]
ROUNDS, QUICK_ROUNDS = 150, 20
BATCHES = (1, 8)
COMPILED = "ours, compiled"
COMPILED_NO_MASKS = "compiled without masks"
ENCODE, COMPILED_ENCODE = "encoding alone", "compiled encoding alone"


class NoMasks(TensorMasks):
    """Takes the place of masks; nothing of them is computed."""

    def __init__(self) -> None:
        """Reads nothing."""

    def close_roots(self, logprobs_BP: torch.Tensor) -> torch.Tensor:
        """Returns `logprobs_BP`."""
        return logprobs_BP

    def close(self, level: int, scores_BWK: torch.Tensor, nodes_BWK: torch.Tensor) -> torch.Tensor:
        """Returns `scores_BWK`."""
        return scores_BWK

    def among(self, ranked: RankedItems, leaves_BW: torch.Tensor) -> RankedItems:
        """Returns `ranked`."""
        return ranked


class WithoutMasks(DecodingProgram):
    """The program that serves, without any mask operation."""

    def masks(
        self, tensors: IndexTensors, scenario_B: torch.Tensor, excluded_BE: torch.Tensor
    ) -> TensorMasks:
        """Returns masks that mask nothing."""
        return NoMasks()


class Encoding(DecodingProgram):
    """The part of the program before the search."""

    def forward(
        self, request: Any, excluded_BE: torch.Tensor, index: Any
    ) -> tuple[torch.Tensor, ...]:
        """Returns the first state, and the context that the decoder attends to."""
        tensors = IndexTensors(*index)
        decoding = self.begin(self.batch_of(request), tensors)
        return (decoding.first_BD, *(part for both in decoding.contexts for part in both))


PROGRAMS: dict[str, type[DecodingProgram]] = {
    COMPILED: DecodingProgram,
    COMPILED_NO_MASKS: WithoutMasks,
    COMPILED_ENCODE: Encoding,
}


def main() -> None:
    """Prints a table a setting, and the engine's time for whole requests."""
    options = parser(__doc__)
    options.add_argument("--artifacts", type=Path, metavar="DIR", help="keep the programs there")
    given = options.parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    rounds = QUICK_ROUNDS if given.quick else ROUNDS
    results: dict[str, Any] = {"transformers": version(), "threads": 1, "beams": BEAMS}
    with TemporaryDirectory() as passing:
        folder = given.artifacts or Path(passing)
        for setting in SETTINGS[: 1 if given.quick else None]:
            policy = policy_of(setting)
            programs = {name: program(policy, name, folder) for name in PROGRAMS}
            title = f"{setting.items} items, V {setting.codes}, history {setting.history}"
            with torch.inference_mode():
                found = _measured(policy, programs, setting, rounds)
            results[title] = found | {"engine": _engines(policy, programs, setting, rounds)}
            _show(title, results[title])
    finish("decoding_compiled", results, started=started, path=given.json)


def program(policy: LoadedPolicy, name: str, folder: Path) -> CompiledDecoding:
    """Returns a compiled program, compiled now if the folder does not hold it."""
    generator = policy.generator
    path = folder / f"{name.replace(' ', '-')}-{generator.config.codes}.pt2"
    if not path.is_file():
        compile_program(PROGRAMS[name](generator, BEAMS), path)
    return CompiledDecoding(path, generator, BEAMS)


def compiled_way(task: Task, compiled: CompiledDecoding) -> Way:
    """One request's SIDs, from the compiled program."""
    index = task.policy.index
    sids_SL = index.sids

    def run() -> list[Sid]:
        decoded = compiled.decode(task.batch, task.excluded_BE, index, task.vectors_ND)
        found = decoded.found
        return [tuple(sid) for sid in sids_SL[found.leaves_BW[0][found.live_BW[0]]].tolist()]

    return run


def _measured(
    policy: LoadedPolicy, programs: Mapping[str, CompiledDecoding], setting: Setting, rounds: int
) -> dict[str, Any]:
    task = task_of(policy, setting, BEAMS, seed=0)
    encode = partial(
        programs[COMPILED_ENCODE].outputs,
        task.batch,
        task.excluded_BE,
        policy.index,
        task.vectors_ND,
    )
    ways: dict[str, Any] = {
        OURS: ours(task, ScoreSemantics.LEGAL),
        NO_MASKS: without_masks(task),
        ENCODE: task.begin,
        COMPILED: compiled_way(task, programs[COMPILED]),
        COMPILED_NO_MASKS: compiled_way(task, programs[COMPILED_NO_MASKS]),
        COMPILED_ENCODE: encode,
    }
    references = {**references_of(task)}
    references[COMPILED] = references[OURS]
    if version():
        hugging_face = TransformersWay(task)
        ways[HUGGING_FACE] = hugging_face.way()
        references[HUGGING_FACE] = hugging_face.kept_by_width()
    each = timed([ways], rounds)
    exact = (OURS, COMPILED, HUGGING_FACE)
    rows = {
        name: figures(found)
        | (exactness([task], [ways[name]()], [references[name]]) if name in exact else {})
        for name, found in each.items()
    }
    shares = {
        OURS: _share(each[OURS], each[NO_MASKS], each[ENCODE]),
        COMPILED: _share(each[COMPILED], each[COMPILED_NO_MASKS], each[COMPILED_ENCODE]),
    }
    return {"ways": rows, "rounds": len(each[OURS]), "constraint_share": shares}


def figures(times: list[float]) -> dict[str, Any]:
    """Returns median and p10 in ms."""
    return {"ms": median(times), "p10_ms": quantiles(times, n=10)[0]}


def _share(masked: list[float], free: list[float], before: list[float]) -> dict[str, float]:
    """Returns the masks' share of a request, and of the search alone."""
    own = median(a - b for a, b in zip(masked, free, strict=True))
    search = median(a - b for a, b in zip(masked, before, strict=True))
    return {"of the request": own / median(masked), "of the search": own / search}


def _engines(
    policy: LoadedPolicy, programs: Mapping[str, CompiledDecoding], setting: Setting, rounds: int
) -> dict[str, Any]:
    eager = GeneratorEngine(policy)
    compiled = GeneratorEngine(policy, compiled=programs[COMPILED])
    found: dict[str, Any] = {}
    for batch in BATCHES:
        asked = [request_of(policy.index, BEAMS, seed, setting.history) for seed in range(batch)]
        ways = {
            "eager": partial(eager.generate, asked),
            "compiled": partial(compiled.generate, asked),
        }
        for name, times in timed([ways], rounds).items():
            found[f"{name}, batch {batch}"] = figures(times)
    return found


def _show(title: str, measured: Mapping[str, Any]) -> None:
    for name, rows in (("ways", measured["ways"]), ("whole requests", measured["engine"])):
        show(
            f"{title}: {name}",
            ["way", "ms", "p10, ms", "invalid SIDs", "recall"],
            [
                [way, f"{row['ms']:.2f}", f"{row['p10_ms']:.2f}"]
                + [str(row.get(field, "-")) for field in ("invalid", "recall")]
                for way, row in rows.items()
            ],
        )
    for way, shares in measured["constraint_share"].items():
        told = ", ".join(f"{share:.1%} {what}" for what, share in shares.items())
        print(f"{way}: the masks' share is {told}; {measured['rounds']} rounds")


if __name__ == "__main__":
    main()
