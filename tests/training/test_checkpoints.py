"""Folders are whole or absent: writers are killed and disks fill up for real; damaged checkpoints are passed over."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from zerogate.errors import UserError
from zerogate.training.checkpoints import checkpoint_path, is_whole, newest, rotate, seal, write_folder, write_text


def make(folder: Path, step: int) -> Path:
    path = checkpoint_path(folder, step)
    path.mkdir(parents=True)
    (path / "weights").write_text("w" * step)
    seal(path)
    return path


def test_newest_passes_over_what_is_not_whole(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    assert newest(tmp_path / "absent") is None
    make(tmp_path, 3)
    make(tmp_path, 12)
    cut = make(tmp_path, 20)
    (cut / "weights").write_text("w")  # a file that lost its end
    (tmp_path / "step-0000030").mkdir()  # no list of files
    assert newest(tmp_path) == (12, checkpoint_path(tmp_path, 12))
    assert not is_whole(cut)


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        make(tmp_path, step)
    rotate(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000002", "step-0000010"]


def test_a_writer_killed_half_way_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "best"
    write_folder(target, lambda folder: (folder / "a").write_text("old") and None)
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from zerogate.training.checkpoints import write_folder\n"
        "def write(folder):\n"
        "    (folder / 'a').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_folder(Path(sys.argv[1]), write)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)])
    assert done.returncode == -signal.SIGKILL
    assert (target / "a").read_text() == "old"
    write_folder(target, lambda folder: (folder / "a").write_text("new") and None)
    assert (target / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["best"]  # the remains are gone too


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from zerogate.errors import UserError
from zerogate.training.checkpoints import write_folder

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # the system refuses to write past it
writers = {
    "plain": lambda folder: (folder / "a").write_bytes(bytes(200_000)) and None,
    "torch": lambda folder: torch.save({"a": torch.zeros(200_000)}, folder / "a"),
    "safetensors": lambda folder: save_file({"a": torch.zeros(200_000)}, folder / "a"),
}
try:
    write_folder(Path(sys.argv[1]), writers[sys.argv[2]])
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("writer", ["plain", "torch", "safetensors"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "best"
    target.mkdir()
    (target / "a").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(target), writer], capture_output=True, text=True, check=True
    )
    assert f"cannot write {target}" in done.stdout and "is the disk full?" in done.stdout
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["best"]


def test_small_files_name_the_place_they_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"cannot write .*file/summary\.json"):
        write_text(tmp_path / "file" / "summary.json", "{}")
