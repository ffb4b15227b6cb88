"""Cities of the simulated shop and their weather: the same seed, city and day, the same weather."""

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from models.reasoning.surroundings import season_of
from schemas.topics import DAY_MS

# Share of days by season; the rest of the days are mild and push nobody to anything.
WEATHER_SHARES: dict[str, dict[str, float]] = {
    "winter": {"snow": 0.35, "rain": 0.25, "sun": 0.1},
    "spring": {"rain": 0.35, "sun": 0.3},
    "summer": {"heat": 0.4, "sun": 0.3, "rain": 0.1},
    "autumn": {"rain": 0.5, "sun": 0.15},
}
MILD = "mild"


@dataclass(frozen=True, slots=True)
class City:
    """Where shoppers live; `tz` is the IANA name."""

    name: str
    tz: str


CITIES: tuple[City, ...] = (
    City("Helsinki", "Europe/Helsinki"),
    City("Lisbon", "Europe/Lisbon"),
    City("Munich", "Europe/Berlin"),
    City("Toronto", "America/Toronto"),
    City("Chicago", "America/Chicago"),
    City("Osaka", "Asia/Tokyo"),
    City("Sydney", "Australia/Sydney"),
    City("Cape Town", "Africa/Johannesburg"),
    City("Santiago", "America/Santiago"),
)


def weather_of(seed: int, city: City, at_ms: int) -> str:
    """Returns rain, snow, heat, sun or mild: one kind of weather a city and day."""
    return _weather(seed, city, at_ms // DAY_MS)


@lru_cache(maxsize=4_096)
def _weather(seed: int, city: City, day: int) -> str:
    draw = Random(f"{seed}:{city.name}:{day}").random()
    season = season_of(day * DAY_MS, city.name, city.tz)
    for weather, share in WEATHER_SHARES[season].items():
        if draw < share:
            return weather
        draw -= share
    return MILD
