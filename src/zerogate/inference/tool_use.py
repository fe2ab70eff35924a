"""Tools in a conversation. A model with a chat template asks for calls in turns of their own, as it was trained to; one
that has learned Toolformer's way calls in the midst of its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zerogate.bases.sampling import RowSampler, Sampling
from zerogate.data import Turn
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.inference.generate import Answer, Engine
from zerogate.inference.streaming import TextStream, cut_at_stop
from zerogate.tools.registry import Toolbox
from zerogate.tools.render import before_calls, descriptions, read_calls, result_message
from zerogate.tools.runtime import answer_with_tools
from zerogate.tools.tool import Called

if TYPE_CHECKING:
    from zerogate.vision.source import ImageSource

_OPENINGS = ("<tool_call>", "<|python_tag|>", "{")


@dataclass
class ToolUse:
    """The tools of a conversation, and how far they may go.

    Attributes:
        tools: what may be called; any other name gets an error for its result.
        on_call: hears of every call.
        most_calls: per answer; 0 switches the tools off.
        open_top_k: in a text, a call is begun where its opening is among so many likeliest continuations.
    """

    tools: Toolbox
    on_call: Callable[[Called], None] = lambda called: None
    most_calls: int = 3
    open_top_k: int = 10

    def by_turns(self, template: TemplateName) -> bool:
        """Whether calls are turns of their own, by how the model is asked."""
        return template != "plain"

    def described(self, template: TemplateName) -> tuple[dict[str, Any], ...]:
        """What the chat template is told of the tools."""
        return tuple(descriptions(self.tools)) if self.by_turns(template) and self.most_calls else ()

    def run(self, text: str, made: int) -> list[Turn]:
        """Run the calls that an answer asks for, and word them as turns; nothing where it asks for none.

        Args:
            text: the answer.
            made: turns of calls and results so far; no more calls are made once they are too many.
        """
        # A marked call of a tool that is not there gets an error; an object without marks is data then.
        marked = "<tool_call>" in text
        calls = [call for call in read_calls(text) if marked or self.tools.find(call.name) is not None]
        if not calls or made >= 2 * self.most_calls:
            return []
        asked = tuple({"name": call.name, "arguments": call.arguments} for call in calls)
        steps = [Turn("assistant", text.strip(), tool_calls=asked, spoken=before_calls(text).strip())]
        for call in calls:
            called = self.tools.call(call.name, call.arguments)
            self.on_call(called)
            steps.append(Turn("tool", result_message(called)["content"]))
        return steps

    def stream(
        self,
        engine: Engine,
        prompt: Sequence[int],
        sampling: Sampling,
        on_text: Callable[[str], None],
        adapter: str,
        before: Sequence[int] = (),
        images: Sequence[ImageSource] = (),
    ) -> Answer:
        """As `Engine.stream`, with calls in the text. They are told to `on_call` and are no part of the answer's text.

        Raises:
            UserError: as `Engine.stream`; images, which go with no calls yet.
        """
        if images:
            raise UserError("calls in a text and images do not go together yet: leave out --tools, or the image")
        stream = TextStream(engine.tokenizer, on_text, sampling.stop, before)
        stream.put(torch.tensor(prompt))

        def told(ids: list[int], called: Called | None) -> None:
            if called is None:
                stream.put(torch.tensor(ids))
            else:
                self.on_call(called)

        try:
            with engine.only(adapter):
                answer = answer_with_tools(
                    engine.model,
                    engine.tokenizer,
                    [*prompt, *before],
                    self.tools,
                    max_new_tokens=sampling.max_new_tokens,
                    open_top_k=self.open_top_k,
                    most_calls=self.most_calls,
                    choose=_chooser(sampling),
                    told=told,
                )
        except KeyboardInterrupt:
            return Answer(stream.text(), stream.ids, "interrupted")
        stream.end()
        _, stopped = cut_at_stop(stream.text(), sampling.stop)
        return Answer(stream.text(), answer.ids, "stop" if stopped else "end" if answer.ended else "length")


class HeldBack:
    """Shows an answer as it comes, but for what looks like a call: that waits until it is known to be none."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self.on_text, self.text, self.told = on_text, "", 0

    def __call__(self, piece: str) -> None:
        """Take a piece of text."""
        self.text += piece
        begun = self.text.lstrip()
        if any(begun.startswith(one[: len(begun)]) for one in _OPENINGS):
            return
        settled = self.text.find("<tool_call>")
        # The end may be the beginning of a call that comes in the middle of the text.
        held = next((n for n in range(len("<tool_call>") - 1, 0, -1) if self.text.endswith("<tool_call>"[:n])), 0)
        self._tell(settled if settled >= 0 else len(self.text) - held)

    def release(self, end: int | None = None) -> None:
        """It was no call: show all of it, or what comes before `end`, where the calls begin."""
        self._tell(len(self.text) if end is None else end)

    def _tell(self, end: int) -> None:
        if end > self.told:
            piece, self.told = self.text[self.told : end], end
            self.on_text(piece)


def _chooser(sampling: Sampling) -> Callable[[Tensor], int] | None:
    """Picks a token as `Engine.stream` would."""
    if sampling.greedy:
        return None
    sampler = RowSampler(sampling, [sampling.seed])
    return lambda logits_V: int(sampler(torch.empty(1, 0, dtype=torch.long), logits_V[None]).argmax())  # type: ignore[arg-type]
