"""Who is asked in the benchmark `next_item`: users, what they had done, and what came next."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyarrow import parquet

from agents.demo.training_windows import served_windows
from agents.settings import Settings
from models.reasoning.local_reasoner import LocalReasoner
from models.training.folder import SPACING_MS, FolderData
from models.training.instructions import InstructionReplay, item_rows
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.topics import DAY_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One user to ask for: what was done before, the item to find, and the instruction's text."""

    past: list[UserAction]
    target_key: int
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """`test`: the last item of a fixed sample of users, after all others. `validation`: the last
    but one of other users, after what is trained on: weights are chosen there.
    """

    test: list[Case]
    validation: list[Case]


def cases_of(folder: Path, data: FolderData, users: int, validation_users: int) -> Cases:
    """Returns samples drawn once, with instructions as serving would hold them."""
    replay = InstructionReplay(
        reasoner=LocalReasoner(),
        windows=served_windows(Settings(), expire=False),
        items=item_rows(data.items),
        profiles={},
    )
    past: defaultdict[str, list[UserAction]] = defaultdict(list)
    for action in data.actions:
        past[action.user_id].append(action)
    held: dict[str, dict[str, UserAction]] = {"valid": {}, "test": {}}
    for row in parquet.read_table(folder / "interactions.parquet").to_pylist():
        if row["split"] in held:
            user, at_ms = str(row["user_id"]), row["day"] * DAY_MS + row["pos"] * SPACING_MS
            held[row["split"]][user] = _bought(user, str(row["item_id"]), at_ms)
    known = sorted(held["test"].keys() & (past.keys() | held["valid"].keys()))
    drawn = np.random.default_rng(0).choice(len(known), min(users, len(known)), replace=False)
    asked = {known[place] for place in drawn}
    others = sorted((held["valid"].keys() & past.keys()) - asked)
    count = min(validation_users, len(others))
    drawn = np.random.default_rng(1).choice(len(others), count, replace=False)
    judging = {user: past[user] for user in (others[place] for place in sorted(drawn))}
    seen = {u: past[u] + [held["valid"][u]] * (u in held["valid"]) for u in sorted(asked)}
    return Cases(
        test=_asked(replay, seen, held["test"]), validation=_asked(replay, judging, held["valid"])
    )


def _asked(
    replay: InstructionReplay,
    past: Mapping[str, list[UserAction]],
    targets: Mapping[str, UserAction],
) -> list[Case]:
    cases = []
    for user, unsorted in past.items():
        actions = sorted(unsorted, key=lambda action: action.event_time_ms)
        newest = replay.instructions_of(user, actions)[-1]
        key = item_key_of(targets[user].item_id or "")
        cases.append(Case(past=actions, target_key=key, instruction=newest.reasoning.text))
    return cases


def _bought(user: str, item_id: str, at_ms: int) -> UserAction:
    return UserAction(
        event_id=f"held-out-{user}",
        user_id=user,
        action=ActionType.ORDER,
        event_time_ms=at_ms,
        item_id=item_id,
    )
