"""One torch thread for every test of models: small tensors on two busy cores spend their time
waiting.
"""

import pytest
import torch

from models.serving.compiled_record import CompiledArtifact
from tests.models.serving import compiled


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_artifact(tmp_path_factory: pytest.TempPathFactory) -> CompiledArtifact:
    """A compiled decoding of `tests.models.serving.compiled.CONFIG`: a minute, once a run."""
    return compiled.small_artifact(tmp_path_factory.mktemp("compiled"))
