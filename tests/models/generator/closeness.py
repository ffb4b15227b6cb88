"""Equality of tensors up to rounding (`torch.testing` takes seconds to import)."""

import numpy as np
import torch


def assert_close(
    found: torch.Tensor, wanted: torch.Tensor, *, atol: float = 1e-5, rtol: float = 1e-5
) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(
        found.detach().numpy(), wanted.detach().numpy(), atol=atol, rtol=rtol
    )
