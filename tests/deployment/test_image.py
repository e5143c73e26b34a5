"""The container's image: structure of Dockerfile, and the lock of its packages; no container engine is needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DOCKERFILE = Path("Dockerfile").read_text(encoding="utf-8")
LOCKS = LOCK, TORCH = Path("deploy/requirements.lock"), Path("deploy/torch.lock")
BLOCK = re.compile(r"([a-z0-9-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})*)\n")


def read_lock(file: Path) -> dict[str, tuple[str, int]]:
    """Returns package -> version and number of hashes; a lock holds nothing else but a comment."""
    text = file.read_text(encoding="utf-8")
    assert re.sub(r"^#.*\n", "", BLOCK.sub("", text), flags=re.MULTILINE) == ""
    found = [(name, (version, hashes.count("--hash="))) for name, version, hashes in BLOCK.findall(text)]
    assert len(found) == len(dict(found))
    return dict(found)


def asked_for() -> list[Requirement]:
    """What pyproject.toml asks for, and what it takes to build the package."""
    table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]
    lines = (
        *project["dependencies"],
        *project["optional-dependencies"]["postgresql"],
        *table["build-system"]["requires"],
    )
    return [Requirement(line) for line in lines]


def test_the_image_gets_what_the_package_is_made_of() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {"pyproject.toml", "README.md", "LICENSE", "hpo", "models", "studies", *map(str, LOCKS)}
    allowed = set(re.findall(r"^!(.+)$", Path(".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert allowed == names


def test_the_image_does_not_run_as_root_and_holds_no_secret() -> None:
    assert re.search(r"^USER hpo$", DOCKERFILE, flags=re.MULTILINE)
    assert not re.search(r"password|token|secret", DOCKERFILE, flags=re.IGNORECASE)


@pytest.mark.parametrize("wanted", asked_for(), ids=str)
def test_what_the_package_needs_is_locked_in_range(wanted: Requirement) -> None:
    """`make lock` mends it."""
    name = canonicalize_name(wanted.name)
    version, _ = {**read_lock(LOCK), **read_lock(TORCH)}[name]
    assert wanted.specifier.contains(version)
    for extra in wanted.extras:
        assert f"{name}-{extra}" in read_lock(LOCK)


def test_every_package_has_a_hash_and_no_address() -> None:
    assert all(hashes for _, hashes in read_lock(LOCK).values())
    assert read_lock(TORCH).keys() == {"torch", "torchvision"}  # the index of its builds decides which file that is
    assert not any(name.startswith(("torch", "nvidia", "cuda", "triton")) for name in read_lock(LOCK))
    for file in LOCKS:
        assert not re.search(r"://|--(extra-)?index|--find-links|@", file.read_text(encoding="utf-8"))


def test_no_step_asks_two_indexes_and_the_first_takes_only_what_is_locked() -> None:
    installs = re.findall(r"pip install (.+)", DOCKERFILE)
    assert [line.split(" && ")[0] for line in installs] == [
        "--require-hashes --requirement requirements.lock",
        '--index-url "${TORCH_INDEX}" --requirement torch.lock',
        "--no-index --no-deps --no-build-isolation .",
    ]
    assert "extra-index" not in DOCKERFILE
    assert "PIP_ONLY_BINARY=:all:" in DOCKERFILE  # no package's own program runs while it is installed


def test_the_image_it_begins_with_is_one_by_name() -> None:
    begun = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE)
    assert len(begun) == 2
    assert len({*begun}) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", begun[0])
