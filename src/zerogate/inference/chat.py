"""A conversation: who speaks (a persona), what was said, and how much of it the model gets to see. No terminal in here.

The persona's context and examples are always sent. Of what was said the newest exchanges are sent, as many as fit
beside room for an answer; the oldest go first. What is sent is worded by the same templates as training records.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zerogate.bases.sampling import Sampling
from zerogate.data import Turn, prompt_ids
from zerogate.data.image_fields import word_markers
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.inference.generate import Answer, Engine
from zerogate.inference.personas import Persona
from zerogate.inference.tool_use import HeldBack, ToolUse
from zerogate.vision.images import check_image
from zerogate.vision.source import ImageSource, source_from

# A prompt may take this share of the context at most, so that an answer always has room.
_PROMPT_SHARE = 0.75


@dataclass
class Exchange:
    """A question and its answer.

    Attributes:
        user: the question.
        assistant: the answer.
        done: false when the answer was cut short and may be continued.
        images: what was shown with the question.
        steps: calls of tools and their results, between the question and the answer.
    """

    user: str
    assistant: str = ""
    done: bool = False
    images: tuple[ImageSource, ...] = ()
    steps: tuple[Turn, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file: images by their place, or whole where they have none."""
        said: dict[str, Any] = {"user": self.user, "assistant": self.assistant, "done": self.done}
        said |= {"images": [_place(image) for image in self.images]} if self.images else {}
        return said | ({"steps": [asdict(turn) for turn in self.steps]} if self.steps else {})

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Exchange:
        """The exchange that `as_dict` described.

        Raises:
            TypeError, ValueError: it is none.
        """
        images = tuple(source_from(place, Path()) for place in said.get("images", ()))
        steps = tuple(Turn(**{**step, "tool_calls": tuple(step["tool_calls"])}) for step in said.get("steps", ()))
        return cls(**{**said, "images": images, "steps": steps})


def _place(image: ImageSource) -> str:
    return image.key if image.path is not None else f"data:;base64,{base64.b64encode(image.read()).decode()}"


