"""Has Triton interpret kernels on the CPU where there is no GPU, and leaves these tests out where there is no Triton."""

from __future__ import annotations

import os
from importlib.util import find_spec
from unittest.mock import patch

import torch

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]

if not collect_ignore_glob:
    # Triton looks at the variable when a kernel is defined; programs that other tests start are not to see it.
    with patch.dict(os.environ, {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}):
        import hpo.kernels.gpu.losses
        import hpo.kernels.gpu.recognise  # noqa: F401
