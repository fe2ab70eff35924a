"""`zerogate` commands as processes of their own that need not import torch and transformers each by itself.

A server that has imported them, and done nothing else, forks one process per command; from there on it is the command
line as users have it: arguments, folder, environment, output, exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

_IMPORTS = ["trl", "peft", "transformers.models.auto.modeling_auto", "zerogate.adapters", "zerogate.cli.main"]


def run_command(arguments: list[str], folder: Path, environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run `zerogate ARGUMENTS` in `folder`; its exit status, and all that it printed.

    Raises:
        TimeoutError: it was still running after so many seconds, and was ended.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    log = folder / ".printed"
    process = context.Process(target=_become, args=(arguments, folder, environment, log))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise TimeoutError(f"zerogate {' '.join(arguments)}: still running after {seconds} s\n{_read(log)}")
    printed = _read(log)
    log.unlink()
    return process.exitcode, printed


def _read(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _become(arguments: list[str], folder: Path, environment: dict[str, str], log: Path) -> None:
    with log.open("wb") as file, open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, buffering=1) for n, mode in ((0, "r"), (1, "w"), (2, "w")))
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["zerogate", *arguments]
    from zerogate.cli.main import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
