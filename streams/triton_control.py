"""Loads, unloads and asks after models of one Triton server, over gRPC."""

from types import TracebackType
from typing import Self

from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from schemas.errors import OxygenRecError
from streams.connections import TritonConfig

READY_TIMEOUT_S = 2.0  # answers in a millisecond; a server that needs longer is not ready


class TritonControlFailed(OxygenRecError):
    """The server refused or did not answer a control request."""

    def __init__(self, *, request: str, model: str, url: str, detail: str) -> None:
        self.request = request
        self.model = model
        super().__init__(f"Triton at {url} did not {request} {model}: {detail}")


class TritonControl:
    """An async context around one server's model control API (`--model-control-mode=explicit`)."""

    def __init__(self, config: TritonConfig) -> None:
        """Prepares a client; nothing is opened before `async with`."""
        self._config = config
        self._client: InferenceServerClient | None = None

    async def __aenter__(self) -> Self:
        """Opens the channel; the connection is made with the first request."""
        self._client = InferenceServerClient(self._config.grpc_url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the channel."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def load(self) -> None:
        """Loads the versions that config.pbtxt names; those already loaded serve on meanwhile.

        Returns when they are ready. Raises TritonControlFailed; the loaded versions then stay.
        """
        timeout_s = self._config.load_timeout_ms / 1000
        try:
            await self._open().load_model(self._config.model, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise self._failed("load", error) from error

    async def unload(self) -> None:
        """Unloads every version of the model. Raises TritonControlFailed."""
        try:
            await self._open().unload_model(self._config.model)
        except InferenceServerException as error:
            raise self._failed("unload", error) from error

    async def versions(self) -> list[int]:
        """Returns the versions that the server says are loaded, rising. Raises
        TritonControlFailed.
        """
        try:
            index = await self._open().get_model_repository_index(client_timeout=READY_TIMEOUT_S)
        except InferenceServerException as error:
            raise self._failed("list the versions of", error) from error
        return sorted(
            int(model.version)
            for model in index.models
            if model.name == self._config.model and model.state == "READY"
        )

    async def ready(self, version: int) -> bool:
        """Returns whether this version answers; False also when the server cannot be reached."""
        try:
            answer: bool = await self._open().is_model_ready(
                self._config.model, str(version), client_timeout=READY_TIMEOUT_S
            )
        except InferenceServerException:
            return False
        return answer

    def _open(self) -> InferenceServerClient:
        if self._client is None:
            raise RuntimeError("TritonControl is used outside of `async with`")
        return self._client

    def _failed(self, request: str, error: InferenceServerException) -> TritonControlFailed:
        return TritonControlFailed(
            request=request,
            model=self._config.model,
            url=self._config.grpc_url,
            detail=str(error.message()),
        )
