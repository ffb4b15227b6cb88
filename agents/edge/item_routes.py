"""The edge's routes of one item: stock, texts and scenarios change without a reload anywhere."""

from litestar import delete, get, patch, put
from litestar.params import FromPath

from agents.edge.http_routes import Asked, edge_of
from agents.edge.item_api import DeletionAnswer, ItemShown
from schemas.catalog import ItemUpsert


@get("/v1/items/{item_id:str}")
async def get_item(request: Asked, item_id: FromPath[str]) -> ItemShown:
    """Shows an item as it is served now; 404 where the catalogue does not hold it."""
    return await edge_of(request).item_intake.get(item_id)


@put("/v1/items/{item_id:str}", status_code=202)
async def put_item(request: Asked, item_id: FromPath[str]) -> ItemUpsert:
    """Replaces an item, or adds it, and answers with it as it was written.

    202: acknowledged by Kafka; within about a second no slate shows the older state. 400 names
    field, found and wanted. 503: not acknowledged, send it again.
    """
    return await edge_of(request).item_intake.put(item_id, await request.body())


@patch("/v1/items/{item_id:str}", status_code=202)
async def patch_item(request: Asked, item_id: FromPath[str]) -> ItemUpsert:
    """Changes an item (JSON merge patch), and answers with the whole of it.

    `{"in_stock": false}` takes it off every slate. 404: not in the catalogue. Else as for PUT.
    """
    return await edge_of(request).item_intake.patch(item_id, await request.body())


@delete("/v1/items/{item_id:str}", status_code=202)
async def delete_item(request: Asked, item_id: FromPath[str]) -> DeletionAnswer:
    """Takes an item away, known or not. Codes as for PUT."""
    return await edge_of(request).item_intake.delete(item_id)


ITEM_ROUTES = (get_item, put_item, patch_item, delete_item)
