"""Archives of images, unpacked once: `unpacked("images.tar.xz")` is a folder, the same one at every call.

The folder lies in `$ZEROGATE_CACHE`, by default `~/.cache/zerogate`, under a name made from the archive's place, size
and time. It appears whole or not at all: unpacking happens beside it and ends in a rename.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from filelock import FileLock

from zerogate.cache import cache_folder
from zerogate.errors import UserError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".zip")


def is_archive(path: Path) -> bool:
    """Whether a file is called like an archive."""
    return path.name.lower().endswith(SUFFIXES)


def unpacked(archive: Path) -> Path:
    """The folder of an archive's content, unpacked at the first call.

    Raises:
        UserError: no such file, a broken archive, one that would write outside its folder, no room on the disk, or a
            cache folder that cannot be written.
    """
    try:
        state = archive.stat()
        stamp = f"{archive.resolve()} {state.st_size} {state.st_mtime_ns}"
    except OSError as error:
        raise UserError(f"cannot read {archive}: {error.strerror}") from error
    stem = archive.name.split(".")[0]
    folder = cache_folder() / "archives" / f"{stem}-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Several processes of one run ask at once: the first unpacks, the others wait.
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if not folder.is_dir():
                _unpack(archive, folder)
    except OSError as error:
        raise UserError(
            f"cannot unpack {archive} to {folder.parent}: {error.strerror or error}; "
            "another place is named with the environment variable ZEROGATE_CACHE"
        ) from error
    return folder


def image_folder(named: str, option: str = "data.images") -> Path:
    """The folder that `data.images`, or another option, names, itself or as an archive.

    Raises:
        UserError: it is not there, or is a file of another kind.
    """
    path = Path(named).expanduser()
    if not path.exists():
        raise UserError(f"{option}={named} not found (looked in {Path.cwd()})")
    if path.is_dir():
        return path
    if not is_archive(path):
        raise UserError(f"{option}={named} is neither a folder nor an archive ({', '.join(SUFFIXES)})")
    return unpacked(path)


def _unpack(archive: Path, folder: Path) -> None:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:  # its names are kept inside the folder by zipfile itself
                _refuse_without_room(archive, sum(member.file_size for member in opened.infolist()), partial)
                opened.extractall(partial)
        else:
            with tarfile.open(archive) as opened:
                members = opened.getmembers()
                _refuse_without_room(archive, sum(member.size for member in members), partial)
                opened.extractall(partial, members=members, filter="data")
        partial.chmod(0o755)
        os.replace(partial, folder)
    except tarfile.FilterError as error:
        raise UserError(f"{archive} would write outside its folder, which no data set does: {error}") from error
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(f"{archive} is a broken archive: {error}; get it again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _refuse_without_room(archive: Path, size: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{archive} holds {size / 2**30:.1f} GiB, but {cache_folder()} has {free / 2**30:.1f} GiB left; another "
            "place is named with the environment variable ZEROGATE_CACHE"
        )
