"""The API's description: `/docs/openapi.json`, and `/docs`, a page of our own without a CDN.

Bodies and query strings are read by our own code (field, found, wanted in every fault), so their
schemas stand here.
"""

import html
import json
from typing import Any

import msgspec
from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

from agents.edge import item_api, profile_api
from agents.edge.item_api import ItemPatch, ItemPut
from agents.edge.profile_api import ProfilePatch, ProfilePut
from agents.edge.recommendation_api import RecommendationRequest
from schemas.actions import UserAction

REF = "#/components/schemas/{name}"
BODIES: dict[tuple[str, str], Any] = {
    ("/v1/actions", "post"): UserAction | list[UserAction],
    ("/v1/recommendations", "post"): RecommendationRequest,
    ("/v1/users/{user_id}", "put"): ProfilePut,
    ("/v1/users/{user_id}", "patch"): ProfilePatch,
    ("/v1/items/{item_id}", "put"): ItemPut,
    ("/v1/items/{item_id}", "patch"): ItemPatch,
}
EXAMPLES = {**profile_api.EXAMPLES, **item_api.EXAMPLES}
DRY_RUN = {
    "name": "dry_run",
    "in": "query",
    "required": False,
    "description": "Judge only: the same answer with status 200, and nothing is sent to Kafka.",
    "schema": {"type": "boolean", "default": False},
}
PARAMETERS: dict[tuple[str, str], list[dict[str, Any]]] = {("/v1/actions", "post"): [DRY_RUN]}
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}
pre{{background:#f4f4f4;padding:.8rem;overflow:auto}} summary{{cursor:pointer}}
code{{font-weight:600}}</style></head><body><h1>{title}</h1>
<p>Machine-readable: <a href="/docs/openapi.json">openapi.json</a></p>{operations}
<h2>Schemas</h2>{schemas}</body></html>"""


class CompleteJson(JsonRenderPlugin):
    """Litestar's description plus the request bodies."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Returns the description as JSON."""
        return msgspec.json.encode(with_bodies(openapi_schema))


class DocsPage(OpenAPIRenderPlugin):
    """One static page: every operation, every schema."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Returns the page."""
        complete = with_bodies(openapi_schema)
        operations = [
            f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"
            f"<p>{html.escape(operation.get('description', ''))}</p>"
            + _folded("contract", operation)
            for path, item in complete["paths"].items()
            for method, operation in item.items()
        ]
        schemas = [_folded(n, s) for n, s in complete["components"]["schemas"].items()]
        return PAGE.format(
            title=html.escape(complete["info"]["title"]),
            operations="".join(operations),
            schemas="".join(schemas),
        ).encode()


def openapi_config(version: str) -> OpenAPIConfig:
    """Returns where and what the description is."""
    return OpenAPIConfig(
        title="OxygenREC edge",
        version=version,
        path="/docs",
        use_handler_docstrings=True,
        render_plugins=[DocsPage(path="/"), CompleteJson(path="/openapi.json")],
    )


def with_bodies(described: dict[str, Any]) -> dict[str, Any]:
    """Returns the description with the bodies and parameters that we decode ourselves."""
    schemas, components = msgspec.json.schema_components(list(BODIES.values()), ref_template=REF)
    complete = {**described, "paths": dict(described["paths"])}
    known = described.get("components", {})
    complete["components"] = {**known, "schemas": {**components, **known.get("schemas", {})}}
    for (path, method), schema in zip(BODIES, schemas, strict=True):
        content: dict[str, Any] = {"schema": schema}
        if (example := EXAMPLES.get(BODIES[path, method])) is not None:
            content["example"] = example
        body = {"required": True, "content": {"application/json": content}}
        operation = {**complete["paths"][path][method], "requestBody": body}
        if (path, method) in PARAMETERS:
            operation["parameters"] = PARAMETERS[path, method]
        complete["paths"][path] = {**complete["paths"][path], method: operation}
    return complete


def _folded(name: str, value: Any) -> str:
    text = html.escape(json.dumps(value, indent=2, default=str))
    return f"<details><summary>{html.escape(name)}</summary><pre>{text}</pre></details>"
