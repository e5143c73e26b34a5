from __future__ import annotations

import pytest

from hpo.errors import RequestError
from hpo.workers import devices
from hpo.workers.devices import _count_gpus, assign_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count_gpus", lambda: 2)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count_gpus", lambda: 0)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        ("auto", "auto", ["cuda:0", "cuda:1"]),
        ("auto", "cuda", ["cuda:0", "cuda:1"]),
        ("auto", "cuda:1", ["cuda:1"]),
        ("3", "auto", ["cuda:0", "cuda:1", "cuda:0"]),
        ("2", "cuda:1", ["cuda:1", "cuda:1"]),
        ("2", "cpu", ["cpu", "cpu"]),
    ],
)
def test_each_process_is_pinned_to_a_device(workers: str, device: str, expected: list[str]) -> None:
    assert assign_devices(workers, device) == expected


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_one_process_for_each_physical_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda only_physical_cores: 3 if only_physical_cores else 6)
    assert assign_devices("auto", "auto") == ["cpu"] * 3


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("workers", "device", "complaint"),
    [
        ("0", "auto", "--workers must be a number from 1 to 512 or 'auto', but is '0'"),
        ("513", "auto", "--workers must be a number from 1 to 512 or 'auto', but is '513'"),
        ("9" * 5000, "auto", "--workers must be a number from 1 to 512 or 'auto', but is '999"),
        ("1e3", "auto", "--workers must be a number from 1 to 512 or 'auto', but is '1e3'"),
        ("0.5", "auto", "--workers must be a number from 1 to 512 or 'auto', but is '0.5'"),
        ("many", "auto", "--workers must be a number from 1 to 512 or 'auto', but is 'many'"),
        ("1", "gpu", "--device must be auto, cpu, cuda or cuda:0, cuda:1 …, but is 'gpu'"),
        ("1", "cuda:2", "--device cuda:2 is not here: this machine shows 2 NVIDIA GPUs"),
    ],
)
def test_a_device_or_number_that_cannot_be_is_refused(workers: str, device: str, complaint: str) -> None:
    with pytest.raises(RequestError) as raised:
        assign_devices(workers, device)
    assert str(raised.value).startswith(complaint)


@pytest.mark.parametrize(("visible", "count"), [("2", 1), ("0,3", 2), ("", 0), ("-1", 0)])
def test_gpus_that_are_hidden_do_not_count(visible: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert assign_devices("auto", "auto")[:1] == (["cuda:0"] if count else ["cpu"])
    assert _count_gpus() == count
