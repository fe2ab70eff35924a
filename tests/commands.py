"""`zerogate` commands as processes of their own that need not import torch and transformers each by itself.

A server that has imported them, and done nothing else, forks one process per command; from there on it is the command
line as users have it: arguments, folder, environment, input and output, exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_IMPORTS = ["trl", "peft", "transformers.models.auto.modeling_auto", "zerogate.adapters", "zerogate.cli.main"]


def run_command(
    *words: str | Path,
    stdin: str = "",
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run `zerogate WORDS`, as `subprocess.run` would with its output captured.

    Args:
        words: of the command, without the program's name.
        stdin: what it is given to read.
        cwd: its folder.
        env: what its environment has besides the test's own.
        timeout: seconds.

    Raises:
        subprocess.TimeoutExpired: it was still running, and was ended.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTS)
    arguments = [str(word) for word in words]
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / name for name in ("in", "out", "err")]
        paths[0].write_text(stdin, encoding="utf-8")
        environment = {**os.environ, **(env or {})}
        process = context.Process(target=_become, args=(arguments, str(cwd or Path.cwd()), environment, paths))
        process.start()
        process.join(timeout)
        late = process.exitcode is None
        if late:
            process.kill()
            process.join()
        out, err = (path.read_text(encoding="utf-8", errors="replace") for path in paths[1:])
        if late:
            raise subprocess.TimeoutExpired(["zerogate", *arguments], timeout, out, err)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(["zerogate", *arguments], process.exitcode, out, err)


def _become(arguments: list[str], folder: str, environment: dict[str, str], paths: list[Path]) -> None:
    for number, (path, flags) in enumerate(zip(paths, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT] * 2), strict=True)):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["zerogate", *arguments]
    from zerogate.cli.main import main

    try:
        main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
