"""What one visitor has said and heard, and how it is shown: a list of messages, as Gradio's chatbot has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerogate.inference.chat import Exchange
from zerogate.vision.source import ImageSource


@dataclass
class Conversation:
    """One conversation. It lives in the server, one for each open page.

    Attributes:
        exchanges: questions and answers, oldest first.
        answering: an answer is on its way, and nothing else may be asked.
        stopping: it is to end where it is.
    """

    exchanges: list[Exchange] = field(default_factory=list)
    answering: bool = False
    stopping: bool = False

    def messages(self) -> list[dict[str, Any]]:
        """What is shown: images, question, answer, each a message of its own."""
        return [message for exchange in self.exchanges for message in _shown(exchange)]

    def place(self, index: int) -> int:
        """Which exchange the message with this index belongs to.

        Raises:
            IndexError: none does.
        """
        for number, exchange in enumerate(self.exchanges):
            index -= len(_shown(exchange))
            if index < 0:
                return number
        raise IndexError(index)

    def cut(self, number: int) -> Exchange:
        """Take an exchange and all after it out, and return it."""
        found = self.exchanges[number]
        del self.exchanges[number:]
        return found


def pictures(files: list[str]) -> tuple[ImageSource, ...]:
    """Uploaded files as images, called by the names they came with."""
    return tuple(ImageSource(Path(file).name, path=Path(file)) for file in files)


def _shown(exchange: Exchange) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = [
        {"role": "user", "content": {"path": str(image.path), "alt_text": image.name}} for image in exchange.images
    ]
    if exchange.user:
        shown.append({"role": "user", "content": exchange.user})
    if exchange.assistant:
        shown.append({"role": "assistant", "content": exchange.assistant})
    return shown
