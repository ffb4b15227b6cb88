"""Where the demo's catalogue and customers come from: a simulated shop, or a data folder replayed.

Both are determined by their arguments, so the training process and the demo see the same past.
"""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Protocol

from msgspec.structs import replace

from agents.exit_codes import ExitCode
from agents.shop.shop import Shop
from agents.shop.shoppers import Shopper
from models.training.folder import FolderData, read_folder
from models.training.rows import UnusableFolder
from schemas.actions import ActionType, UserAction
from schemas.catalog import ItemUpsert
from schemas.errors import OxygenRecError
from schemas.users import UserProfile

POPULATION = 600  # shoppers whose past is learnt from
DAYS = 60
CUSTOMERS = 48  # of them shop live: each asks every 2-3 s at 20 requests/s
REPLAYED = 200  # users of a data folder that live on
HELD_OUT = 6  # interactions of theirs that are still to come
REMEMBERED = 50  # actions of a customer that history starts with


class DataUnusable(OxygenRecError):
    """A data folder cannot be replayed; the message ends with the command that mends it."""

    exit_code = ExitCode.MISSING

    def __init__(self, *, folder: Path, found: str, wanted: str) -> None:
        self.folder = folder
        super().__init__(
            f"data folder {folder}: found {found}, wanted {wanted};"
            " `oxygenrec demo` without --data runs on the simulated shop"
        )


class Customer(Protocol):
    """One who acts, is shown slates and reacts to them."""

    @property
    def user_id(self) -> str: ...
    def next_actions(self, now_ms: int) -> list[UserAction]:
        """Does the next thing by itself."""
        ...

    def react(
        self, item_ids: list[str], request_id: str, now_ms: int, scenario: str = "home"
    ) -> list[UserAction]:
        """Looks at a slate and does something about it."""
        ...


class Source(Protocol):
    """A catalogue, a past to learn from, and customers who go on."""

    @property
    def name(self) -> str: ...
    @property
    def telling(self) -> ActionType:
        """The action after which an instruction says something new."""
        ...

    @property
    def timed(self) -> bool:
        """Whether the past has times finer than a day."""
        ...

    def items(self) -> Sequence[ItemUpsert]:
        """Returns the catalogue."""
        ...

    def past(self) -> list[UserAction]:
        """Returns everybody's past up to now, by time."""
        ...

    def remembered(self) -> list[UserAction]:
        """Returns the newest of the customers' past, by time: what history starts with."""
        ...

    def profiles(self) -> list[UserProfile]:
        """Returns what is known of the users beside their behaviour."""
        ...

    def customers(self) -> Sequence[Customer]:
        """Returns those who act now, in the state that their past left them in."""
        ...


class SimulatedSource:
    """The simulated shop. Its shoppers are its customers."""

    name = "simulated shop"
    telling = ActionType.SEARCH
    timed = True

    def __init__(self, seed: int, until_ms: int) -> None:
        self._shop = Shop(seed, opened_ms=until_ms)
        self._until_ms = until_ms
        self._customers = self._shop.shoppers(range(CUSTOMERS))
        self._lived = self._live(self._customers)

    def items(self) -> Sequence[ItemUpsert]:
        """Returns the catalogue."""
        return self._shop.catalogue()

    def past(self) -> list[UserAction]:
        """Returns what all shoppers did in the last `DAYS` days: seconds of work."""
        others = self._live(self._shop.shoppers(range(CUSTOMERS, POPULATION)))
        return sorted(self._lived + others, key=lambda action: action.event_time_ms)

    def remembered(self) -> list[UserAction]:
        """Returns the newest actions of each customer."""
        return newest_of(self._lived, self._customers)

    def profiles(self) -> list[UserProfile]:
        """Returns every shopper's profile."""
        return [shopper.profile for shopper in self._shop.shoppers(range(POPULATION))]

    def customers(self) -> Sequence[Customer]:
        """Returns the first shoppers."""
        return self._customers

    def _live(self, shoppers: list[Shopper]) -> list[UserAction]:
        return self._shop.past(shoppers, until_ms=self._until_ms, days=DAYS)


