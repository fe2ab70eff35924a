"""From a conversation on the page to the service, and its answers back as they come.

A question takes the way of `/v1/chat/completions` (`serving/questions.py`): the same checks, wording and batch. What is
added is what a person expects of a conversation: the oldest exchanges are left out when not all fit, and an answer may
be as long as there is room.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from zerogate.bases.sampling import Sampling
from zerogate.errors import UserError
from zerogate.inference.chat import Exchange
from zerogate.inference.personas import Persona
from zerogate.serving import schema
from zerogate.serving.problems import ApiError
from zerogate.serving.questions import chat_question
from zerogate.serving.service import Answering, Ask, Service
from zerogate.vision.source import ImageSource

LOOK = 0.04
"""Seconds between two looks for news. A page draws no faster, and each drawing costs the server."""

TICK = 1.0
"""Seconds after which a page without news is written to all the same: that is how a closed one is noticed."""

PROMPT_SHARE = 0.75
"""Share of the context that a prompt with a past may take, as in `zerogate chat`: an answer needs room."""


@dataclass(frozen=True)
class Progress:
    """One answer so far.

    Attributes:
        text: all of it until now.
        finish: `stop` or `length` once it is whole.
        tokens: made until now.
    """

    text: str = ""
    finish: str | None = None
    tokens: int = 0


async def question(
    service: Service, model: str, persona: Persona, exchanges: Sequence[Exchange], sampling: Sampling, most_images: int
) -> tuple[Ask, int]:
    """What to ask for the last exchange's question.

    Args:
        service: who will answer.
        model: the base's name or an adapter's.
        persona: always sent.
        exchanges: all that was said; the last has no answer yet.
        sampling: settings; the longest answer becomes shorter where the context has no room for it.
        most_images: in one request.

    Returns:
        The question, and how many of the oldest exchanges it leaves out.

    Raises:
        ApiError: it cannot be asked.
    """
    past, last = list(exchanges[:-1]), exchanges[-1]
    dropped = 0
    if persona.history is not None:
        dropped = max(0, len(past) - persona.history)
        past = past[dropped:]
    context = service.engine.context

    async def fits(start: int) -> bool:
        try:
            words = [replace(exchange, images=()) for exchange in (*past[start:], last)]
            found = await chat_question(service, _request(model, _messages(persona, words, False), sampling), 0)
        except ApiError as error:
            if error.code != "context_length_exceeded":
                raise
            return False
        return context is None or len(found.prompt) <= context * PROMPT_SHARE

    low, high = 0, len(past)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if await fits(middle) else (middle + 1, high)
    sees = service.sees(service.known(model))
    sent = [*past[low:], last]
    messages = await asyncio.to_thread(_messages, persona, sent, sees)
    ask = await chat_question(service, _request(model, messages, sampling), most_images)
    room = service.room(len(ask.prompt), None, sampling.max_new_tokens)
    return replace(ask, sampling=ask.sampling.updated({"max_new_tokens": room})), dropped + low


async def follow(
    service: Service, asks: Sequence[Ask], limit: float, stopped: Callable[[], bool]
) -> AsyncGenerator[list[Progress], None]:
    """Ask all at once, and tell how far each answer is until all are whole.

    Whoever stops listening stops the answers.

    Args:
        service: who answers.
        asks: one or several questions.
        limit: seconds that the answers may take.
        stopped: whether the visitor wants no more of them; looked at with every look for news.

    Raises:
        ApiError: one cannot be answered; the others are stopped.
    """
    end = time.monotonic() + limit
    answerings: list[Answering] = []
    outcome = "gone"
    try:
        for ask in asks:
            answerings.append(await service.start(ask))
        found = [Progress() for _ in asks]
        told = time.monotonic()
        while not all(progress.finish for progress in found):
            await asyncio.sleep(LOOK)
            if stopped():
                return
            now, news = time.monotonic(), False
            if now > end:
                outcome = "timeout"
                raise ApiError(504, f"The answer took longer than {limit:g} seconds.", "timeout")
            for index, answering in enumerate(answerings):
                line = answering.lines[0]
                if line.done or not line.news.is_set():
                    continue
                piece = await line.next()
                assert piece is not None
                answering.came(piece)
                found[index] = Progress(line.writer.text, piece.finish, line.tokens)
                news = True
            if news or now - told > TICK:
                told = now
                yield list(found)
        outcome = "answered"
    except ApiError:
        outcome = "timeout" if outcome == "timeout" else "failed"
        raise
    finally:
        for answering in answerings:
            answering.close(outcome)


def _messages(persona: Persona, exchanges: Sequence[Exchange], sees: bool) -> list[dict[str, Any]]:
    """As OpenAI has them. Earlier images go only to those that see; the last question's own always, to be refused."""
    messages: list[dict[str, Any]] = []
    if persona.context.strip():
        messages.append({"role": "system", "content": persona.context.strip()})
    for example in persona.examples:
        messages += [{"role": "user", "content": example.user}, {"role": "assistant", "content": example.assistant}]
    for number, exchange in enumerate(exchanges):
        last = number == len(exchanges) - 1
        images = exchange.images if sees or last else ()
        parts = [{"type": "image_url", "image_url": {"url": _data_uri(image)}} for image in images]
        content: Any = [*parts, {"type": "text", "text": exchange.user}] if parts else exchange.user
        messages.append({"role": "user", "content": content})
        if not last:
            messages.append({"role": "assistant", "content": exchange.assistant})
    return messages


def _data_uri(image: ImageSource) -> str:
    try:
        return "data:image;base64," + base64.b64encode(image.read()).decode("ascii")
    except UserError as error:
        raise ApiError(400, f"An image cannot be used: {error}.", "invalid_image", "messages") from error


def _request(model: str, messages: list[dict[str, Any]], sampling: Sampling) -> schema.ChatRequest:
    settings = sampling.as_dict()
    del settings["max_new_tokens"]  # what fits is known when the prompt is
    stop = settings.pop("stop")
    try:
        return schema.ChatRequest.model_validate(
            {"model": model, "messages": messages, **settings, **({"stop": stop} if stop else {})}
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise ApiError(400, f"{where}: {first['msg']}", "invalid_value", where) from error
