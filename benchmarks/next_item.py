"""Does an instruction help to find the next item of real users? HR@K on Amazon Beauty.

Leave-one-out, full ranking over all items: trained on the rows `train`, asked for `test` with the
validation item in the history. Reduced to what two CPU cores train: preset tiny, semantic IDs from
text alone, a few epochs, a sample of the users. Each user is asked with the own instruction, with
the learnable default, and with another user's; instructions are the local reasoner's, replayed as
served (day timestamps: they do not go stale). Items of the history are left out in every row.
Data: a folder with items.parquet and interactions.parquet (`--data`). --quick: 150 steps, one seed.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec.structs import replace
from pyarrow import parquet
from scipy.sparse import csr_matrix, diags

from agents.demo.training_windows import served_windows
from agents.settings import Settings
from benchmarks.report import finish, parser, show
from models.decoding.item_index import ItemIndex
from models.evaluation.steering import paired_difference, shuffled
from models.features import build_history
from models.generator.files import load_generator
from models.reasoning.item_text import item_text
from models.reasoning.local_reasoner import LocalReasoner
from models.reasoning.text_encoder import CharacterEncoder
from models.semantic_ids.assignment import Codebooks
from models.semantic_ids.residual_kmeans import ResidualKMeansConfig
from models.serving.engine import GeneratorEngine
from models.serving.policy_directory import LoadedPolicy, Manifest
from models.training.fit import FitConfig, FitProgress, Log, fit_generation
from models.training.folder import SPACING_MS, FolderData, read_folder
from models.training.instructions import InstructionReplay, behaviour_of, item_rows
from models.training.training_loop import TrainingConfig
from models.vectors import pack
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.generation import GenerationRequest, GenerationResponse
from schemas.topics import DAY_MS

SCENARIO = "home"
CODES = 256
STEPS, QUICK_STEPS = 1_800, 150
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
USERS, QUICK_USERS = 4_000, 500
BEAMS = 50
KS = (5, 10)
BATCH = 16
DEFAULT_DATA = Path("../shared/data/amazon14_beauty")
CONDITIONS = ("own instruction", "learnable default", "another user's")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One user to ask for: what was done before, the item to find, and the instruction's text."""

    past: list[UserAction]
    target_key: int
    instruction: str


