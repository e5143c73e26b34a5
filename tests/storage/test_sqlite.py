from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import StorageError
from hpo.storage import sqlite
from hpo.storage.backends import open_storage
from hpo.storage.sqlite import file_system

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 22 0:31 / /home rw,relatime shared:2 master:1 - nfs4 server:/home rw,vers=4.2
36 35 8:2 / /home/me/local rw - xfs /dev/sdb1 rw
37 22 0:32 / /mnt/two\\040words rw - cifs //server/share rw
38 22 0:33 / /mnt/ta\\011b\xff rw - nfs server:/ rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var", "ext4"),
        ("/home", "nfs4"),
        ("/home/me", "nfs4"),
        ("/mnt/ta\tb\udcff", "nfs"),
        ("/home/me/local/studies", "xfs"),
        ("/homes", "ext4"),
        ("/mnt/two words/studies", "cifs"),
    ],
)
def test_a_folder_lies_on_the_file_system_mounted_nearest_above(
    folder: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_bytes(MOUNTS.encode("latin-1"))
    monkeypatch.setattr(sqlite, "MOUNTS", tmp_path / "mountinfo")
    assert file_system(Path(folder)) == kind


def test_a_network_file_system_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mountinfo").write_text("22 1 0:31 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(sqlite, "MOUNTS", tmp_path / "mountinfo")
    for create in (True, False):
        with pytest.raises(StorageError, match=r"network file system \(nfs4\).*postgresql://USER@HOST/DATABASE"):
            open_storage(f"sqlite:///{tmp_path}/studies.db", create=create)
    assert not (tmp_path / "studies.db").exists()


def test_this_machine_tells_its_file_systems(tmp_path: Path) -> None:
    assert file_system(tmp_path)
    assert file_system(Path("/proc")) == "proc"
