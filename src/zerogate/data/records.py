"""What one training record is, whatever file it came from: turns of a conversation, and the row it was read from.

Every format in `formats.py` produces these, every template in `templates.py` consumes them, and nothing else is
passed between the two.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        role: who speaks. `tool` is what a called tool gave back.
        content: the text.
        input: Alpaca's second field, for a user turn that has one.
        tool_calls: the calls an assistant turn makes, each `{"name": str, "arguments": dict}`.
    """

    role: Role
    content: str
    input: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Record:
    """One record of a data set.

    Attributes:
        row: where it was read: the line of a JSONL file, else the position in the list, both counted from 1.
        turns: the conversation, oldest first.
        tools: JSON schemas of the tools the assistant may call.
        plain: the turns are a raw prompt and completion; `template: auto` then adds nothing around them.
    """

    row: int
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())
    plain: bool = False

    @property
    def prompt_key(self) -> str:
        """The text that asks: all that stands before the first answer. Two records with one key leak."""
        parts: list[str] = []
        for turn in self.turns:
            if turn.role == "assistant":
                break
            parts += [turn.content, turn.input]
        return "\n".join(part for part in parts if part)