def main() -> None:
    """Prints HR@5 and HR@10 by condition and seed, differences with intervals, and baselines."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=DEFAULT_DATA, metavar="DIR")
    options.add_argument("--steps", type=int, metavar="N", help="training steps a seed")
    given = options.parse_args()
    started = time.monotonic()
    steps = given.steps or (QUICK_STEPS if given.quick else STEPS)
    data = read_folder(given.data)
    cases = _cases(given.data, data, QUICK_USERS if given.quick else USERS)
    results: dict[str, Any] = {
        "users": len(cases),
        "steps": steps,
        "baselines": _baselines(data, cases),
    }
    results["seeds"] = [
        _seed(data, cases, seed, steps) for seed in (QUICK_SEEDS if given.quick else SEEDS)
    ]
    _report(results)
    finish("next_item", results, started=started, path=given.json)


def _cases(folder: Path, data: FolderData, users: int) -> list[Case]:
    """Returns a fixed sample of users, with instructions as serving would hold them."""
    settings = Settings()
    replay = InstructionReplay(
        reasoner=LocalReasoner(),
        windows=served_windows(settings, expire=False),
        items=item_rows(data.items),
        profiles={},
    )
    past: defaultdict[str, list[UserAction]] = defaultdict(list)
    for action in data.actions:
        past[action.user_id].append(action)
    target: dict[str, tuple[int, int]] = {}
    for row in parquet.read_table(folder / "interactions.parquet").to_pylist():
        user, at_ms = str(row["user_id"]), row["day"] * DAY_MS + row["pos"] * SPACING_MS
        if row["split"] == "valid":
            past[user].append(_bought(user, str(row["item_id"]), at_ms))
        elif row["split"] == "test":
            target[user] = (item_key_of(str(row["item_id"])), at_ms)
    known = sorted(target.keys() & past.keys())
    chosen = np.random.default_rng(0).choice(len(known), min(users, len(known)), replace=False)
    cases = []
    for user in (known[place] for place in sorted(chosen)):
        actions = sorted(past[user], key=lambda action: action.event_time_ms)
        key, _ = target[user]
        newest = replay.instructions_of(user, actions)[-1]
        cases.append(Case(past=actions, target_key=key, instruction=newest.reasoning.text))
    return cases


def _bought(user: str, item_id: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id=f"valid-{user}",
        user_id=user,
        action=ActionType.ORDER,
        event_time_ms=at_ms,
        item_id=item_id,
    )


def _seed(data: FolderData, cases: Sequence[Case], seed: int, steps: int) -> dict[str, Any]:
    began = time.monotonic()
    log = Log(
        items=data.items,
        actions=data.actions,
        windows=served_windows(Settings(), expire=False),
        scenarios=[SCENARIO],
    )
    config = FitConfig(
        max_rows=len(data.actions),
        codebooks=ResidualKMeansConfig(codes=CODES),
        training=TrainingConfig(steps=steps, seed=seed),
    )
    with TemporaryDirectory() as folder:
        fitted = fit_generation(
            log, home=Path(folder), generation=1, created_ms=0, config=config, progress=_say
        )
        trained_s = time.monotonic() - began
        engine, encoder = _engine(Path(folder) / "generations" / "1", data)
    ranks = _ranks(engine, encoder, cases, seed)
    return {
        "seed": seed,
        "training_s": round(trained_s, 1),
        "semantic_ids": fitted.distinct_semantic_ids,
        "code_ce": fitted.code_ce,
        **{name: _hits(found) for name, found in ranks.items()},
        "own - default": _gap(ranks, "learnable default"),
        "own - another user's": _gap(ranks, "another user's"),
    }


def _say(progress: FitProgress) -> None:
    if progress.done == progress.total or progress.done % 200 == 0:
        print(f"  {progress.stage}: {progress.done}/{progress.total} {progress.note}", flush=True)


def _engine(folder: Path, data: FolderData) -> tuple[GeneratorEngine, CharacterEncoder]:
    encoder, books = CharacterEncoder.load(folder), Codebooks.load(folder)
    content = encoder.encode([item_text(item) for item in data.items])
    index = ItemIndex.build(
        keys=torch.tensor([item_key_of(item.item_id) for item in data.items]),
        codes=torch.from_numpy(books.assign(content)),
        content=torch.from_numpy(content),
    )
    manifest = Manifest(
        policy_version=1, generation=1, index_offset=0, scenarios=[SCENARIO], created_ms=0
    )
    policy = LoadedPolicy(manifest=manifest, generator=load_generator(folder), index=index)
    return GeneratorEngine(policy), encoder


def _ranks(
    engine: GeneratorEngine, encoder: CharacterEncoder, cases: Sequence[Case], seed: int
) -> dict[str, list[int | None]]:
    """Returns the target's place by condition and user, None where it is not among the beams."""
    vectors = [pack(vector) for vector in encoder.encode([case.instruction for case in cases])]
    others = shuffled(len(cases), np.random.default_rng(seed))
    given: dict[str, list[bytes | None]] = {
        "own instruction": [*vectors],
        "learnable default": [None] * len(cases),
        "another user's": [vectors[other] for other in others],
    }
    asked = [_request(case) for case in cases]
    return {
        name: [
            _place(answer, case.target_key)
            for answer, case in zip(_answers(engine, asked, of_name), cases, strict=True)
        ]
        for name, of_name in given.items()
    }