class Chat:
    """One conversation with one engine."""

    def __init__(
        self, engine: Engine, persona: Persona, template: TemplateName | None = None, tools: ToolUse | None = None
    ) -> None:
        """Begin a conversation; with no template named, each adapter is asked as it was taught."""
        self.engine = engine
        self.tools = tools
        self.template = template
        self.adapter = engine.resolve(None)
        self.exchanges: list[Exchange] = []
        self.become(persona)
        self.forgotten = 0
        self.waiting: list[ImageSource] = []

    def become(self, persona: Persona) -> None:
        """Take a persona and its sampling; what was said stays."""
        self.persona = persona
        self.sampling = Sampling().updated(persona.sampling)

    def use_adapter(self, name: str) -> None:
        """Answer with this adapter from now on; `base` is none at all.

        Raises:
            UserError: no adapter of that name was loaded.
        """
        self.adapter = self.engine.resolve("__base__" if name == "base" and name not in self.engine.adapters else name)

    def show(self, image: ImageSource) -> None:
        """Show an image with the next question.

        Raises:
            UserError: it cannot be read, or the adapter takes no images.
        """
        self.engine.encoders.refuse(self.adapter, [image])
        check_image(image)
        self.waiting.append(image)

    def say(self, text: str, on_text: Callable[[str], None]) -> Answer:
        """Ask something, about the images that wait to be shown if there are any, and stream the answer.

        Raises:
            UserError: the question does not fit into the context, its images cannot be shown, or it has the marker
                `<image>` and not as many as images; it is then not kept.
        """
        self.exchanges.append(Exchange(text, images=tuple(self.waiting)))
        answer = self._answer(on_text)
        self.waiting.clear()
        return answer

    def again(self, on_text: Callable[[str], None]) -> Answer:
        """Answer the last question anew, with the next seed.

        Raises:
            UserError: nothing was asked yet.
        """
        last = self._last()
        self.sampling = replace(self.sampling, seed=self.sampling.seed + 1)
        self.exchanges[-1] = Exchange(last.user, images=last.images)
        return self._answer(on_text, keep=last)

    def go_on(self, on_text: Callable[[str], None]) -> Answer:
        """Continue the last answer where it ended.

        Raises:
            UserError: nothing was asked yet, or the context is full.
        """
        self._last()
        return self._answer(on_text, keep=replace(self.exchanges[-1]))

    def undo(self) -> Exchange:
        """Take the last exchange back and return it.

        Raises:
            UserError: nothing was said yet.
        """
        self._last()
        return self.exchanges.pop()

    def reset(self) -> None:
        """Forget what was said; the persona stays."""
        self.exchanges.clear()
        self.waiting.clear()
        self.forgotten = 0

    def prompt(self, before: list[int] | None = None) -> list[int]:
        """Ids of the prompt for the last question: persona, then as much of the past as fits, then the question.

        Args:
            before: ids of the answer's beginning, which take room too.

        Raises:
            UserError: persona and question alone do not fit.
        """
        past = self.exchanges[:-1]
        if self.persona.history is not None:
            past = past[len(past) - min(self.persona.history, len(past)) :]
        template = self.template or self.engine.template_for(self.adapter)
        limit = None if self.engine.context is None else int(self.engine.context * _PROMPT_SHARE)
        for start in range(len(past) + 1):
            known = self.tools.described(template) if self.tools is not None else ()
            ids = prompt_ids(self._turns(past[start:]), template, self.engine.tokenizer, known)
            if limit is None or len(ids) + len(before or []) <= limit:
                self.forgotten = len(self.exchanges) - 1 - len(past[start:])
                return ids
        # The past is gone and it is still long: persona and question are never cut, so there is no way but to say so.
        if self.engine.context is not None and len(ids) + len(before or []) < self.engine.context:
            self.forgotten = len(self.exchanges) - 1
            return ids
        raise UserError(
            f"the persona and this question take {len(ids)} tokens, and the base has room for {self.engine.context} "
            "with the answer: ask in fewer words, or choose a shorter persona"
        )

    def images(self) -> list[ImageSource]:
        """What the adapter looks at for the last question: the images of all that `prompt` sent, oldest first.

        Earlier images are left out for an adapter that takes none; the last question's own are not, and it refuses.
        """
        sent, last = self.exchanges[self.forgotten : -1], self.exchanges[-1]
        before = [image for exchange in sent for image in exchange.images]
        return [*(before if self.adapter in self.engine.encoders.seeing else []), *last.images]

    def _turns(self, past: list[Exchange]) -> list[Turn]:
        turns = [Turn("system", self.persona.context.strip())] if self.persona.context.strip() else []
        for example in self.persona.examples:
            turns += [Turn("user", example.user), Turn("assistant", example.assistant)]
        shown = 0
        for exchange in [*past, self.exchanges[-1]]:
            (question,) = word_markers([exchange.user], len(exchange.images), shown)
            turns += [Turn("user", question), *exchange.steps]
            turns += [Turn("assistant", exchange.assistant)] if exchange is not self.exchanges[-1] else []
            shown += len(exchange.images)
        return turns

    def _answer(self, on_text: Callable[[str], None], keep: Exchange | None = None) -> Answer:
        """Answer, or go on answering, the last exchange; `keep` is put back in its place when that fails."""
        exchange = self.exchanges[-1]
        before: list[int] = []
        if exchange.assistant:
            before = self.engine.tokenizer(exchange.assistant, add_special_tokens=False)["input_ids"]
        try:
            answer = self._tell(on_text, before)
        except UserError:
            self.exchanges[-1:] = [keep] if keep is not None else []
            raise
        exchange.assistant += answer.text
        exchange.done = answer.finish in ("end", "stop")
        return answer

    def _tell(self, on_text: Callable[[str], None], before: list[int]) -> Answer:
        """The answer's text; with tools, after what they said."""
        while True:
            prompt, images = self.prompt(before), self.images()
            if self.tools is None:
                return self.engine.stream(prompt, self.sampling, on_text, self.adapter, before, images)
            template = self.template or self.engine.template_for(self.adapter)
            if not self.tools.by_turns(template):
                return self.tools.stream(self.engine, prompt, self.sampling, on_text, self.adapter, before, images)
            shown = HeldBack(on_text)
            answer = self.engine.stream(prompt, self.sampling, shown, self.adapter, before, images)
            last = self.exchanges[-1]
            steps = self.tools.run(answer.text, len(last.steps))
            if not steps:
                shown.release()
                return answer
            last.steps += tuple(steps)

    def _last(self) -> Exchange:
        if not self.exchanges:
            raise UserError("nothing was said yet")
        return self.exchanges[-1]

    def save(self, path: Path) -> None:
        """Write the conversation to a JSON file: whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a file in it")
        content = {
            "persona": self.persona.model_dump(),
            "adapter": self.adapter,
            "sampling": self.sampling.as_dict(),
            "exchanges": [exchange.as_dict() for exchange in self.exchanges],
        }
        draft = path.with_name(f".{path.name}.part")
        try:
            with draft.open("w", encoding="utf-8") as file:
                json.dump(content, file, ensure_ascii=False, indent=2)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {error.strerror}") from error

    def load(self, path: Path) -> None:
        """Take up a saved conversation. An adapter that is not loaded now leaves the present one in use.

        Raises:
            UserError: no such file, not a saved conversation, or one with an image that cannot be read any more; the
                present conversation is then as it was.
        """
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            persona = Persona.model_validate(content["persona"])
            sampling = Sampling().updated(content["sampling"])
            exchanges = [Exchange.from_dict(exchange) for exchange in content["exchanges"]]
            adapter = str(content["adapter"])
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not a conversation that /save wrote") from error
        for image in [image for exchange in exchanges for image in exchange.images]:
            try:
                check_image(image)
            except UserError as error:
                raise UserError(f"{path} is about an image that cannot be read any more: {error}") from error
        self.persona, self.sampling, self.exchanges, self.forgotten = persona, sampling, exchanges, 0
        self.waiting.clear()
        if adapter in (*self.engine.adapters, "__base__"):
            self.adapter = adapter
