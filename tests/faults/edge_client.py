"""A client of the edge that gives up nothing: posted again, with the same ids, until it got 202."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from schemas.actions import UserAction
from schemas.codec import encode

POSTS_AT_ONCE = 8
ANSWER_S = 10.0  # the edge itself answers 503 when Kafka has not acknowledged within 5 s
AGAIN_AFTER_S = 0.2
GIVES_UP_AFTER_S = 60.0


class EdgeClient:
    """Posts actions one by one, some at once. `again` counts the posts that were repeated."""

    def __init__(self, url: str) -> None:
        self.again = 0
        self._http = httpx.Client(base_url=url, timeout=ANSWER_S)
        self._threads = ThreadPoolExecutor(POSTS_AT_ONCE, "edge-client")

    def post(self, action: UserAction) -> Future[None]:
        """Queues an action; the future is done when the edge has answered 202.

        It raises `TimeoutError` where that did not happen, `RuntimeError` for any answer that is
        neither 202 nor 503.
        """
        return self._threads.submit(self._until_taken, action.event_id, encode(action))

    def close(self) -> None:
        """Waits for what is queued."""
        self._threads.shutdown()
        self._http.close()

    def _until_taken(self, event_id: str, body: bytes) -> None:
        deadline = time.monotonic() + GIVES_UP_AFTER_S
        while time.monotonic() < deadline:
            try:
                answer = self._http.post("/v1/actions", content=body)
            except httpx.TransportError:  # killed, or not yet up: it may have the action or not
                answer = None
            if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                return
            if answer is not None and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                raise RuntimeError(f"{event_id}: found {answer.status_code}, wanted 202 or 503")
            self.again += 1
            time.sleep(AGAIN_AFTER_S)
        raise TimeoutError(f"{event_id}: no 202 within {GIVES_UP_AFTER_S:g} s")
