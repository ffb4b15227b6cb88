"""Simulated users at the moment a window has closed: what serving would know, and what they want.

A case is made at the instant at which the instruction of the window is there. What the shopper
wants comes from the simulator, what the generator is given from the log up to that instant.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from agents.shop.shop import Shop
from agents.shop.shoppers import Shopper
from models.features import build_history
from models.training.examples import chooses
from models.training.instructions import InstructionReplay, behaviour_of
from schemas.actions import ActionType, UserAction
from schemas.catalog import item_key_of
from schemas.impressions import HistoryFeatures

TRIES = 40  # steps after which a shopper who has not done what is looked for is left out


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringCase:
    """One request. `fresh`: nothing was chosen since the words were said, so history is silent."""

    user_id: str
    at_ms: int
    wanted: str
    target_key: int
    history: HistoryFeatures
    instruction: str
    fresh: bool
    query: str


def cases(
    shop: Shop,
    numbers: Iterable[int],
    replay: InstructionReplay,
    *,
    until_ms: int,
    days: int,
    recent: int,
    with_search: bool,
) -> list[SteeringCase]:
    """Returns at most one case a shopper: the first window after `until_ms` of the asked kind."""
    found = []
    for shopper in shop.shoppers(numbers):
        lived = shop.past([shopper], until_ms=until_ms, days=days)
        for _ in range(TRIES):
            step = shopper.advance(shopper.due_ms + 1)
            lived += step
            if not replay.windows.high_value_of(step):
                continue
            case = _case(shopper, lived, replay, recent)
            if case is not None and case[1] is with_search:
                found.append(case[0])
                break
    return found


def _case(
    shopper: Shopper, lived: list[UserAction], replay: InstructionReplay, recent: int
) -> tuple[SteeringCase, bool] | None:
    """Waits until the newest window has closed; None when the shopper wants nothing then."""
    windows = replay.windows
    start_ms = windows.start_of(shopper.user_id, lived[-1].event_time_ms)
    at_ms = start_ms + windows.window_ms + windows.grace_ms
    lived += shopper.advance(at_ms)
    wanted = shopper.wanted_category
    known = [action for action in lived if action.event_time_ms < at_ms]
    window = [
        action
        for action in windows.high_value_of(known)
        if start_ms <= action.event_time_ms < start_ms + windows.window_ms
    ]
    searched = [action for action in window if action.action is ActionType.SEARCH]
    if wanted is None or not window:
        return None
    instruction = replay.in_force(replay.instructions_of(shopper.user_id, known), at_ms)
    target = _next_choice(shopper, lived)
    if instruction is None or target is None:
        return None
    behaviour = [behaviour_of(action) for action in known]
    since_ms = searched[-1].event_time_ms if searched else 0
    case = SteeringCase(
        user_id=shopper.user_id,
        at_ms=at_ms,
        wanted=wanted,
        target_key=target,
        history=build_history(behaviour, at_ms, recent),
        instruction=instruction.reasoning.text,
        query=(searched[-1].query or "") if searched else "",
        fresh=bool(searched)
        and not any(b.event_time_ms > since_ms and chooses(b) for b in behaviour),
    )
    return case, bool(searched)


def _next_choice(shopper: Shopper, lived: list[UserAction]) -> int | None:
    """Lets the shopper take the next step and returns the item chosen in it."""
    step = shopper.advance(shopper.due_ms + 1)
    lived += step
    return next((item_key_of(action.item_id) for action in step if action.item_id), None)
