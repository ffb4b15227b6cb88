"""The simulated shop's assortment: 32 leaf categories, the words of titles and of searches.

Shoppers often search with words that no title has (`search_words`), so a query is evidence that has
to be learnt, not matched. `occasions` multiply the demand: seasons and kinds of weather.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from schemas.catalog import ItemUpsert

ITEMS_PER_LEAF = 19  # 32 * 19 = 608 items
OUT_OF_STOCK_SHARE = 0.03
NOT_ON_DETAIL_SHARE = 0.05
WISH_SHARE = 0.3
WISHES = ("best", "cheap", "good", "gift", "new", "for kids", "for two", "small", "big", "light")
MISSPELT_SHARE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One leaf category: `nouns` and `styles` make titles, `search_words` are said instead."""

    category: str
    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    search_words: tuple[str, ...]
    prices: tuple[int, int]
    occasions: Mapping[str, float] = field(default_factory=dict)

    @property
    def department(self) -> str:
        return self.category.split(" > ")[0]

    @property
    def name(self) -> str:
        return self.category.split(" > ")[-1]


def _leaf(
    category: str,
    nouns: str,
    styles: str,
    search_words: str,
    prices: tuple[int, int],
    **occasions: float,
) -> Leaf:
    return Leaf(
        category=category,
        nouns=tuple(nouns.split("|")),
        styles=tuple(styles.split("|")),
        search_words=tuple(search_words.split("|")),
        prices=prices,
        occasions=occasions,
    )


