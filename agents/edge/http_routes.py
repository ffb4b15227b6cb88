"""The edge's routes. Bodies are decoded by our own code: every fault names field, found, wanted."""

from typing import Any, Literal
from uuid import uuid4

from litestar import Request, Response, get, post
from msgspec import Struct

from agents.edge.action_intake import ActionsAnswer
from agents.edge.edge import Edge, wall_clock_ms
from agents.edge.health import Readiness
from agents.edge.http_bodies import BodyTooLarge, ElementDecoder, dry_run_in, one
from agents.edge.recommendation_api import (
    RecommendationAnswer,
    RecommendationRequest,
    answer_of,
    question_of,
    unknown_item,
)
from agents.edge.user_context import UnknownItem
from schemas.dead_letters import Rejection
from schemas.errors import InvalidRecord
from streams import metrics
from streams.dead_letters import rejection_of

Asked = Request[Any, Any, Any]

_asked = ElementDecoder(RecommendationRequest)


class Alive(Struct, frozen=True, kw_only=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


def edge_of(request: Asked) -> Edge:
    """Returns the parts behind the routes."""
    edge: Edge = request.app.state.edge
    return edge


@post("/v1/actions", status_code=202)
async def post_actions(request: Asked) -> Response[ActionsAnswer]:
    """Takes one action or up to 1000, and gives a result for each.

    202: everything acceptable is acknowledged by Kafka. 503: `unacknowledged` lists the event ids
    to send again, as they are. 400: nothing could be accepted. 413: too many, or too many bytes.
    With `?dry_run=true` all is judged in the same way and nothing is sent: 200 in place of 202.
    """
    dry_run = dry_run_in(list(request.query_params.multi_items()))
    answer = await edge_of(request).intake.take(await request.body(), dry_run=dry_run)
    if answer.unacknowledged:
        return Response(answer, status_code=503, headers={"retry-after": "1"})
    if answer.accepted + answer.duplicate == 0:
        return Response(answer, status_code=400)
    return Response(answer, status_code=200 if dry_run else 202)


@post("/v1/recommendations", status_code=200)
async def post_recommendations(request: Asked) -> RecommendationAnswer:
    """Answers with a slate within the deadline; `degraded` names the cause of a fallback."""
    edge = edge_of(request)
    asked = one(await request.body(), _asked)
    serving = edge.settings.serving
    question = question_of(
        asked,
        scenarios=serving.scenarios,
        num_items=serving.num_items,
        now_ms=wall_clock_ms(),
        new_id=lambda: uuid4().hex,
    )
    try:
        slate = await edge.recommender.recommend(question)
    except UnknownItem as error:
        raise unknown_item(asked) from error
    return answer_of(slate, question.asked_ms)


@get("/healthz")
async def healthz() -> Alive:
    """Says that the process answers."""
    return Alive()


@get("/readyz")
async def readyz(request: Asked) -> Response[Readiness]:
    """Says whether Kafka and Redis answer and the generator decodes; 503 when one does not."""
    readiness = await edge_of(request).readiness()
    return Response(readiness, status_code=200 if readiness.status == "ready" else 503)


@get("/metrics", include_in_schema=False)
async def get_metrics() -> Response[bytes]:
    """Shows the metrics of this process to Prometheus."""
    return Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)


def refuse(request: Asked, error: InvalidRecord) -> Response[Rejection]:
    """Returns a fault of the client: 413 for a batch that is too large, 400 for all else."""
    return Response(
        rejection_of(error), status_code=413 if isinstance(error, BodyTooLarge) else 400
    )


ROUTES = (post_actions, post_recommendations, healthz, readyz, get_metrics)
