"""Requests as OpenAI's clients send them, made into questions (`service.Ask`): messages to a prompt, settings checked.

A conversation is worded as the adapter's training was (`data/templates.py`), so an adapter gets here what it gets from
`zerogate generate` and `zerogate chat`.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from zerogate.bases.sampling import Sampling
from zerogate.data import Turn, prompt_ids
from zerogate.data.templates import TemplateName
from zerogate.errors import UserError
from zerogate.serving import schema
from zerogate.serving.problems import ApiError
from zerogate.serving.service import Ask, Service, random_seed
from zerogate.vision.images import check_image
from zerogate.vision.source import ImageSource, source_from

CHAT_TOKENS = 256
"""Longest answer of a chat where the request names no limit, as in `zerogate generate`."""

COMPLETION_TOKENS = 16
"""Longest completion where the request names no limit: OpenAI's."""

_SHORT = 20_000
_encoding = threading.Lock()  # fast tokenizers are no two threads' at once


async def chat_question(service: Service, request: schema.ChatRequest, most_images: int) -> Ask:
    """The question of a chat request.

    Raises:
        ApiError: it cannot be asked: see `docs/serve.md` for what gets which status.
    """
    model = service.known(request.model)
    template = service.template_for(model)
    if request.store:
        raise ApiError(400, "Nothing is stored: store can only be false.", "unsupported_value", "store")
    pictures: list[ImageSource] = []
    turns = [_turn(message, number, pictures) for number, message in enumerate(request.messages)]
    if pictures and not service.sees(model):
        raise ApiError(400, f"The model {model!r} takes no images.", "invalid_image", "messages")
    if len(pictures) > most_images:
        raise ApiError(400, f"{len(pictures)} images are more than the {most_images} of one request.", param="messages")
    for picture in pictures:
        try:
            await asyncio.to_thread(check_image, picture)
        except UserError as error:
            raise ApiError(400, f"An image cannot be used: {error}.", "invalid_image", "messages") from error
    tools: tuple[dict[str, Any], ...] = ()
    if request.tools and request.tool_choice != "none":
        if template == "plain":
            raise ApiError(
                400,
                f"The model {model!r} was trained on plain texts and has no place for tools in its prompt.",
                "unsupported_value",
                "tools",
            )
        tools = tuple(_tool(tool) for tool in request.tools)
    length = sum(len(turn.content) for turn in turns)

    def encode() -> list[int]:
        return prompt_ids(turns, cast("TemplateName", template), service.tokenizer, tools)

    prompt = await _encoded(service, encode, length, "messages")
    asked = request.max_completion_tokens or request.max_tokens
    if request.top_logprobs is not None and not request.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true.", "invalid_value", "top_logprobs")
    top = (request.top_logprobs or 0) if request.logprobs else None
    return _ask(service, request, model, prompt, service.room(len(prompt), asked, CHAT_TOKENS), top, tuple(pictures))


async def completion_questions(service: Service, request: schema.CompletionRequest) -> list[Ask]:
    """The questions of a completion request, one per prompt.

    Raises:
        ApiError: one cannot be asked.
    """
    model = service.known(request.model)
    if request.echo:
        raise ApiError(400, "Prompts are not repeated: echo can only be false.", "unsupported_value", "echo")
    given = request.prompt
    many: Sequence[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    asks = []
    for one in many:
        if isinstance(one, str):
            _whole(one, "prompt")

            def encode(text: str = one) -> list[int]:
                return list(service.tokenizer(text)["input_ids"])

            prompt = await _encoded(service, encode, len(one), "prompt")
        else:
            prompt = list(one)
            if max(prompt) >= service.vocabulary:
                raise ApiError(
                    400,
                    f"The token {max(prompt)} is none of the model's {service.vocabulary}.",
                    "invalid_prompt",
                    "prompt",
                )
        limit = service.room(len(prompt), request.max_tokens, COMPLETION_TOKENS)
        asks.append(_ask(service, request, model, prompt, limit, request.logprobs, ()))
    return asks


def _ask(
    service: Service,
    request: schema.Common,
    model: str,
    prompt: list[int],
    limit: int,
    top: int | None,
    images: tuple[ImageSource, ...],
) -> Ask:
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options needs stream: true.", "invalid_value", "stream_options")
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    for string in stop:
        _whole(string, "stop")
    plain = Sampling()
    given = {
        # Below this it is greedy; dividing by it would leave the range of numbers.
        "temperature": 0.0 if request.temperature is not None and request.temperature < 1e-4 else request.temperature,
        "top_p": request.top_p,
        "top_k": None if request.top_k is None else min(request.top_k, service.vocabulary),
        "repetition_penalty": request.repetition_penalty,
    }
    seed = request.seed if request.seed is not None else random_seed()
    sampling = plain.updated(
        {name: value for name, value in given.items() if value is not None}
        | {"max_new_tokens": limit, "stop": tuple(stop), "seed": seed % 2**62}
    )
    return Ask(
        model,
        prompt,
        sampling,
        n=request.n or 1,
        seeded=request.seed is not None,
        top=top,
        frequency=request.frequency_penalty or 0.0,
        presence=request.presence_penalty or 0.0,
        bias=_bias(service, request.logit_bias or {}),
        images=images,
        ignore_ends=bool(request.ignore_eos),
    )


def _bias(service: Service, given: dict[str, float]) -> dict[int, float]:
    bias = {}
    for token, value in given.items():
        if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < service.vocabulary):
            raise ApiError(
                400, f"logit_bias names {token[:40]!r}, which is no token of the model.", "invalid_value", "logit_bias"
            )
        bias[int(token)] = value
    return bias


