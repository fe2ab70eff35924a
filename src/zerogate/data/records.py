"""What one training record is, whatever file it came from: turns of a conversation, and the row it was read from.

Every format in `formats.py` produces these, every template in `templates.py` consumes them, and nothing else is
passed between the two.
"""

import re
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from zerogate.vision.source import ImageSource

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        role: who speaks. `tool` is what a called tool gave back.
        content: the text. Of a turn with calls this is all that it says, the calls as JSON among it.
        input: Alpaca's second field, for a user turn that has one.
        tool_calls: the calls an assistant turn makes, each `{"name": str, "arguments": dict}`.
        spoken: the text of a turn with calls without them, for chat templates, which word calls themselves.
    """

    role: Role
    content: str
    input: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    spoken: str = ""


@dataclass(frozen=True)
class Record:
    """One record of a data set.

    Attributes:
        row: where it was read: the line of a JSONL file, else the position in the list, both counted from 1.
        turns: the conversation, oldest first.
        tools: JSON schemas of the tools the assistant may call.
        plain: the turns are a raw prompt and completion; `template: auto` then adds nothing around them.
        images: what the record shows, in the order of its turns.
        group: records of one group are never parted by a split (the same scene drawn in another order, say). Records
            that share an image are of one group anyway.
    """

    row: int
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())
    plain: bool = False
    images: tuple[ImageSource, ...] = ()
    group: str = ""

    @property
    def prompt_key(self) -> str:
        """What asks: all text before the first answer, and the images' digests before it. Two records of one key leak.

        The same question about another image is another question; the same image under another name is the same.

        Raises:
            UserError: an image cannot be read.
        """
        return "\n".join([*(image_mark(image.digest) for image in self.images), self.prompt_text])

    @property
    def prompt_text(self) -> str:
        """All text before the first answer."""
        asking = takewhile(lambda turn: turn.role != "assistant", self.turns)
        return "\n".join(part for turn in asking for part in (turn.content, turn.input) if part)


_MARK = re.compile(r"(?:<image:[0-9a-f]{64}>\n?)+")


def image_mark(digest: str) -> str:
    """How a question's key names an image."""
    return f"<image:{digest}>"


def split_key(key: str) -> tuple[str, str]:
    """A question's key as (marks of its images, text); the first is empty for text alone."""
    marks = _MARK.match(key)
    return (marks[0].strip(), key[marks.end() :]) if marks else ("", key)