LEAVES: tuple[Leaf, ...] = (
    _leaf("Outdoor > Umbrellas", "Folding Umbrella|Stick Umbrella|Golf Umbrella",
          "Windproof|Compact|Automatic", "brolly|keep dry walking|storm cover", (9, 45), rain=7.0),
    _leaf("Outdoor > Rain Boots", "Rain Boots|Rubber Boots|Ankle Wellies",
          "Waterproof|Lined|Matte", "gumboots|puddle shoes|wet feet", (19, 80), rain=5.0),
    _leaf("Outdoor > Tents", "Dome Tent|Tunnel Tent|Trekking Tent",
          "Two Person|Ultralight|Family", "camping shelter|sleep outside|bivouac", (59, 340),
          summer=4.0),
    _leaf("Outdoor > Sleeping Bags", "Sleeping Bag|Mummy Bag|Camping Quilt",
          "Down|Three Season|Packable", "warm night camping|bedroll|slumber sack", (35, 220),
          summer=3.0),
    _leaf("Outdoor > Snow Gear", "Snow Shovel|Ice Scraper|Snow Sled",
          "Telescopic|Foldable|Heavy Duty", "clear driveway|frozen windshield|toboggan",
          (12, 70), winter=3.0, snow=7.0),
    _leaf("Cooling > Fans", "Tower Fan|Desk Fan|Pedestal Fan",
          "Oscillating|Quiet|USB", "ventilator|cool bedroom|air blower", (18, 120),
          heat=8.0, summer=2.0),
    _leaf("Cooling > Air Conditioners",
          "Portable Air Conditioner|Window Air Conditioner|Evaporative Cooler",
          "Smart|Energy Saving|Compact", "ac unit|aircon|lower room temperature", (160, 620),
          heat=6.0),
    _leaf("Cooling > Ice Makers", "Ice Maker|Ice Cube Machine|Crushed Ice Maker",
          "Countertop|Fast|Stainless", "frozen cubes|cold drinks party|slush", (45, 210), heat=4.0),
    _leaf("Heating > Space Heaters", "Ceramic Heater|Oil Radiator|Infrared Heater",
          "Fast|Thermostat|Slim", "warm up office|cold room help|electric stove", (29, 180),
          winter=5.0),
    _leaf("Heating > Blankets", "Fleece Blanket|Heated Throw|Wool Blanket",
          "Soft|Plaid|Washable", "cosy sofa cover|snuggle|bed warmer", (15, 110),
          winter=4.0, autumn=2.0),
    _leaf("Heating > Thermal Wear", "Thermal Leggings|Base Layer Shirt|Merino Socks",
          "Seamless|Brushed|Breathable", "long johns|underlayer|ski underwear", (14, 90),
          winter=4.0, snow=3.0),
    _leaf("Beauty > Sunscreen", "Sunscreen Lotion|Sun Spray|Mineral Sunscreen Stick",
          "SPF 50|Water Resistant|Tinted", "sunblock|uv protection|avoid burn", (7, 38),
          sun=5.0, heat=3.0),
    _leaf("Beauty > Hand Cream", "Hand Cream|Hand Balm|Cuticle Butter",
          "Shea|Unscented|Repairing", "cracked knuckles|dry skin fingers|glove lotion", (4, 26),
          winter=3.0),
    _leaf("Beauty > Shampoo", "Shampoo|Shampoo Bar|Scalp Cleanser",
          "Volumising|Argan|Clarifying", "wash hair|anti dandruff|greasy roots", (5, 32)),
    _leaf("Beauty > Perfume", "Eau de Parfum|Eau de Toilette|Body Mist",
          "Citrus|Woody|Floral", "fragrance|cologne|smell nice gift", (19, 140)),
    _leaf("Kitchen > Coffee Makers", "Espresso Machine|Pour Over Kettle|French Press",
          "Programmable|Barista|Copper", "morning brew|latte at home|caffeine", (22, 390)),
    _leaf("Kitchen > Knives", "Chef Knife|Santoku Knife|Paring Knife",
          "Forged|Damascus|Serrated", "blade for cooking|slice vegetables|cutlery sharp",
          (14, 190)),
    _leaf("Kitchen > Grills", "Charcoal Grill|Gas Grill|Smoker Grill",
          "Portable|Cast Iron|Three Burner", "barbecue|bbq|cook steaks garden", (39, 480),
          summer=4.0, sun=2.0),
    _leaf("Kitchen > Baking", "Springform Pan|Cookie Cutters|Stand Mixer",
          "Nonstick|Silicone|Festive", "cake tin|biscuit shapes|make bread dough", (8, 260),
          winter=2.0),
    _leaf("Garden > Hoses", "Garden Hose|Expandable Hose|Hose Reel",
          "Kink Free|Heavy Duty|Wall Mounted", "water the lawn|irrigation|sprinkle plants",
          (16, 95), summer=3.0),
    _leaf("Garden > Seeds", "Tomato Seeds|Wildflower Seeds|Herb Seeds",
          "Organic|Heirloom|Assorted", "grow vegetables|planting|sow basil", (2, 15), spring=6.0),
    _leaf("Garden > Pruning Tools", "Pruning Shears|Loppers|Hedge Trimmer",
          "Bypass|Ratchet|Cordless", "cut roses|secateurs|branch clippers", (12, 130),
          spring=3.0, autumn=2.0),
    _leaf("Garden > Leaf Rakes", "Leaf Rake|Leaf Blower|Garden Bags",
          "Adjustable|Bamboo|Reusable", "yard cleanup|foliage|sweep fallen", (11, 140), autumn=6.0),
    _leaf("Sports > Running Shoes", "Running Shoes|Trail Runners|Racing Flats",
          "Cushioned|Lightweight|Stability", "jogging sneakers|marathon trainers|5k footwear",
          (49, 190),
          spring=2.0),
    _leaf("Sports > Yoga", "Yoga Mat|Yoga Block|Meditation Cushion",
          "Cork|Non Slip|Travel", "pilates|stretching floor|namaste", (9, 90)),
    _leaf("Sports > Swimwear", "Swim Trunks|Swimsuit|Rash Guard",
          "Quick Dry|Chlorine Proof|Printed", "bikini|bathing costume|beach outfit", (14, 95),
          summer=4.0, heat=3.0),
    _leaf("Sports > Bicycles", "City Bike|Gravel Bike|Folding Bike",
          "Seven Speed|Aluminium|Step Through", "cycling commute|two wheeler|velo", (180, 1400),
          spring=4.0),
    _leaf("Electronics > Headphones", "Wireless Headphones|Earbuds|Gaming Headset",
          "Noise Cancelling|Bluetooth|Foldable", "listen music train|in ear|silence office",
          (18, 340)),
    _leaf("Electronics > Desk Lamps", "Desk Lamp|Clip Light|Daylight Lamp",
          "LED|Dimmable|Swing Arm", "reading illumination|bright study|dark evenings", (13, 110),
          autumn=3.0),
    _leaf("Electronics > Power Banks", "Power Bank|Solar Charger|Charging Case",
          "Fast|Slim|20000 mAh", "phone battery empty|portable energy|recharge travel", (15, 95)),
    _leaf("Toys > Board Games", "Board Game|Card Game|Puzzle",
          "Cooperative|Strategy|1000 Piece", "family night|rainy afternoon fun|jigsaw", (9, 75),
          rain=3.0),
    _leaf("Toys > Building Blocks", "Building Blocks|Marble Run|Train Set",
          "Wooden|Magnetic|Glow", "bricks|castle kit|construction kids", (12, 140), winter=2.0),
)  # fmt: skip

