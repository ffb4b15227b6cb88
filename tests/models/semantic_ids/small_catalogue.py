"""Forty-eight items: six styles of eight things."""

from models.semantic_ids.item_table import Items

NOUNS = ["umbrella", "raincoat", "sunscreen", "tent", "kettle", "headphones", "notebook", "lamp"]
STYLES = ["red", "compact", "waterproof", "classic", "travel", "premium"]
TITLES = [f"{style} {noun}" for style in STYLES for noun in NOUNS]
CATALOGUE = Items(
    item_ids=[f"item-ä{number}" for number in range(len(TITLES))],
    texts=TITLES,
    categories=[f"All > {title.split()[-1]}" for title in TITLES],
)
