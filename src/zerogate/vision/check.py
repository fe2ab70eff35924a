"""Look at every image of a data set before training starts, so that nothing breaks half way through an epoch.

    report = check_images([(record.row, record.images) for record in records])
    report.bad          # {17: "cats/3.png: broken or truncated: ..."}

Each image is read to its end once, whatever number of rows share it, on all cores. The digests that caches and leak
checks need are known afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from zerogate.errors import UserError
from zerogate.vision.images import check_image
from zerogate.vision.source import ImageSource

_SHOW_PROGRESS_FROM = 500


@dataclass(frozen=True)
class ImageReport:
    """What a look at all images found.

    Attributes:
        images: how many there are; one that several rows share counts once.
        several_frames: how many of them are animated or have several pages. The first frame is used.
        bad: by row, what is wrong with its first image that cannot be used.
    """

    images: int = 0
    several_frames: int = 0
    bad: dict[int, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report in words, nothing for what there is not."""
        lines = [f"{self.images:,} images"] if self.images else []
        if self.bad:
            row = min(self.bad)
            lines.append(f"{len(self.bad):,} rows with images that cannot be used left out: row {row}, {self.bad[row]}")
        if self.several_frames:
            lines.append(f"{self.several_frames:,} images are animated or have several pages: the first frame is used")
        return lines

    def refuse(self, source: str, way_out: str = "", most: int = 10) -> None:
        """Stop if any image is bad.

        Raises:
            UserError: the first bad rows, one on each line, and how many there are.
        """
        if not self.bad:
            return
        rows = sorted(self.bad)
        listed = "".join(f"\n  row {row}: {self.bad[row]}" for row in rows[:most])
        more = f"\n  and {len(rows) - most:,} more" if len(rows) > most else ""
        raise UserError(f"{source}: {len(rows):,} rows have images that cannot be used{way_out}:{listed}{more}")


def check_images(rows: Iterable[tuple[int, Sequence[ImageSource]]], workers: int | None = None) -> ImageReport:
    """Read every image.

    Args:
        rows: row numbers with their images.
        workers: threads; as many as there are cores by default (PIL reads and decodes without Python's lock).
    """
    from rich.console import Console
    from rich.progress import track

    rows = list(rows)
    sources = {source.key: source for _, images in rows for source in images}
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        checked = pool.map(_check, sources.values())
        shown = track(
            checked,
            "Checking images",
            total=len(sources),
            console=Console(stderr=True),
            transient=True,
            disable=len(sources) < _SHOW_PROGRESS_FROM,
        )
        found = dict(zip(sources, shown, strict=True))
    bad: dict[int, str] = {}
    for row, images in rows:
        for source in images:
            if isinstance(fault := found[source.key], str):
                bad.setdefault(row, fault)
    frames = sum(isinstance(result, int) and result > 1 for result in found.values())
    return ImageReport(len(sources), frames, bad)


def _check(source: ImageSource) -> int | str:
    """The number of frames, or what is wrong. The digest stays with the source."""
    try:
        frames = check_image(source)
        assert source.digest
    except UserError as error:
        return str(error)
    return frames
