from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = {90: 227 * 1024}  # bytes that one program may have, by compute capability
KERNELS = 13


@pytest.mark.slow
@pytest.mark.parametrize("capability", [90])
def test_every_kernel_compiles_for_a_card(capability: int, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.gpu.compiling", str(capability)],
        env={**variables, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kernels, most = map(int, done.stdout.split())
    assert kernels == KERNELS
    assert most < SHARED_MEMORY[capability]
