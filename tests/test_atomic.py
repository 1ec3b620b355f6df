"""Files are replaced as a whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgeface import atomic
from edgeface.atomic import partial_of, replacing, replacing_by_name
from edgeface.errors import OutputError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def entries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "people.npz"
    with replacing(path) as file:
        file.write(b"faces")
        assert not path.exists()
        assert mode(partial_of(path)) == 0o600, "private before anything is in it"
    assert path.read_bytes() == b"faces"
    assert mode(path) == 0o600
    assert entries(tmp_path) == ["people.npz"]


def test_permissions_that_a_user_gave_stay(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with replacing(path) as file:
        file.write(b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o640)


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == ["x.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    target, link = tmp_path / "data" / "x.npz", tmp_path / "x.npz"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with replacing(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert entries(tmp_path / "data") == ["x.npz"]


def test_a_partial_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "pile.npz"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom edgeface.atomic import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write(b'x' * 100_000); file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert entries(tmp_path) == sorted([partial_of(path).name, "pile.npz"])
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert entries(tmp_path) == ["pile.npz"]


def test_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "x"
    contents = {bytes([65 + i]) * 50_000 for i in range(8)}
    seen: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(10):
            with replacing(path) as file:
                for start in range(0, len(content), 5_000):
                    file.write(content[start : start + 5_000])
            seen.append(path.read_bytes())

    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 80
    assert set(seen) <= contents
    assert entries(tmp_path) == ["x"]


def test_a_library_may_open_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with replacing_by_name(path) as partial:
        assert partial.suffix == ".mp4"
        assert mode(partial) == 0o600
        partial.write_bytes(b"video")
    assert (path.read_bytes(), mode(path)) == (b"video", 0o600)


def test_long_names_have_a_partial_too(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".npz")
    with replacing(path) as file:
        file.write(b"1")
    assert entries(tmp_path) == [path.name]


@pytest.mark.parametrize("where", ["", "absent/x", "file/x"])
def test_what_cannot_be_written_is_said(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(OutputError, match=r"cannot be|is not a file"),
        replacing(tmp_path / where) as file,
    ):
        file.write(b"1")
    assert entries(tmp_path) == ["file"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(OutputError, match="No space left"), replacing(path):
        raise OSError(28, os.strerror(28))
    assert entries(tmp_path) == []


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path: Path, monkeypatch) -> None:
    path, done = tmp_path / "x", []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        atomic.os, "fsync", lambda fd: (done.append(stat.S_ISDIR(os.fstat(fd).st_mode)), fsync(fd))
    )
    monkeypatch.setattr(Path, "replace", lambda a, b: (done.append("rename"), replace(a, b))[1])
    with replacing(path) as file:
        file.write(b"1")
    assert done == [False, "rename", True]
