"""Archives are unpacked once, whole or not at all, and never outside their folder."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from zerogate.cache import cache_folder
from zerogate.data.archive import unpacked
from zerogate.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "cache"))


def pack(file: Path, **members: bytes) -> Path:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(f"set/{name}.txt", content)
        return file
    with tarfile.open(file, "w:" + {".tar": "", ".gz": "gz", ".xz": "xz", ".bz2": "bz2"}[file.suffix]) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"set/{name}.txt")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_unpacked_once(name: str, tmp_path: Path) -> None:
    file = pack(tmp_path / name, one=b"1", two=b"2")
    folder = unpacked(file)
    assert sorted(path.name for path in (folder / "set").iterdir()) == ["one.txt", "two.txt"]
    (folder / "set" / "mine.txt").write_text("stays")
    assert unpacked(file) == folder and (folder / "set" / "mine.txt").exists()
    assert [path.name for path in cache_folder().glob("archives/.*")] == []


def test_a_changed_archive_is_unpacked_anew(tmp_path: Path) -> None:
    file = pack(tmp_path / "a.tar", one=b"1")
    before = unpacked(file)
    pack(file, one=b"another")
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1_000_000))
    after = unpacked(file)
    assert after != before and (after / "set" / "one.txt").read_bytes() == b"another"


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
def test_a_broken_archive_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    file = pack(tmp_path / name, one=os.urandom(50_000))
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(UserError, match="broken archive"):
        unpacked(file)
    assert [path for path in (cache_folder() / "archives").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("member", ["../outside.txt", "/tmp/outside.txt"])
def test_nothing_is_written_outside(member: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("set/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../../.."
        archive.addfile(link)
        entry = tarfile.TarInfo(member)
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(UserError, match="outside its folder"):
        unpacked(tmp_path / "a.tar")


def test_a_missing_archive_and_a_cache_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot read"):
        unpacked(tmp_path / "no.tar")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZEROGATE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot unpack .* ZEROGATE_CACHE"):
        unpacked(pack(tmp_path / "a.tar", one=b"1"))


def test_several_processes_at_once(tmp_path: Path) -> None:
    file = pack(tmp_path / "a.tar.gz", **{f"n{number}": os.urandom(2000) for number in range(300)})
    code = (
        "import sys; from pathlib import Path; from zerogate.data.archive import unpacked\n"
        "print(len(list((unpacked(Path(sys.argv[1])) / 'set').iterdir())))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert [process.communicate()[0].strip() for process in running] == ["300"] * 3
