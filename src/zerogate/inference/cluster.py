"""A Ray cluster for as long as one command runs: on this machine alone, or an existing one of many machines.

    with cluster(None, processes=2) as places:
        ...                                     # ray.get, ray.remote

The one on this machine has no dashboard and reports nothing to anyone. It talks over ports of its own, which answer
nobody without a token, which this process makes up. Its files are in a temporary folder, and it is gone with the
command, also when that is killed.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from zerogate.errors import UserError

_PREFIX = "zerogate-ray-"
_OBJECT_STORE = 100 * 2**20
"""Bytes for what processes tell each other; prompts and answers are small. Ray wants at least 75 MiB."""


@dataclass(frozen=True)
class Places:
    """What one process of several gets.

    Attributes:
        gpus: GPUs, also a part of one where there are more processes than GPUs; 0 without any.
        threads: of a process that computes on the CPU.
    """

    gpus: float
    threads: int

    @property
    def device(self) -> str:
        """What its models are loaded to: of the GPUs it sees its own only."""
        return "cuda" if self.gpus else "cpu"

    def options(self) -> dict[str, object]:
        """The same as Ray's options of an actor, spread over the machines."""
        return {"num_cpus": 1, "num_gpus": self.gpus, "scheduling_strategy": "SPREAD"}


def share(processes: int, cpus: int, gpus: int, device: str | None) -> Places:
    """Divide CPUs and GPUs among processes.

    Args:
        processes: how many.
        cpus, gpus: how many there are.
        device: `cpu`, `cuda`, or None for a GPU where there is one.

    Raises:
        UserError: a GPU by its number, all of them, or one where there is none.
    """
    if device not in (None, "cpu", "cuda"):
        raise UserError(f"each of several processes gets a GPU of its own, so --device {device} has no meaning; "
                        "leave it out, or take cpu")  # fmt: skip
    if device == "cuda" and not gpus:
        raise UserError("--device cuda was asked for, but Ray sees no GPU here; use cpu")
    threads = max(1, cpus // processes)
    if device == "cpu" or not gpus:
        return Places(0, threads)
    return Places(1 / -(-processes // gpus), threads)


def need_ray() -> None:
    """Before anything else is done: see that Ray is there.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("several workers or replicas need Ray, which is not installed: pip install 'zerogate[ray]'")


@contextmanager
def cluster(address: str | None, processes: int, device: str | None = None, logs: bool = False) -> Iterator[Places]:
    """Start Ray on this machine, or join an existing cluster, and leave it tidy at the end.

    Args:
        address: of an existing cluster, such as `auto`, `10.0.0.1:6379` or `ray://10.0.0.1:10001`; None: this machine.
        processes: how many will run.
        device: as for `share`.
        logs: show on standard error what the processes write.

    Raises:
        UserError: Ray is not installed, there is no cluster at the address, or it is too small; and as `share`.
    """
    need_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # without it Ray tells users that this will be the default
    if address is None and "ray" not in sys.modules:
        # Ray reads the token when it is imported; a program that has done so has one, in the user's home.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    folder: Path | None = None
    try:
        if address is None:
            cores = torch.get_num_threads()  # what one process would take; OMP_NUM_THREADS bounds it
            folder = _own_folder()
            ray.init(
                "local", num_cpus=max(cores, processes), object_store_memory=_OBJECT_STORE, include_dashboard=False,
                log_to_driver=logs, logging_level=logging.ERROR, _temp_dir=str(folder),
            )  # fmt: skip
        else:
            _reach(address)
            try:
                ray.init(address, log_to_driver=logs, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"there is no Ray cluster at {address}: {' '.join(str(error).split())[:300]}"
                ) from error
            cores = int(ray.cluster_resources().get("CPU", 0))
            if cores < processes:
                raise UserError(f"the cluster at {address} has {cores} CPUs, too few for {processes} processes")
        yield share(processes, cores, int(ray.cluster_resources().get("GPU", 0)), device)
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _reach(address: str) -> None:
    """See that somebody is there: Ray itself would try for minutes."""
    if address == "auto":
        return
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        if place.hostname is None or place.port is None:
            raise ValueError("it is no HOST:PORT")
        socket.create_connection((place.hostname, place.port), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(f"there is no Ray cluster at {address}: {error}") from error


def from_anywhere(base: str) -> str:
    """A base's name that means the same in a process elsewhere: a folder by its whole path."""
    folder = Path(base).expanduser()
    return str(folder.resolve()) if folder.is_dir() else base


def _own_folder() -> Path:
    """A new temporary folder, named after this process; those of processes that were killed are removed."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > 30:  # the path of a socket, of which Ray has some in there, has at most 107 characters
        root = Path("/tmp")
    for left in root.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not _alive(int(owner)) and left.stat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