class ReplayedUser:
    """A user of a data folder: takes the items that the data says, in their order."""

    def __init__(self, user_id: str, coming: Sequence[str]) -> None:
        self.user_id = user_id
        self._coming = list(coming)
        self._sent = 0

    def next_actions(self, now_ms: int) -> list[UserAction]:
        """Does nothing by itself: the data has no searches and no browsing."""
        return []

    def react(
        self, item_ids: list[str], request_id: str, now_ms: int, scenario: str = "home"
    ) -> list[UserAction]:
        """Sees the whole slate and orders the item that comes next, on the slate or elsewhere."""
        actions = [
            self._action(ActionType.EXPOSE, now_ms + place, item_id, request_id, place, scenario)
            for place, item_id in enumerate(item_ids)
        ]
        if self._coming:
            chosen = self._coming.pop(0)
            place = item_ids.index(chosen) if chosen in item_ids else None
            request = None if place is None else request_id
            at_ms = now_ms + len(item_ids)
            actions.append(self._action(ActionType.ORDER, at_ms, chosen, request, place, scenario))
        return actions

    def _action(
        self,
        kind: ActionType,
        at_ms: int,
        item_id: str,
        request_id: str | None,
        position: int | None,
        scenario: str,
    ) -> UserAction:
        self._sent += 1
        return UserAction(
            event_id=f"{self.user_id}-{at_ms}-{self._sent}",
            user_id=self.user_id,
            action=kind,
            event_time_ms=at_ms,
            item_id=item_id,
            request_id=request_id,
            position=position,
            scenario=scenario,
        )


class ReplayedSource:
    """A data folder, its last moment moved to now (`until_ms`; None: where it is). The end of some
    users is still to come.
    """

    telling = ActionType.ORDER

    def __init__(self, folder: Path, seed: int, until_ms: int | None) -> None:
        """Reads the folder. Raises `DataUnusable`."""
        self.name = folder.resolve().name
        data = _read(folder)
        self.timed = not data.day_resolution
        self._items = data.items
        self._by_user: dict[str, list[UserAction]] = {}
        for action in data.actions:
            self._by_user.setdefault(action.user_id, []).append(action)
        self._shift_ms = 0 if until_ms is None else until_ms - data.actions[-1].event_time_ms
        lasting = [u for u, done in self._by_user.items() if len(done) >= 2 * HELD_OUT]
        users = lasting or list(self._by_user)
        self._live = set(Random(seed).sample(users, min(REPLAYED, len(users))))

    def items(self) -> Sequence[ItemUpsert]:
        """Returns the catalogue."""
        return self._items

    def past(self) -> list[UserAction]:
        """Returns every interaction that is not still to come, the data's last day as today."""
        kept = [
            replace(action, event_time_ms=action.event_time_ms + self._shift_ms)
            for user, done in self._by_user.items()
            for action in (done[:-HELD_OUT] if user in self._live else done)
        ]
        return sorted(kept, key=lambda action: (action.event_time_ms, action.event_id))

    def remembered(self) -> list[UserAction]:
        """Returns the newest actions of each customer."""
        return newest_of(self.past(), self.customers())

    def profiles(self) -> list[UserProfile]:
        """Returns nothing: the data knows no profiles."""
        return []

    def customers(self) -> Sequence[Customer]:
        """Returns the users who live on."""
        return [
            ReplayedUser(user, [str(action.item_id) for action in self._by_user[user][-HELD_OUT:]])
            for user in sorted(self._live)
        ]


def _read(folder: Path) -> FolderData:
    try:
        data = read_folder(folder)
    except UnusableFolder as error:
        raise DataUnusable(folder=folder, found=error.found, wanted=error.wanted) from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
        raise DataUnusable(folder=folder, found=str(error), wanted="Parquet files") from error
    if not data.actions:
        found = "no interaction with an item of items.parquet"
        raise DataUnusable(folder=folder, found=found, wanted="some")
    return data


def open_source(data: Path | None, seed: int, until_ms: int) -> Source:
    """Returns the source of a demo. Raises `DataUnusable`."""
    if data is None:
        return SimulatedSource(seed, until_ms)
    return ReplayedSource(data, seed, until_ms)


def newest_of(past: Sequence[UserAction], customers: Sequence[Customer]) -> list[UserAction]:
    """Returns the newest `REMEMBERED` actions of each customer, by time."""
    by_user: dict[str, list[UserAction]] = {customer.user_id: [] for customer in customers}
    for action in past:
        if action.user_id in by_user:
            by_user[action.user_id].append(action)
    kept = [action for actions in by_user.values() for action in actions[-REMEMBERED:]]
    return sorted(kept, key=lambda action: action.event_time_ms)
