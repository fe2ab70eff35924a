"""The arena: one question, two answers side by side, and a vote. Names can stay hidden until the vote is cast."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from zerogate.errors import UserError
from zerogate.inference.chat import Exchange
from zerogate.inference.personas import load_persona
from zerogate.page.asking import Progress, follow, question
from zerogate.page.chat_tab import fresh
from zerogate.page.conversation import Conversation, pictures
from zerogate.page.presets import DEFAULT, differences
from zerogate.page.saying import menu, notice, trouble
from zerogate.page.votes import VOTES, Vote, Votes
from zerogate.serving.problems import ApiError

if TYPE_CHECKING:
    from zerogate.page.mount import Parts

SIDES = ("left", "right")
_WORDS: dict[Vote, str] = {
    "left": "\N{LEFTWARDS BLACK ARROW} Left is better",
    "tie": "A tie",
    "both bad": "Both are bad",
    "right": "Right is better \N{BLACK RIGHTWARDS ARROW}",
}


@dataclass
class Bout:
    """One question to two models. It lives in the server, so that hidden names are hidden from the browser, too.

    Attributes:
        models: left and right.
        exchanges: the question with the answer of each.
        hidden: whether names are shown with the vote only.
        settings: sampling, as the vote's line has it.
        running: answers are on their way; `stopping`: they are to end where they are.
        open: both answers are there, and no vote is.
    """

    models: tuple[str, str] = ("", "")
    exchanges: tuple[Exchange, Exchange] = field(default_factory=lambda: (Exchange(""), Exchange("")))
    hidden: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    running: bool = False
    stopping: bool = False
    open: bool = False

    def panes(self, named: bool) -> list[Any]:
        """Both sides as they are shown."""
        shown = [Conversation([exchange]).messages() if exchange.user else [] for exchange in self.exchanges]
        return [*shown, *(_head(side, name if named else "") for side, name in zip(SIDES, self.models, strict=True))]


def arena_tab(parts: Parts, blocks: gr.Blocks, tab: gr.Tab) -> None:
    """Lay it out, and say what happens on which event."""
    service = parts.service
    bout = gr.State(Bout())
    models = menu(service)
    with gr.Row(elem_classes="menus"):
        one = gr.Dropdown(models, value=models[min(1, len(models) - 1)][1], label="one", elem_id="one", min_width=110)
        other = gr.Dropdown(models, value=models[0][1], label="the other", elem_id="other", min_width=110)
        preset = gr.Dropdown(
            list(parts.presets.all()), value=DEFAULT, label="sampling", elem_id="arena-preset", min_width=100
        )
        hidden = gr.Checkbox(True, label="hide names until the vote", elem_id="hide", min_width=110)
    with gr.Row():
        looks: dict[str, Any] = {"buttons": ["copy"], "feedback_options": None, "allow_tags": False}
        panes: list[Any] = []
        heads: list[Any] = []
        for side in SIDES:
            with gr.Column(min_width=280):
                heads.append(gr.HTML(_head(side), elem_id=f"{side}-name"))
                panes.append(gr.Chatbot(elem_id=side, show_label=False, **looks))
    with gr.Row():
        buttons = {
            vote: gr.Button(
                words, interactive=False, elem_id=f"vote-{vote.replace(' ', '-')}", size="md", min_width=120
            )
            for vote, words in _WORDS.items()
        }
    note = gr.HTML(notice(""), elem_id="arena-note")
    box = gr.MultimodalTextbox(
        elem_id="arena-box", show_label=False, placeholder="Ask both", file_types=["image"], file_count="multiple",
        max_plain_text_length=20_000,
    )  # fmt: skip
    tally = gr.HTML(tally_table(parts.votes), elem_id="tally")
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    fight = _Fight(parts)
    shown = [*panes, *heads, box, note, *buttons.values()]
    box.submit(fight.ask, [bout, box, one, other, preset, hidden], shown, **quiet)
    box.stop(fight.stop, bout, None, **quiet)
    for vote, button in buttons.items():
        button.click(fight.voter(vote), bout, [*shown, tally], **quiet)

    def begin(first: str, second: str, chosen: str) -> list[Any]:
        presets = list(parts.presets.all())
        left = chosen if chosen in presets else DEFAULT
        menus = [fresh(parts, first), fresh(parts, second), gr.update(choices=presets, value=left)]
        return [*menus, tally_table(parts.votes)]

    gr.on([blocks.load, tab.select], begin, [one, other, preset], [one, other, preset, tally], **quiet)


@dataclass
class _Fight:
    """What happens to a bout."""

    parts: Parts

    async def ask(
        self, bout: Bout, given: dict[str, Any], one: str, other: str, preset: str, hidden: bool
    ) -> AsyncGenerator[list[Any], None]:
        """The same question to both."""
        text, files = given["text"].strip(), given["files"]
        if bout.running or not text:
            why = "Answers are on their way: stop them first, or wait." if bout.running else ""
            yield _same(notice(why))
            return
        if one == other:
            yield _same(trouble("choose two that differ"))
            return
        images = pictures(files)
        models = (one, other)
        if hidden:  # otherwise the order of the menus would give them away
            models = (one, other) if random.SystemRandom().random() < 0.5 else (other, one)
        bout.models, bout.hidden, bout.running, bout.open, bout.stopping = models, hidden, True, False, False
        bout.exchanges = (Exchange(text, images=images), Exchange(text, images=images))
        service, limits = self.parts.service, self.parts.settings.limits
        try:
            yield self._all(bout, gr.update(value=None, submit_btn=False, stop_btn=True), "Both are answering ...")
            sampling = self.parts.presets.get(preset)
            bout.settings = differences(sampling)
            nobody = load_persona("assistant")
            asks = []
            for model, exchange in zip(models, bout.exchanges, strict=True):
                found, _ = await question(service, model, nobody, [exchange], sampling, limits.images)
                asks.append(found)
            async with aclosing(follow(service, asks, limits.answer, lambda: bout.stopping)) as news:
                async for both in news:
                    self._take(bout, both)
                    yield [*bout.panes(not hidden), *[gr.skip()] * (2 + len(_WORDS))]
            bout.open = not bout.stopping
            yield self._all(bout, _open(), "Which is better?" if bout.open else "Stopped. Ask again to vote.")
        except (ApiError, UserError) as error:
            text = trouble(error)
            if hidden:  # an error names the model
                bout.models = ("", "")
            bout.exchanges = (Exchange(""), Exchange(""))
            yield [*bout.panes(False), _open(given), text, *_buttons(False)]
        finally:
            bout.running = False

    @staticmethod
    def _take(bout: Bout, both: list[Progress]) -> None:
        for exchange, progress in zip(bout.exchanges, both, strict=True):
            exchange.assistant = progress.text

    def stop(self, bout: Bout) -> None:
        """Stop was pressed: the answers end where they are, and there is nothing to vote on."""
        bout.stopping = True

    def voter(self, vote: Vote) -> Any:
        """What a button does."""

        def cast(bout: Bout) -> list[Any]:
            if not bout.open:
                return [*_same(notice("Ask something first: one vote for each pair of answers.")), gr.skip()]
            bout.open = False
            try:
                self.parts.votes.add(
                    vote,
                    bout.models,
                    (bout.exchanges[0].assistant, bout.exchanges[1].assistant),
                    hidden=bout.hidden,
                    prompt=bout.exchanges[0].user,
                    images=[image.digest for image in bout.exchanges[0].images],
                    sampling=bout.settings,
                )
            except UserError as error:
                bout.open = True
                return [*_same(trouble(error)), gr.skip()]
            left, right = bout.models
            text = f"Kept: {_WORDS[vote].strip('⬅➡ ')}. Left was {left}, right was {right}."
            return [*bout.panes(True), gr.skip(), notice(text), *_buttons(False), tally_table(self.parts.votes)]

        assert vote in VOTES
        return cast

    def _all(self, bout: Bout, box: Any, text: str) -> list[Any]:
        return [*bout.panes(not bout.hidden), box, notice(text), *_buttons(bout.open)]


def tally_table(votes: Votes) -> str:
    """All votes so far."""
    tally = votes.tally()
    if not tally:
        return '<div class="notice">No votes yet.</div>'
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{score.share:.0%} "
        f'<span class="bar" style="width:{score.share * 4:.2f}rem"></span></td>'
        f"<td>{score.wins}</td><td>{score.losses}</td><td>{score.ties}</td><td>{score.bad}</td></tr>"
        for name, score in tally
    )
    head = "<tr><th>adapter</th><th>won, ties half</th><th>won</th><th>lost</th><th>tied</th><th>both bad</th></tr>"
    return f'<div class="wide"><table class="tally">{head}{rows}</table></div><p class="key">{votes.count} votes</p>'


def _head(side: str, name: str = "") -> str:
    return f'<div class="side">{side}{f": <b>{escape(name)}</b>" if name else ""}</div>'


def _buttons(active: bool) -> list[Any]:
    return [gr.update(interactive=active)] * len(_WORDS)


def _same(text: str) -> list[Any]:
    return [*[gr.skip()] * 5, text, *[gr.skip()] * len(_WORDS)]


def _open(value: dict[str, Any] | None = None) -> Any:
    again: dict[str, Any] = {"value": value} if value is not None else {}
    return gr.update(submit_btn=True, stop_btn=False, **again)
