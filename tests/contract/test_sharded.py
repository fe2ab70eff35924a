"""FSDP2: a base and its adapter, sharded over two processes, learn as they do whole. Real processes over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_sharded_over_two_processes() -> None:
    worker = Path(__file__).with_name("sharded_worker.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=240, cwd=worker.parent)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "sharded equals whole" in done.stdout
