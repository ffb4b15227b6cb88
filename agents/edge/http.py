"""The HTTP edge: actions in, slates out. Litestar on uvicorn; `oxygenrec worker edge` runs it."""

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import uvicorn
import uvloop
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Struct
from redis.exceptions import RedisError

from agents.edge.acknowledgement import NotAcknowledged
from agents.edge.edge import Edge, open_edge
from agents.edge.http_docs import openapi_config
from agents.edge.http_routes import ROUTES, refuse
from agents.edge.item_intake import UnknownCatalogueItem
from agents.edge.item_routes import ITEM_ROUTES
from agents.edge.user_routes import USER_ROUTES
from agents.settings import HttpConfig, Settings
from schemas.dead_letters import Reason, Rejection
from schemas.errors import InvalidRecord, OxygenRecError

BACKLOG = 2_048
DRAIN_S = 5  # requests under way at SIGTERM; the longest waits 5 s for Kafka

logger = logging.getLogger(__name__)


class PortTaken(OxygenRecError):
    """The edge's port belongs to another process."""

    def __init__(self, *, host: str, port: int, cause: str) -> None:
        self.port = port
        super().__init__(
            f"cannot listen on {host}:{port} ({cause}): stop what is there, "
            "or set OXYGENREC_HTTP__PORT to another port"
        )


class Fault(Struct, frozen=True, kw_only=True):
    """Why a request failed that is not about one field."""

    status: int
    detail: str


class EdgeServer(uvicorn.Server):
    """Ends on SIGTERM or Ctrl-C through the loop, so that what is open is closed in order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Asks for the end at the first signal; uvicorn's own way raises it again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def run(settings: Settings) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises `PortTaken`."""
    listener = listen(settings.http)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, listener))


def listen(config: HttpConfig) -> socket.socket:
    """Returns a bound socket: a taken port is one clear error before anything is opened."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise PortTaken(host=config.host, port=config.port, cause=str(error)) from error
    return listener


async def serve(settings: Settings, listener: socket.socket) -> None:
    """Opens the parts, answers requests until the server is told to end, closes the parts."""
    async with open_edge(settings) as edge:
        config = uvicorn.Config(
            create_app(edge),
            http="httptools",
            lifespan="off",
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            timeout_graceful_shutdown=DRAIN_S,
            server_header=False,
        )
        host, port = listener.getsockname()[:2]
        logger.info("edge listens", extra={"url": f"http://{host}:{port}"})
        await EdgeServer(config).serve(sockets=[listener])


def create_app(edge: Edge) -> Litestar:
    """Returns the application around opened parts."""
    return Litestar(
        route_handlers=[*ROUTES, *USER_ROUTES, *ITEM_ROUTES],
        state=State({"edge": edge}),
        openapi_config=openapi_config(version("oxygenrec")),
        request_max_body_size=edge.settings.http.max_body_bytes,
        exception_handlers={
            InvalidRecord: refuse,
            RequestEntityTooLarge: _too_large,
            HTTPException: _http_fault,
            RedisError: _redis_gone,
            NotAcknowledged: _not_acknowledged,
            UnknownCatalogueItem: _unknown_item,
        },
        logging_config=None,
    )


def _too_large(
    request: Request[Any, Any, Any], error: RequestEntityTooLarge
) -> Response[Rejection]:
    limit = request.app.state.edge.settings.http.max_body_bytes
    size = request.headers.get("content-length", "more")
    rejection = Rejection(
        reason=Reason.OVERSIZED, field="$", found=f"{size} bytes", wanted=f"at most {limit} bytes"
    )
    return Response(rejection, status_code=413)


def _http_fault(request: Request[Any, Any, Any], error: HTTPException) -> Response[Fault]:
    return Response(
        Fault(status=error.status_code, detail=error.detail), status_code=error.status_code
    )


def _redis_gone(request: Request[Any, Any, Any], error: RedisError) -> Response[Fault]:
    return Response(Fault(status=503, detail=f"Redis: {error}"), status_code=503)


def _not_acknowledged(request: Request[Any, Any, Any], error: NotAcknowledged) -> Response[Fault]:
    fault = Fault(status=503, detail=str(error))
    return Response(fault, status_code=503, headers={"retry-after": "1"})


def _unknown_item(request: Request[Any, Any, Any], error: UnknownCatalogueItem) -> Response[Fault]:
    return Response(Fault(status=404, detail=str(error)), status_code=404)
