"""Has Triton interpret kernels on the CPU where there is no GPU, and leaves these tests out where there is no Triton."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
INTERPRETED = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}

# Triton looks at the variable when a kernel is defined, and when one runs; what other tests start must not see it.
if not collect_ignore_glob:
    with patch.dict(os.environ, INTERPRETED):
        import hpo.kernels.gpu.losses
        import hpo.kernels.gpu.recognise  # noqa: F401


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    with patch.dict(os.environ, INTERPRETED):
        yield
