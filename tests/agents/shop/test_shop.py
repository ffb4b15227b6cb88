"""The simulated shop: reproducible, moved by season and weather, words before looks."""

from collections import Counter

from agents.shop.catalogue import LEAVES
from agents.shop.climate import CITIES, weather_of
from agents.shop.shop import Shop
from models.reasoning.surroundings import season_of
from schemas.actions import ActionType
from schemas.dead_letters import reject_action
from schemas.topics import DAY_MS

JULY_MS = 1_783_000_000_000  # 2026-07-02
SCENARIOS = frozenset({"home", "search", "detail"})


def test_a_seed_and_the_times_determine_everything() -> None:
    pasts = []
    for _ in range(2):
        shop = Shop(seed=5)
        shoppers = shop.shoppers(range(5))
        pasts.append((shop.catalogue(), shop.past(shoppers, until_ms=JULY_MS, days=20)))
    assert pasts[0] == pasts[1]
    other = Shop(seed=6)
    assert other.past(other.shoppers(range(5)), until_ms=JULY_MS, days=20) != pasts[0][1]


def test_the_catalogue_has_about_600_distinct_items_of_25_to_40_leaves() -> None:
    items = Shop(seed=1).catalogue()
    assert 550 <= len({item.item_id for item in items}) == len(items) <= 650
    assert 25 <= len({item.category for item in items}) <= 40
    assert all(" > " in item.category and item.price and item.title for item in items)
    assert 0 < sum(not item.in_stock for item in items) < 60
    assert any(item.scenarios for item in items)


def test_the_past_is_valid_ordered_and_over_before_its_end() -> None:
    shop = Shop(seed=1)
    past = shop.past(shop.shoppers(range(30)), until_ms=JULY_MS, days=30)
    times = [action.event_time_ms for action in past]
    assert times == sorted(times)
    assert times[0] >= JULY_MS - 30 * DAY_MS
    assert times[-1] <= JULY_MS + 1_000
    assert len({action.event_id for action in past}) == len(past)
    assert not [a for a in past if reject_action(a, now_ms=JULY_MS, scenarios=SCENARIOS)]


def test_words_come_before_looks_and_the_looks_follow_the_intent() -> None:
    shop = Shop(seed=2)
    category = {item.item_id: item.category for item in shop.catalogue()}
    searches = 0
    for shopper in shop.shoppers(range(60)):
        actions = shopper.next_actions(JULY_MS)
        wanted = shopper.wanted_category
        if actions[0].action is ActionType.SEARCH:
            searches += 1
            assert shopper.at_fresh_search
            actions = shopper.next_actions(JULY_MS + 1_000)
            assert not shopper.at_fresh_search
        looked_at = {category[a.item_id] for a in actions if a.item_id}
        assert len(looked_at) == 1
        assert looked_at == {wanted or looked_at.copy().pop()}  # None: an order ended it at once
    assert 25 <= searches <= 50


def test_a_search_opens_an_intent_that_the_last_clicks_do_not_show() -> None:
    shop = Shop(seed=3)
    category = {item.item_id: item.category for item in shop.catalogue()}
    same = total = 0
    for shopper in shop.shoppers(range(150)):
        past = shop.past([shopper], until_ms=JULY_MS, days=30)
        for _ in range(12):
            actions = shopper.next_actions(JULY_MS)
            if actions[0].action is ActionType.SEARCH:
                recent = [category[a.item_id] for a in past if a.item_id][-20:]
                same += shopper.wanted_category in recent
                total += 1
                break
            past += actions
    assert total > 100
    assert same / total < 0.4


def test_season_and_weather_move_the_demand() -> None:
    shop = Shop(seed=4)
    bought: dict[int, Counter[str]] = {}
    category = {item.item_id: item.category for item in shop.catalogue()}
    for months in (0, 6):
        until_ms = JULY_MS + months * 30 * DAY_MS
        past = shop.past(shop.shoppers(range(120)), until_ms=until_ms, days=25)
        north = [a for a in past if a.context and a.context.city in {"Helsinki", "Munich"}]
        bought[months] = Counter(category[a.item_id] for a in north if a.item_id)
    assert bought[0]["Cooling > Fans"] > 2 * bought[6]["Cooling > Fans"]
    assert bought[6]["Heating > Space Heaters"] > 2 * bought[0]["Heating > Space Heaters"]
    rainy = next(leaf for leaf in LEAVES if leaf.name == "Umbrellas")
    assert rainy.occasions["rain"] > 1


def test_weather_is_that_of_the_city_season() -> None:
    sydney = next(city for city in CITIES if city.name == "Sydney")
    assert season_of(JULY_MS, sydney.name, sydney.tz) == "winter"
    days = [weather_of(0, sydney, JULY_MS + day * DAY_MS) for day in range(50)]
    assert "snow" in days
    assert "heat" not in days


def test_a_slate_is_read_from_the_top_and_what_is_wanted_is_clicked() -> None:
    shop = Shop(seed=7)
    items = shop.catalogue()
    exposed: Counter[int] = Counter()
    clicks: Counter[bool] = Counter()
    shown: Counter[bool] = Counter()
    for shopper in shop.shoppers(range(300)):
        shopper.next_actions(JULY_MS)
        wanted = shopper.wanted_category
        slate = [item for item in items if item.category == wanted][:5]
        slate += [item for item in items if item.category != wanted][100:400:60]
        by_id = {item.item_id: item.category == wanted for item in slate}
        for action in shopper.react([i.item_id for i in slate], "request-1", JULY_MS + 500):
            assert action.request_id == "request-1"
            assert action.item_id is not None
            if action.action is ActionType.EXPOSE:
                exposed[action.position or 0] += 1
                shown[by_id[action.item_id]] += 1
            elif action.action is ActionType.CLICK:
                clicks[by_id[action.item_id]] += 1
    counts = [exposed[position] for position in range(10)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[9] > 0
    assert clicks[True] / shown[True] > 5 * clicks[False] / shown[False]


def test_unknown_items_and_an_empty_slate_are_passed_over() -> None:
    shopper = Shop(seed=1).shoppers([0])[0]
    assert shopper.react(["no-such-item"], "r", JULY_MS) == []
    assert shopper.react([], "r", JULY_MS) == []
