"""Versions, hashes and hardware, saved with each study and each trial."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from hpo import __version__

PACKAGES = ("torch", "torchvision", "optuna", "numpy", "numba", "scikit-learn")
MEASURING = (
    "kernels/",
    "training/",
    "tasks/",
    "models/",
    "seeding.py",
    "study/task.py",
)  # what trains and tests a round
DECIDING = ("measuring", "torch", "torchvision", "numpy", "numba", "scikit-learn")  # versions that a round depends on


@cache
def versions() -> dict[str, str]:
    """Returns the versions that a result may depend on.

    `source` is the hash of this program's own code and networks, `measuring` that of the part on which the numbers of
    a round depend: a command or a figure that is changed leaves it as it is.
    """
    return {
        "hpo": __version__,  # a source tree need not be installed
        "source": _hash_of(lambda name: True),
        "measuring": _hash_of(lambda name: name.startswith(MEASURING)),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def time_text(moment: datetime | None = None) -> str:
    """Returns a moment in UTC, by default this one, as `2026-11-28T08:48:00Z`."""
    return f"{moment or datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


@cache
def cpu_name() -> str:
    """Returns the processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def differing(kept: Mapping[str, str]) -> list[str]:
    """Returns which of the versions that a round depends on differ here from those that were kept with a result."""
    return [name for name in DECIDING if kept.get(name) != versions()[name]]


def _hash_of(is_wanted: Callable[[str], bool]) -> str:
    """Hashes the files of the package, `kernels/jit.py`, and of the networks, `models/linear.py`, with such names."""
    package = Path(__file__).parent
    models = package / "_builtin" / "models" if (package / "_builtin").is_dir() else package.parent / "models"
    files = {
        file.relative_to(package).as_posix(): file for file in package.rglob("*.py") if "_builtin" not in file.parts
    }
    files |= {f"models/{file.name}": file for file in models.glob("*.py")}
    sha = hashlib.sha256()
    for name in sorted(filter(is_wanted, files)):
        sha.update(files[name].read_bytes())
    return sha.hexdigest()[:16]
