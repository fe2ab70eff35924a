"""What a run says when it is ended from outside: by SIGTERM (of a scheduler, or of a launcher whose other worker died),
or by the loss of another process that it was talking to. Each is one line that names the checkpoint to go on from.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch.distributed import DistBackendError

from zerogate.errors import UserError
from zerogate.training import checkpoints

# How gloo and NCCL begin or word what they raise when the other side is gone.
_LOST = ("gloo", "connection", "nccl", "peer", "socket", "broken pipe")


@contextmanager
def told_when_stopped(folder: Path, processes: int) -> Iterator[None]:
    """Inside, SIGTERM and the loss of another process end as a `UserError`.

    Args:
        folder: of the checkpoints.
        processes: of this run.
    """

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        raise UserError(f"stopped by SIGTERM; {_how_to_go_on(folder)}")

    main = threading.current_thread() is threading.main_thread()  # no other may set a handler
    before = signal.signal(signal.SIGTERM, on_sigterm) if main else None
    try:
        yield
    except RuntimeError as error:
        words = str(error).lower()
        lost = isinstance(error, DistBackendError) or any(word in words for word in _LOST)
        if processes == 1 or not lost:
            raise
        raise UserError(
            f"another process of this run has ended: its own output says why. {_how_to_go_on(folder)} "
            f"({str(error).strip().splitlines()[0][:200]})"
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _how_to_go_on(folder: Path) -> str:
    last = checkpoints.newest(folder)
    return f"the last complete checkpoint is {last[1]}; go on with --resume" if last else "there is no checkpoint yet"
