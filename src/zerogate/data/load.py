"""The whole way from a recipe's `data:` section to encoded training and held-out parts, with the counts to report.

data = load_data(section, tokenizer)
print("\\n".join(data.lines()))
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from zerogate.data.encode import Encoded, encode_records
from zerogate.data.formats import FormatName, detect_format, to_records
from zerogate.data.read import read_rows
from zerogate.data.records import Record
from zerogate.data.section import DataSection
from zerogate.data.split import LeakReport, find_leaks, split_held_out
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError

# The embedded base's own instructions: all of them, or a split within the training half for choosing settings.
POCKET = ("pocket", "pocket-tuning")


@dataclass(frozen=True)
class Data:
    """Encoded data and what is known of it.

    Attributes:
        train: sequences to learn from.
        held_out: sequences to measure on, or None.
        format: the layout the records had.
        template: how they were worded.
        leaks: held-out prompts that training also has, or None.
    """

    train: Encoded
    held_out: Encoded | None
    format: FormatName
    template: TemplateName
    leaks: LeakReport | None

    def lines(self) -> list[str]:
        """What was read, in words."""
        lines = [f"{self.train.report.records:,} training records ({self.format} format, {self.template} template)"]
        lines += self.train.report.lines()
        if self.held_out is not None and self.leaks is not None:
            lines.append(f"{self.held_out.report.records:,} held-out records; {self.leaks.line()}")
            lines += [f"held out: {line}" for line in self.held_out.report.lines()]
        return lines


def load_records(section: DataSection) -> tuple[list[Record], list[Record], FormatName]:
    """Read the records of a section and split them: (training, held out, format). The second part may be empty.

    Raises:
        UserError: anything wrong with the files.
    """
    if section.path in POCKET:
        train, held_out, format = _pocket_records(section)
    else:
        train, format = _read(section.path, section)
        held_out = []
    if section.limit is not None:
        train = train[: section.limit]
    if isinstance(section.held_out, str):
        held_out, _ = _read(section.held_out, section)
    elif section.held_out is not None and section.path not in POCKET:
        train, held_out = split_held_out(train, section.held_out, section.split_seed)
    return train, held_out, format


def load_data(section: DataSection, tokenizer: PreTrainedTokenizerBase) -> Data:
    """Read, split, check for leaks and tokenise.

    Raises:
        UserError: anything wrong with the files or the rows.
    """
    train, held_out, format = load_records(section)
    template = resolve_template(section, format, tokenizer)

    def encode(records: list[Record], source: str) -> Encoded:
        return encode_records(
            records, tokenizer, template, section.max_length, section.too_long, section.nothing_to_learn, source
        )

    return Data(
        train=encode(train, section.path),
        held_out=encode(held_out, section.held_out if isinstance(section.held_out, str) else section.path)
        if held_out
        else None,
        format=format,
        template=template,
        leaks=find_leaks(train, held_out) if held_out else None,
    )


def resolve_template(section: DataSection, format: FormatName, tokenizer: PreTrainedTokenizerBase) -> TemplateName:
    """What `template: auto` means for this format and tokenizer."""
    if section.template != "auto":
        return section.template
    if format == "prompt_completion":
        return "plain"
    if format in ("sharegpt", "messages") and tokenizer.chat_template is not None:
        return "chat"
    return "alpaca"


def _read(path: str, section: DataSection) -> tuple[list[Record], FormatName]:
    rows = read_rows(path, section.split)
    format: FormatName
    if section.format == "auto":
        try:
            format = detect_format(rows[0][1])
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
    else:
        format = section.format
    return to_records(rows, format, path), format


def pocket_rows(path: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The training and held-out rows of the embedded base's own instructions; `path` is one of `POCKET`."""
    from zerogate.bases.pocket.world import instruction_records, tuning_records

    return instruction_records() if path == "pocket" else tuning_records()


def _pocket_records(section: DataSection) -> tuple[list[Record], list[Record], FormatName]:
    train, held_out = (
        to_records(list(enumerate(part, start=1)), "alpaca", f"{section.path} ({name})")
        for part, name in zip(pocket_rows(section.path), ("training part", "held-out part"), strict=True)
    )
    if isinstance(section.held_out, int):  # the world brings its own held-out half: take a part of it
        if section.held_out > len(held_out):
            raise UserError(
                f"data.held_out={section.held_out}, but {section.path} has {len(held_out)} held-out records"
            )
        if section.held_out < len(held_out):
            held_out = split_held_out(held_out, section.held_out, section.split_seed)[1]
    return train, held_out, "alpaca"
