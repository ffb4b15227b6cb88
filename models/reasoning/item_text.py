"""The one text that stands for an item: fitting, catalog indexer and training embed the same."""

from schemas.catalog import ItemUpsert


def item_text(item: ItemUpsert) -> str:
    """Returns title, brand where the title lacks it, and the words of the category path."""
    parts = [item.title]
    if item.brand and item.brand.lower() not in item.title.lower():
        parts.append(item.brand)
    parts.append(item.category.replace(">", " "))
    return " ".join(" ".join(parts).split())
