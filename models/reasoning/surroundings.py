"""Season and hour of a moment at a place: what a reasoner may know without asking anybody."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.actions import UserAction
from schemas.users import UserProfile

# Cities and IANA zones south of the equator, as far as producers are likely to name them.
SOUTHERN_PLACES = frozenset(
    (
        *(
            "adelaide",
            "auckland",
            "brisbane",
            "buenos aires",
            "cape town",
            "johannesburg",
            "la paz",
        ),
        *("lima", "melbourne", "montevideo", "perth", "porto alegre", "pretoria", "rio de janeiro"),
        *("santiago", "sao paulo", "sydney", "wellington"),
    )
)

SEASONS = ("winter", "spring", "summer", "autumn")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Time and place of a window's end; empty where nobody said. Words as producers wrote them."""

    season: str
    weekday: str
    day_part: str
    city: str
    weather: str
    holiday: str


def surroundings_of(
    window: Sequence[UserAction], profile: UserProfile | None, as_of_ms: int
) -> Surroundings:
    """Returns what the newest context of the window says; its city outweighs the profile's.

    Weather and holiday are told by the producer or unknown: nothing is looked up.
    """
    place = next((action.context for action in reversed(window) if action.context), None)
    city = (place.city if place else None) or (profile.city if profile else "")
    tz = place.tz if place else None
    return Surroundings(
        season=season_of(as_of_ms, city, tz),
        weekday=WEEKDAYS[local_time(as_of_ms, tz).weekday()],
        day_part=day_part_of(as_of_ms, tz),
        city=city,
        weather=(place.weather if place else None) or "",
        holiday=(place.holiday if place else None) or "",
    )


def is_southern(place: str) -> bool:
    """Returns whether a city or zone (`Australia/Sydney`) is known to lie in the south."""
    name = place.rsplit("/", maxsplit=1)[-1].replace("_", " ").strip().lower()
    return name in SOUTHERN_PLACES


def local_time(at_ms: int, tz: str | None = None) -> datetime:
    """Returns the wall-clock time at `at_ms` in `tz` (IANA name); UTC where it is unknown."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return moment.astimezone(_zone(tz or "UTC"))


def season_of(at_ms: int, place: str = "", tz: str | None = None) -> str:
    """Returns the meteorological season; months are turned by half a year south of the equator."""
    quarter = local_time(at_ms, tz).month % 12 // 3
    shift = 2 if is_southern(place) or is_southern(tz or "") else 0
    return SEASONS[(quarter + shift) % 4]


def day_part_of(at_ms: int, tz: str | None = None) -> str:
    """Returns morning (6-11), afternoon (12-17), evening (18-22) or night."""
    hour = local_time(at_ms, tz).hour
    if 6 <= hour < 12:
        return "morning"
    if 12 <= hour < 18:
        return "afternoon"
    return "evening" if 18 <= hour < 23 else "night"


@lru_cache(maxsize=1_024)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # producers send anything, paths included
        return ZoneInfo("UTC")