async def _encoded(service: Service, encode: Any, length: int, param: str) -> list[int]:
    """The ids of a text; very long ones are refused unread, long ones read in a thread."""
    context = service.engine.context
    if context is not None and length > context * service.longest_token:
        raise ApiError(
            400,
            f"The model has room for {context} tokens, and a text of {length} characters has more.",
            "context_length_exceeded",
            param,
        )

    def locked() -> list[int]:
        with _encoding:
            return cast("list[int]", encode())

    try:
        return locked() if length < _SHORT and not _encoding.locked() else await asyncio.to_thread(locked)
    except UserError as error:
        raise ApiError(400, f"{error}.", "invalid_value", param) from error


def _turn(message: Any, number: int, pictures: list[ImageSource]) -> Turn:
    param = f"messages[{number}]"
    text = _text(message.content, param, pictures)
    match message:
        case schema.SystemMessage():
            return Turn("system", text)
        case schema.UserMessage():
            return Turn("user", text)
        case schema.ToolMessage():
            return Turn("tool", text)
    if not message.tool_calls:
        return Turn("assistant", text)
    calls = []
    for call in message.tool_calls:
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise ApiError(
                400,
                f"The arguments of the call {call.id[:40]!r} are no JSON object.",
                "invalid_value",
                f"{param}.tool_calls",
            )
        _whole(json.dumps([call.function.name, arguments], ensure_ascii=False), param)
        calls.append({"name": call.function.name, "arguments": arguments})
    written = [json.dumps(call, ensure_ascii=False) for call in calls]  # as in `data/formats.py`
    content = "\n".join([text] * bool(text.strip()) + written)
    return Turn("assistant", content, tool_calls=tuple(calls), spoken=text)


def _text(content: Any, param: str, pictures: list[ImageSource]) -> str:
    """A message's text: its parts in one, as in training, where an image is named only between two texts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return _whole(content, param)
    text, between = "", ""
    for part in content:
        if isinstance(part, schema.ImagePart):
            pictures.append(_picture(part.image_url.url, param))
            between += f"\nimage {len(pictures)}\n"
        elif text or not between:
            text, between = text + between + _whole(part.text, param), ""
        else:
            text, between = _whole(part.text, param).lstrip(), ""
    return text.rstrip() if between else text


def _picture(url: str, param: str) -> ImageSource:
    # Only this: a path would read the server's own files, and an address would make it fetch what strangers name.
    if not url[:5].lower() == "data:":
        raise ApiError(
            400,
            "image_url must be a data: URI with the image itself (data:image/png;base64,...): nothing is fetched.",
            "invalid_image_url",
            param,
        )
    try:
        return source_from("data:" + url[5:], Path())
    except ValueError as error:
        raise ApiError(400, f"The image {error}.", "invalid_image_url", param) from error


def _tool(tool: schema.Tool) -> dict[str, Any]:
    function = tool.function
    _whole(json.dumps([function.description, function.parameters], ensure_ascii=False), "tools")
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.parameters or {"type": "object", "properties": {}},
        },
    }


def _whole(text: str, param: str) -> str:
    """The text, if it is one: JSON can spell halves of characters, which no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ApiError(
            400, "The text has half of a character in it (a lone surrogate).", "invalid_value", param
        ) from None
    return text
