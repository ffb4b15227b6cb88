"""One torch thread for every test of models: small tensors on two busy cores spend their time
waiting.
"""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
