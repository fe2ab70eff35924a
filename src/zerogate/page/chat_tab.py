"""The chat: menus on top, the conversation, the line to write in. What is said is kept in the server, per open page."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.inference.chat import Exchange
from zerogate.page.asking import follow, question
from zerogate.page.conversation import Conversation, pictures
from zerogate.page.presets import DEFAULT, differences
from zerogate.page.saying import menu, notice, seeing, trouble
from zerogate.serving.problems import ApiError

if TYPE_CHECKING:
    from zerogate.page.mount import Parts

FIRST = "assistant"
"""The persona that a page begins with."""


@dataclass
class Sliders:
    """The sampling settings on the screen, in the order of `values`."""

    temperature: gr.Slider
    top_p: gr.Slider
    top_k: gr.Number
    max_new_tokens: gr.Slider
    repetition_penalty: gr.Slider
    stop: gr.Textbox
    seed: gr.Number

    @property
    def all(self) -> list[Any]:
        """As inputs or outputs of an event."""
        return list(vars(self).values())

    @staticmethod
    def sampling(values: tuple[Any, ...]) -> Sampling:
        """What the screen says.

        Raises:
            UserError: a value does not fit.
        """
        temperature, top_p, top_k, longest, penalty, stop, seed = values
        return Sampling().updated(
            {
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k or 0,
                "max_new_tokens": longest,
                "repetition_penalty": penalty,
                "stop": tuple(line for line in (stop or "").split("\n") if line),
                "seed": seed or 0,
            }
        )

    @staticmethod
    def values(sampling: Sampling) -> list[Any]:
        """The other way; the seed stays as it is."""
        return [
            sampling.temperature, sampling.top_p, sampling.top_k, sampling.max_new_tokens,
            sampling.repetition_penalty, "\n".join(sampling.stop), gr.skip(),
        ]  # fmt: skip


def sliders(context: int | None) -> Sliders:
    """The settings, as the server has them by default."""
    plain = Sampling()
    with gr.Row():
        temperature = gr.Slider(0, 2, plain.temperature, step=0.05, label="temperature", info="0 is greedy")
        top_p = gr.Slider(0.05, 1, plain.top_p, step=0.05, label="top_p", info="share of the likeliest")
        longest = gr.Slider(
            1, min(4096, context or 4096), plain.max_new_tokens, step=1, label="longest answer", info="in tokens"
        )
        penalty = gr.Slider(0.5, 2, plain.repetition_penalty, step=0.05, label="repetition penalty", info="1 is none")
    with gr.Row():
        top_k = gr.Number(plain.top_k, label="top_k", info="0 keeps all", minimum=0, precision=0)
        seed = gr.Number(plain.seed, label="seed", info="regenerate adds 1", minimum=0, precision=0)
        stop = gr.Textbox("", label="stop strings", info="one a line, four at most", lines=1, max_lines=4)
    return Sliders(temperature, top_p, top_k, longest, penalty, stop, seed)


def chat_tab(parts: Parts, blocks: gr.Blocks) -> None:
    """Lay it out, and say what happens on which event."""
    service = parts.service
    said = gr.State(Conversation())
    with gr.Row(elem_classes="menus"):
        models = menu(service)
        model = gr.Dropdown(
            models, value=models[min(1, len(models) - 1)][1], label="adapter", elem_id="model", min_width=120
        )
        persona = gr.Dropdown(
            list(parts.people.places()), value=FIRST, label="persona", elem_id="persona", min_width=100
        )
        preset = gr.Dropdown(
            list(parts.presets.all()), value=DEFAULT, label="sampling", elem_id="preset", min_width=100
        )
        rescan = gr.Button("\N{CLOCKWISE OPEN CIRCLE ARROW}", elem_classes="again", elem_id="rescan", size="md")
    chat = gr.Chatbot(
        elem_id="chat",
        show_label=False,
        editable="user",
        buttons=["copy"],
        placeholder=_greeting(parts, FIRST),
        feedback_options=None,
        allow_tags=False,
    )
    box = gr.MultimodalTextbox(
        elem_id="box",
        show_label=False,
        placeholder="Ask something",
        file_types=["image"],
        file_count="multiple",
        max_plain_text_length=20_000,
        autofocus=True,
    )
    note = gr.HTML(notice(""), elem_id="note")
    with gr.Accordion("Sampling settings", open=False, elem_id="settings"):
        bars = sliders(service.engine.context)
        with gr.Row(elem_classes="menus"):
            preset_name = gr.Textbox(label="keep these settings as", max_length=40, elem_id="preset-name")
            keep = gr.Button("Keep", elem_id="preset-keep", size="md")
            drop = gr.Button("Delete the chosen one", elem_id="preset-drop", size="md")
        preset_note = gr.HTML(notice(""), elem_id="preset-note")
    with gr.Accordion("Write a persona", open=False, elem_id="personas"):
        with gr.Row(elem_classes="menus"):
            name = gr.Textbox(label="name", max_length=40, elem_id="persona-name")
            greeting = gr.Textbox(label="greeting", info="shown, never sent", elem_id="persona-greeting")
            history = gr.Number(None, label="earlier exchanges to send", info="empty: all that fit", precision=0)
        context = gr.Textbox(label="context", info="always sent, never cut", lines=3, elem_id="persona-context")
        write = gr.Button("Keep", elem_id="persona-keep", size="md")
        persona_note = gr.HTML(notice(""), elem_id="persona-note")

    answering = _Answering(parts)
    shown = [chat, box, note, bars.seed]
    settings = [model, persona, *bars.all]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    box.submit(answering.say, [said, box, *settings], shown, **quiet)
    box.stop(answering.stop, [said], None, **quiet)
    chat.retry(answering.again, [said, *settings], shown, **quiet)
    chat.edit(answering.edit, [said, *settings], shown, **quiet)
    chat.undo(answering.undo, [said], shown, **quiet)
    chat.clear(answering.clear, [said], shown, **quiet)

    def become(name: str) -> list[Any]:
        try:
            found = parts.people.get(name)
            sampling = Sampling().updated(found.sampling)
        except UserError as error:
            return [gr.skip(), trouble(error), *[gr.skip()] * len(bars.all)]
        return [gr.update(placeholder=_greeting(parts, name)), notice(""), *bars.values(sampling)]

    def choose(name: str) -> list[Any]:
        try:
            return [notice(""), *bars.values(parts.presets.get(name))]
        except UserError as error:
            return [trouble(error), *[gr.skip()] * len(bars.all)]

    def keep_preset(name: str, *values: Any) -> list[Any]:
        try:
            sampling = bars.sampling(values)
            kept = parts.presets.keep(name, sampling)
        except UserError as error:
            return [gr.skip(), trouble(error)]
        changed = ", ".join(f"{key} {value}" for key, value in differences(sampling).items()) or "nothing"
        return [gr.update(choices=list(parts.presets.all()), value=kept), notice(f"Kept: {kept} changes {changed}.")]

    def drop_preset(name: str) -> list[Any]:
        try:
            parts.presets.drop(name)
        except UserError as error:
            return [gr.skip(), trouble(error)]
        return [gr.update(choices=list(parts.presets.all()), value=DEFAULT), notice(f"{name} is deleted.")]

    def keep_persona(name: str, context: str, greeting: str, history: float | None) -> list[Any]:
        try:
            kept = parts.people.write(name, context, greeting, None if history is None else max(0, int(history)))
        except UserError as error:
            return [gr.skip(), trouble(error)]
        return [gr.update(choices=list(parts.people.places()), value=kept), notice(f"{kept} is kept and chosen.")]

    persona.change(become, persona, [chat, note, *bars.all], **quiet)
    preset.input(choose, preset, [note, *bars.all], **quiet)
    keep.click(keep_preset, [preset_name, *bars.all], [preset, preset_note], **quiet)
    drop.click(drop_preset, preset, [preset, preset_note], **quiet).success(
        lambda: bars.values(Sampling()), None, bars.all, **quiet
    )
    write.click(keep_persona, [name, context, greeting, history], [persona, persona_note], **quiet)

    async def look_again(chosen: str) -> list[Any]:
        try:
            await asyncio.to_thread(service.pool.scan)
        except UserError as error:
            return [gr.skip(), trouble(error)]
        return [fresh(parts, chosen), notice(found(parts))]

    rescan.click(look_again, model, [model, note], **quiet)
    blocks.load(
        lambda: [*(gr.update(choices=choices) for choices in _menus(parts)), notice(found(parts))],
        None,
        [model, persona, preset, note],
        **quiet,
    )


def _menus(parts: Parts) -> list[list[Any]]:
    return [menu(parts.service), list(parts.people.places()), list(parts.presets.all())]


def fresh(parts: Parts, chosen: str) -> Any:
    """A menu of models as they are now; what was chosen stays if it is still there."""
    choices = menu(parts.service)
    names = [name for _, name in choices]
    return gr.update(choices=choices, value=chosen if chosen in names else parts.service.base)


def found(parts: Parts) -> str:
    """What a look through the folder of adapters came to."""
    broken = [entry.name for entry in parts.service.pool.entries.values() if entry.problem]
    count = len(parts.service.models()) - 1
    text = f"{count} adapter{'' if count == 1 else 's'}"
    return text + (f"; not usable: {', '.join(broken[:5])}{' ...' if len(broken) > 5 else ''}" if broken else "")


def _greeting(parts: Parts, name: str) -> str:
    try:
        return parts.people.get(name).greeting.replace(", or type /help", "").strip()
    except UserError:
        return ""


@dataclass
class _Answering:
    """What happens to a conversation."""

    parts: Parts

    async def say(
        self, said: Conversation, given: dict[str, Any], model: str, persona: str, *values: Any
    ) -> AsyncGenerator[list[Any], None]:
        """Ask what is in the box."""
        text, files = given["text"].strip(), given["files"]
        if said.answering:
            yield [gr.skip(), gr.skip(), notice("An answer is on its way: stop it first, or wait."), gr.skip()]
            return
        if not text:
            why = "Write something about the picture." if files else ""
            yield [gr.skip(), gr.skip(), notice(why), gr.skip()]
            return
        said.exchanges.append(Exchange(text, images=pictures(files)))
        async with aclosing(self._answer(said, model, persona, values, given)) as updates:
            async for update in updates:
                yield update

    async def again(
        self, said: Conversation, model: str, persona: str, *values: Any
    ) -> AsyncGenerator[list[Any], None]:
        """Answer the last question anew, with the next seed."""
        if said.answering or not said.exchanges:
            return
        last = said.cut(-1)
        said.exchanges.append(Exchange(last.user, images=last.images))
        *others, seed = values
        values = (*others, int(seed or 0) + 1)
        async with aclosing(self._answer(said, model, persona, values, None, last)) as updates:
            async for update in updates:
                yield update

    async def edit(
        self, said: Conversation, edited: gr.EditData, model: str, persona: str, *values: Any
    ) -> AsyncGenerator[list[Any], None]:
        """Word a question anew: what came after it goes, and it is answered."""
        if said.answering:
            yield [said.messages(), gr.skip(), notice("An answer is on its way: stop it first, or wait."), gr.skip()]
            return
        index = edited.index if isinstance(edited.index, int) else edited.index[0]
        text = str(edited.value).strip()
        try:
            number = said.place(index)
        except IndexError:
            return
        if not text:
            yield [said.messages(), gr.skip(), notice("A question cannot be empty."), gr.skip()]
            return
        old = said.cut(number)
        said.exchanges.append(Exchange(text, images=old.images))
        async with aclosing(self._answer(said, model, persona, values, None, old)) as updates:
            async for update in updates:
                yield update

    def stop(self, said: Conversation) -> None:
        """Stop was pressed: the answer ends where it is."""
        said.stopping = True

    def undo(self, said: Conversation) -> list[Any]:
        """Take the last exchange back, to be written anew."""
        if said.answering or not said.exchanges:
            return [said.messages(), gr.skip(), gr.skip(), gr.skip()]
        last = said.cut(-1)
        return [said.messages(), _open({"text": last.user, "files": _files(last)}), notice(""), gr.skip()]

    def clear(self, said: Conversation) -> list[Any]:
        """Begin anew."""
        said.exchanges.clear()
        said.stopping = True
        return [[], _open(), notice(""), gr.skip()]

    async def _answer(
        self,
        said: Conversation,
        model: str,
        persona: str,
        values: tuple[Any, ...],
        given: dict[str, Any] | None,
        instead: Exchange | None = None,
    ) -> AsyncGenerator[list[Any], None]:
        """Answer the last exchange. If that cannot be done, it goes: `given` is back in the box, or `instead` there."""
        service, limits = self.parts.service, self.parts.settings.limits
        exchange = said.exchanges[-1]
        said.answering, said.stopping = True, False
        begun = time.monotonic()
        try:
            yield [said.messages(), _busy(), notice(f"{model} is answering ..."), values[-1]]
            sampling = Sliders.sampling(values)
            who = self.parts.people.get(persona)
            ask, forgotten = await question(service, model, who, said.exchanges, sampling, limits.images)
            finish, tokens = "", 0
            async with aclosing(follow(service, [ask], limits.answer, lambda: said.stopping)) as news:
                async for (progress,) in news:
                    exchange.assistant, tokens = progress.text, progress.tokens
                    finish = progress.finish or ""
                    yield [said.messages(), gr.skip(), gr.skip(), gr.skip()]
            if said.stopping and not exchange.assistant and exchange in said.exchanges:
                said.exchanges[-1:] = [instead] if instead is not None else []
                yield [said.messages(), _open(given), notice("Stopped."), gr.skip()]
                return
            seconds = time.monotonic() - begun
            parts = [f"{model}: {tokens} tokens in {seconds:.1f} s"]
            if said.stopping:
                parts = [f"Stopped. {parts[0]}"]
            elif not exchange.assistant:
                parts.append("it had nothing to say")
            if finish == "length":
                parts.append("cut at the length limit")
            if forgotten and who.history is None:
                parts.append(f"the oldest {forgotten} exchanges no longer fit and were not sent")
            if any(e.images for e in said.exchanges) and model not in seeing(service):
                parts.append("answered without a look at the pictures: this adapter takes none")
            yield [said.messages(), _open(), notice("; ".join(parts) + "."), gr.skip()]
        except (ApiError, UserError) as error:
            if not exchange.assistant and exchange in said.exchanges:
                said.exchanges[-1:] = [instead] if instead is not None else []
            yield [said.messages(), _open(given), trouble(error), gr.skip()]
        finally:
            said.answering = said.stopping = False


def _files(exchange: Exchange) -> list[str]:
    return [str(image.path) for image in exchange.images]


def _busy() -> Any:
    return gr.update(value=None, submit_btn=False, stop_btn=True)


def _open(value: dict[str, Any] | None = None) -> Any:
    again: dict[str, Any] = {"value": value} if value is not None else {}
    return gr.update(submit_btn=True, stop_btn=False, **again)