def _request(case: Case) -> GenerationRequest:
    behaviour = [behaviour_of(action) for action in case.past]
    history = build_history(behaviour, case.past[-1].event_time_ms + DAY_MS, 20)
    return GenerationRequest(
        scenario=SCENARIO,
        history=history,
        beams=BEAMS,
        exclude_keys=sorted({one.item_key for one in behaviour if one.item_key is not None}),
    )


def _answers(
    engine: GeneratorEngine,
    asked: Sequence[GenerationRequest],
    instructions: Sequence[bytes | None],
) -> list[GenerationResponse]:
    requests = [replace(a, instruction=i) for a, i in zip(asked, instructions, strict=True)]
    found = []
    for start in range(0, len(requests), BATCH):
        for answer in engine.generate(requests[start : start + BATCH]):
            if not isinstance(answer, GenerationResponse):
                raise answer
            found.append(answer)
    return found


def _place(answer: GenerationResponse, target_key: int) -> int | None:
    keys = [item.item_key for item in answer.items]
    return keys.index(target_key) if target_key in keys else None


def _hits(ranks: Sequence[int | None]) -> dict[str, float]:
    return {f"HR@{k}": mean(_hit(rank, k) for rank in ranks) for k in KS}


def _hit(rank: int | None, k: int) -> float:
    return float(rank is not None and rank < k)


def _gap(ranks: Mapping[str, Sequence[int | None]], other: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for k in KS:
        one, two = ([_hit(rank, k) for rank in ranks[name]] for name in ("own instruction", other))
        gap = paired_difference(one, two, np.random.default_rng(0))
        found[f"HR@{k}"] = [gap.mean, gap.low, gap.high]
    return found


def _baselines(data: FolderData, cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Returns popularity and item co-occurrence (cosine over users), both of `train` alone."""
    place = {item.item_id: row for row, item in enumerate(data.items)}
    keys = [item_key_of(item.item_id) for item in data.items]
    users = {user: row for row, user in enumerate({action.user_id for action in data.actions})}
    rows = [users[action.user_id] for action in data.actions]
    columns = [place[action.item_id or ""] for action in data.actions]
    bought = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(users), len(place)))
    bought.data[:] = 1.0
    counts = np.asarray(bought.sum(axis=0)).ravel()
    scale = diags(1 / np.sqrt(np.maximum(counts, 1)))
    near = csr_matrix(scale @ (bought.T @ bought) @ scale)
    found: dict[str, list[int | None]] = {"popularity": [], "item co-occurrence": []}
    target_place = {key: row for row, key in enumerate(keys)}
    for case in cases:
        history = [place[action.item_id or ""] for action in case.past]
        target = target_place[case.target_key]
        scores = np.asarray(near[history].sum(axis=0)).ravel() + 1e-9 * counts
        for name, of_name in (("popularity", counts), ("item co-occurrence", scores)):
            found[name].append(_rank(of_name, history, target))
    return {name: _hits(ranks) for name, ranks in found.items()}


def _rank(scores: npt.NDArray[np.float64], history: Sequence[int], target: int) -> int:
    """Returns how many items outside of the history score higher than the target."""
    better = scores > scores[target]
    better[list(history)] = False
    return int(better.sum())


def _report(results: dict[str, Any]) -> None:
    for k in KS:
        name = f"HR@{k}"
        rows: list[list[object]] = [
            [baseline, *(f"{found[name]:.4f}" for _ in results["seeds"])]
            for baseline, found in results["baselines"].items()
        ]
        rows += [
            [condition, *(f"{seed[condition][name]:.4f}" for seed in results["seeds"])]
            for condition in CONDITIONS
        ]
        for gap in ("own - default", "own - another user's"):
            cells = ("{:+.4f} [{:+.4f}, {:+.4f}]".format(*s[gap][name]) for s in results["seeds"])
            rows.append([gap, *cells])
        columns = [name, *(f"seed {seed['seed']}" for seed in results["seeds"])]
        show(f"{results['users']} users, {results['steps']} steps", columns, rows)


if __name__ == "__main__":
    main()