_BRAND_STARTS = ("Nor", "Vel", "Alto", "Kin", "Bram", "Sola", "Tern", "Mira", "Elm", "Fjo")
_BRAND_ENDS = ("dal", "vik", "ero", "mont", "ley", "nova", "sen", "field")
_FINISHES = ("Black", "Sand", "Forest Green", "Navy", "Red", "Set of 2", "Large", "Mini", "White")


def catalogue(rng: Random, updated_ms: int) -> list[ItemUpsert]:
    """Returns about 600 items: titles, brands, prices, stock; some are kept off the detail page."""
    brands = _brands(rng)
    items: list[ItemUpsert] = []
    for leaf in LEAVES:
        house_brands = rng.sample(brands[leaf.department], 4)
        items += [
            _item(leaf, number, rng.choice(house_brands), rng, updated_ms)
            for number in range(ITEMS_PER_LEAF)
        ]
    return items


def _brands(rng: Random) -> dict[str, list[str]]:
    names = [start + end for start in _BRAND_STARTS for end in _BRAND_ENDS]
    rng.shuffle(names)
    departments = sorted({leaf.department for leaf in LEAVES})
    return {name: names[9 * i : 9 * i + 9] for i, name in enumerate(departments)}


def _item(leaf: Leaf, number: int, brand: str, rng: Random, updated_ms: int) -> ItemUpsert:
    words = (brand, rng.choice(leaf.styles), rng.choice(leaf.nouns), rng.choice(_FINISHES))
    low, high = leaf.prices
    return ItemUpsert(
        item_id=f"{leaf.name.lower().replace(' ', '-')}-{number:02d}",
        title=" ".join(words),
        category=leaf.category,
        brand=brand,
        price=round(low * (high / low) ** rng.random(), 2),
        in_stock=rng.random() >= OUT_OF_STOCK_SHARE,
        scenarios=["home", "search"] if rng.random() < NOT_ON_DETAIL_SHARE else None,
        updated_ms=updated_ms,
    )


def query_for(leaf: Leaf, rng: Random) -> str:
    """Returns what a shopper types: in half of all cases words that no title has, some misspelt."""
    kind = rng.random()
    if kind < 0.5:
        words = rng.choice(leaf.search_words)
    elif kind < 0.8:
        words = f"{rng.choice(leaf.styles)} {rng.choice(leaf.nouns)}".lower()
    else:
        words = leaf.name.lower()
    if rng.random() < WISH_SHARE:
        words = f"{rng.choice(WISHES)} {words}"
    return _misspelt(words, rng) if rng.random() < MISSPELT_SHARE else words


def _misspelt(words: str, rng: Random) -> str:
    """Drops one letter, or swaps it with the next."""
    place = rng.randrange(len(words) - 1)
    middle = words[place + 1] + words[place] if rng.random() < 0.5 else words[place + 1]
    return words[:place] + middle + words[place + 2 :]
