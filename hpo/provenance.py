"""Versions, hashes and hardware, saved with each study and each trial."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hpo import __version__

PACKAGES = ("torch", "torchvision", "optuna", "numpy", "scikit-learn")


@cache
def versions() -> dict[str, str]:
    """Returns the versions that a result may depend on.

    `source` is the hash of this program's own code and networks.
    """
    return {
        "hpo": __version__,  # a source tree need not be installed
        "source": _source_hash(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


@cache
def cpu_name() -> str:
    """Returns the processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _source_hash() -> str:
    package = Path(__file__).parent
    models = package / "_builtin" / "models" if (package / "_builtin").is_dir() else package.parent / "models"
    files = {
        file.relative_to(package).as_posix(): file for file in package.rglob("*.py") if "_builtin" not in file.parts
    }
    files |= {f"models/{file.name}": file for file in models.glob("*.py")}
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(files[name].read_bytes())
    return sha.hexdigest()[:16]
