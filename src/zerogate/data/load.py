"""The whole way from a recipe's `data:` section to encoded training and held-out parts, with the counts to report.

data = load_data(section, tokenizer)
print("\\n".join(data.lines()))
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from zerogate.data.archive import image_folder, is_archive
from zerogate.data.encode import Encoded, encode_records
from zerogate.data.formats import FormatName, detect_format, to_records
from zerogate.data.layouts import LAYOUTS, LayoutName, example_records, read_examples
from zerogate.data.read import read_rows
from zerogate.data.records import Record
from zerogate.data.section import DataSection
from zerogate.data.split import LeakReport, balance, find_leaks, split_held_out
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.vision.check import ImageReport, check_images

# The embedded base's own instructions: all of them, or a split within the training half for choosing settings; and
# questions about drawn pictures.
POCKET = ("pocket", "pocket-tuning", "pocket-pictures")


@dataclass(frozen=True)
class Data:
    """Encoded data and what is known of it. Its images have been looked at: they can all be read.

    Attributes:
        train: sequences to learn from.
        held_out: sequences to measure on, or None.
        format: the layout the records had.
        template: how they were worded.
        leaks: held-out prompts that training also has, or None.
        images: what the look at all images of `train` found; rows in `bad` were left out.
        held_out_images: the same of `held_out`.
        balanced: to each question in `train` every answer is there equally often.
        looked_at: whether the adapter that learns from them takes images.
    """

    train: Encoded
    held_out: Encoded | None
    format: FormatName | LayoutName
    template: TemplateName
    leaks: LeakReport | None
    images: ImageReport = field(default_factory=ImageReport)
    held_out_images: ImageReport = field(default_factory=ImageReport)
    balanced: bool = False
    looked_at: bool = True

    def lines(self) -> list[str]:
        """What was read, in words."""
        lines = [f"{self.train.report.records:,} training records ({self.format} format, {self.template} template)"]
        lines += ["balanced: to each question every answer equally often"] * self.balanced
        lines += self.train.report.lines()
        if self.held_out is not None and self.leaks is not None:
            lines.append(f"{self.held_out.report.records:,} held-out records; {self.leaks.line()}")
            lines += [f"held out: {line}" for line in self.held_out.report.lines()]
        lines += self.images.lines()
        lines += [f"held out: {line}" for line in self.held_out_images.lines()]
        if self.images.images and not self.looked_at:
            lines.append("nobody looks at the images: the adapter takes none (adapter.image_encoder)")
        return lines


def load_records(section: DataSection) -> tuple[list[Record], list[Record], FormatName | LayoutName]:
    """Read the records of a section and split them: (training, held out, format). The second part may be empty.

    Images are not opened here: `load_data` does it, and `check_images` of `zerogate.vision`.

    Raises:
        UserError: anything wrong with the files.
    """
    format: FormatName | LayoutName
    if section.path in POCKET:
        train, held_out, format = _pocket_records(section)
    else:
        train, format = _read(section.path, section)
        held_out = []
    if (aside := section.set_aside) is not None and section.path not in POCKET:
        train, _ = split_held_out(train[: aside.limit], aside.held_out, aside.split_seed)
    if section.limit is not None:
        train = train[: section.limit]
    if isinstance(section.held_out, str):
        held_out, _ = _read(section.held_out, section)
    elif section.held_out is not None and section.path not in POCKET:
        train, held_out = split_held_out(train, section.held_out, section.split_seed)
    if section.balance:
        train = balance(train, section.split_seed)
    return train, held_out, format


def load_data(section: DataSection, tokenizer: PreTrainedTokenizerBase, looked_at: bool = True) -> Data:
    """Read, split, look at all images, check for leaks and tokenise.

    Args:
        section: the recipe's.
        tokenizer: the base's.
        looked_at: whether the adapter that learns from the data takes images; what is said of them depends on it.

    Raises:
        UserError: anything wrong with the files, the rows or the images.
    """
    train, held_out, format = load_records(section)
    other = section.held_out if isinstance(section.held_out, str) else section.path
    train, images = with_good_images(train, section, section.path, looked_at)
    held_out, held_out_images = with_good_images(held_out, section, other, looked_at)
    template = resolve_template(section, format, tokenizer)

    def encode(records: list[Record], source: str) -> Encoded:
        return encode_records(
            records, tokenizer, template, section.max_length, section.too_long, section.nothing_to_learn, source
        )

    return Data(
        train=encode(train, section.path),
        held_out=encode(held_out, other) if held_out else None,
        format=format,
        template=template,
        leaks=find_leaks(train, held_out) if held_out else None,
        images=images,
        held_out_images=held_out_images,
        balanced=section.balance,
        looked_at=looked_at,
    )


def with_good_images(
    records: list[Record], section: DataSection, source: str, looked_at: bool = True
) -> tuple[list[Record], ImageReport]:
    """The records whose images can all be read, and what the look at them found.

    Args:
        records: what to look at.
        section: says what becomes of rows with others.
        source: what to call the file in errors.
        looked_at: whether the adapter takes images: to one that takes none, a row is whole without.

    Raises:
        UserError: some cannot, and the section does not drop their rows.
    """
    checked = check_images((record.row, record.images) for record in records)
    if section.bad_images == "refuse":
        blind = " (the adapter takes no images: data.use_images=false reads the rows as text alone)"
        checked.refuse(source, " (data.bad_images=drop leaves these rows out)" if looked_at else blind)
    return [record for record in records if record.row not in checked.bad], checked


def resolve_template(
    section: DataSection, format: FormatName | LayoutName, tokenizer: PreTrainedTokenizerBase
) -> TemplateName:
    """What `template: auto` means for this format and tokenizer."""
    if section.template != "auto":
        return section.template
    if format == "prompt_completion":
        return "plain"
    if format in ("sharegpt", "messages") and tokenizer.chat_template is not None:
        return "chat"
    return "alpaca"


def _read(path: str, section: DataSection) -> tuple[list[Record], FormatName | LayoutName]:
    if section.format in LAYOUTS:
        layout = cast(LayoutName, section.format)
        return example_records(read_examples(layout, path, section.split, section.images, section.use_images)), layout
    if is_archive(Path(path)):
        raise UserError(
            f"{path} is an archive: name what it holds with data.format ({', '.join(LAYOUTS)}), or unpack it"
        )
    rows = read_rows(path, section.split)
    format: FormatName
    if section.format == "auto":
        try:
            format = detect_format(rows[0][1])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    else:
        format = cast(FormatName, section.format)
    folder = image_folder(section.images) if section.images is not None else None
    return to_records(rows, format, path, folder, section.use_images), format


def pocket_rows(path: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and held-out rows of the embedded base's own instructions; `path` is one of `POCKET`."""
    from zerogate.bases.pocket.world import instruction_records, tuning_records
    from zerogate.vision.pictures import picture_rows

    if path == "pocket-pictures":
        return picture_rows()
    return instruction_records() if path == "pocket" else tuning_records()


def _pocket_records(section: DataSection) -> tuple[list[Record], list[Record], FormatName]:
    train, held_out = (
        to_records(list(enumerate(part, start=1)), "alpaca", f"{section.path} ({name})", None, section.use_images)
        for part, name in zip(pocket_rows(section.path), ("training part", "held-out part"), strict=True)
    )
    left = ""
    if (aside := section.set_aside) is not None and aside.held_out < len(held_out):
        held_out, _ = split_held_out(held_out, aside.held_out, aside.split_seed)
        left = " besides those set aside"
    if isinstance(section.held_out, int):  # the world brings its own held-out half: take a part of it
        if section.held_out > len(held_out):
            raise UserError(
                f"data.held_out={section.held_out}, but {section.path} has {len(held_out)} held-out records{left}"
            )
        if section.held_out < len(held_out):
            held_out = split_held_out(held_out, section.held_out, section.split_seed)[1]
    return train, held_out, "alpaca"
