"""The four layouts of instruction data, each turned into records: Alpaca, ShareGPT, OpenAI messages, prompt/completion.

`detect_format` looks at the first row's field names; a recipe may name the format instead. A row that does not fit
is a `UserError` with its number. Any of them may have images (`image_fields.py`).
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from zerogate.data.image_fields import MARKER, PART_TYPES, Images, part_value, place_images, shows_images
from zerogate.data.read import Row
from zerogate.data.records import Record, Role, Turn
from zerogate.errors import UserError
from zerogate.vision.source import ImageSource

FormatName = Literal["alpaca", "sharegpt", "messages", "prompt_completion"]

_SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
_MESSAGE_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def detect_format(row: dict[str, Any]) -> FormatName:
    """Name the format from one row's fields.

    Raises:
        UserError: the fields belong to no known format.
    """
    if "instruction" in row and "output" in row:
        return "alpaca"
    if "messages" in row:
        return "messages"
    if "conversations" in row:
        turns = row["conversations"]
        first = turns[0] if isinstance(turns, list) and turns else None
        return "messages" if isinstance(first, dict) and "role" in first else "sharegpt"
    if "prompt" in row and "completion" in row:
        return "prompt_completion"
    raise UserError(
        f"unknown data format: the first row has the fields {', '.join(map(str, row)) or '(none)'}. Known: alpaca "
        f"(instruction, input, output), "
        "sharegpt (conversations with from and value), messages (messages with role and content), prompt_completion "
        "(prompt, completion)"
    )


def to_records(
    rows: list[Row], format: FormatName, source: str, image_folder: Path | None = None, use_images: bool = True
) -> list[Record]:
    """Turn rows into records.

    Args:
        rows: numbered rows, from `read_rows`.
        format: the layout they are in.
        source: what to call the file in errors.
        image_folder: where relative paths of images start; by default the folder of `source`.
        use_images: false leaves images and their markers out.

    Raises:
        UserError: a row lacks a field, holds something else than text, or has images that do not fit its markers; its
            number is in the message. Images are not opened here.
    """
    convert = _CONVERTERS[format]
    place = Path(source).expanduser()
    images = Images(image_folder or (place if place.is_dir() else place.parent), use_images)
    records = []
    number = 0
    try:
        for number, row in rows:
            records.append(convert(number, row, images))
        # Where nothing shows an image, "<image>" is text like any other.
        if any(record.images for record in records) or any(shows_images(row) for _, row in rows):
            for index, (place_in_file, row) in enumerate(rows):
                number = place_in_file
                record = place_images(records[index], records[index].images or images.of_columns(row))
                records[index] = record if use_images else replace(record, images=())
    except ValueError as error:
        raise UserError(f"{source}, row {number}: {error} (format {format})") from error
    return records


class _BadRowError(ValueError):
    """What is wrong with one row; `to_records` adds where."""


def _text(row: dict[str, Any], field: str, default: str | None = None) -> str:
    value = row.get(field)
    if value is None:
        if default is None:
            raise _BadRowError(f"the field {field!r} is missing")
        return default
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _BadRowError(f"the field {field!r} holds {type(value).__name__}, not text")
    return str(value)


def _answer(row: dict[str, Any], field: str) -> str:
    """An answer. An empty one is no mistake here: `data.nothing_to_learn` says what becomes of its row."""
    return _text(row, field, "" if field in row else None)


def _alpaca(number: int, row: dict[str, Any], images: Images) -> Record:
    user = Turn("user", _text(row, "instruction"), input=_text(row, "input", ""))
    system = (Turn("system", _text(row, "system")),) if row.get("system") else ()
    return Record(number, (*system, user, Turn("assistant", _answer(row, "output"))))


def _prompt_completion(number: int, row: dict[str, Any], images: Images) -> Record:
    if isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):  # TRL's conversational layout
        return _messages(number, {**row, "messages": [*row["prompt"], *row["completion"]]}, images)
    turns = (Turn("user", _text(row, "prompt")), Turn("assistant", _answer(row, "completion")))
    return Record(number, turns, plain=True)


def _sharegpt(number: int, row: dict[str, Any], images: Images) -> Record:
    turns: list[Turn] = []
    if row.get("system"):
        turns.append(Turn("system", _text(row, "system")))
    for message in _list(row, "conversations"):
        speaker = _text(message, "from")
        if speaker not in _SHAREGPT_ROLES:
            raise _BadRowError(f"unknown speaker {speaker!r}; known: {', '.join(_SHAREGPT_ROLES)}")
        text = _text(message, "value")
        calls = _parse_calls(text) if speaker == "function_call" else ()
        turns.append(Turn(_SHAREGPT_ROLES[speaker], text, tool_calls=calls))
    return _conversation(number, turns, row.get("tools"))


def _messages(number: int, row: dict[str, Any], images: Images) -> Record:
    turns: list[Turn] = []
    shown: list[Any] = []
    for message in _list(row, "messages" if "messages" in row else "conversations"):
        speaker = _text(message, "role")
        if speaker not in _MESSAGE_ROLES:
            raise _BadRowError(f"unknown role {speaker!r}; known: {', '.join(_MESSAGE_ROLES)}")
        content = message.get("content")
        if isinstance(content, list):
            shown += [part_value(part) for part in content if _is_image(part)]
            content = "".join(f"\n{MARKER}\n" if _is_image(part) else _text(part, "text") for part in content)
        calls = _openai_calls(message)
        spoken = _text({"content": content}, "content", "" if calls else None)
        if calls:
            text = "\n".join([spoken] * bool(spoken.strip()) + [json.dumps(call, ensure_ascii=False) for call in calls])
            turns.append(Turn(_MESSAGE_ROLES[speaker], text, tool_calls=calls, spoken=spoken))
        else:
            turns.append(Turn(_MESSAGE_ROLES[speaker], spoken))
    record = _conversation(number, turns, row.get("tools"))
    return replace(record, images=_shown(shown, row, images)) if shown else record


def _is_image(part: Any) -> bool:
    if not isinstance(part, dict) or part.get("type") not in ("text", *PART_TYPES):
        raise _BadRowError("only text parts and image parts are supported in a message's content")
    return part["type"] != "text"


def _shown(parts: list[Any], row: dict[str, Any], images: Images) -> tuple[ImageSource, ...]:
    """The images of content parts: their own, or the column's in order."""
    column = list(images.of_columns(row))
    without = sum(value is None for value in parts)
    if without > len(column):
        raise _BadRowError(
            f"{without} image parts of its messages name no image, and the row has {len(column)} in 'images'; "
            "without such a column only text parts and parts with an image of their own are supported"
        )
    if without < len(column):
        raise _BadRowError(f"the row has {len(column)} images, its messages {without} image parts for them")
    try:
        return tuple(column.pop(0) if value is None else images.source(value) for value in parts)
    except ValueError as error:
        raise _BadRowError(f"the image of a content part {error}") from error


def _list(row: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = row.get(field)
    if not isinstance(value, list) or not value or any(not isinstance(item, dict) for item in value):
        raise _BadRowError(f"the field {field!r} must be a list of turns with at least one")
    return value


def _conversation(number: int, turns: list[Turn], tools: Any) -> Record:
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise _BadRowError(f"the field 'tools' holds malformed JSON: {error}") from error
    if isinstance(tools, dict):  # one alone
        tools = [tools]
    if isinstance(tools, str) and not tools.strip():
        tools = ()
    if not isinstance(tools or (), list | tuple) or any(not isinstance(tool, dict) for tool in tools or ()):
        raise _BadRowError("the field 'tools' must be a list of JSON schemas, or the JSON of one")
    return Record(number, tuple(turns), tools=tuple(tools or ()))


def _parse_calls(text: str) -> tuple[dict[str, Any], ...]:
    try:
        calls = json.loads(text)
    except json.JSONDecodeError as error:
        raise _BadRowError(f"a function_call turn holds malformed JSON: {error}") from error
    return tuple(_call(call) for call in (calls if isinstance(calls, list) else [calls]))


def _openai_calls(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """The calls of a message: its `tool_calls`, and the one `function_call` that came before them."""
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise _BadRowError(f"the field 'tool_calls' holds {type(calls).__name__}, not a list of calls")
    older = [message["function_call"]] if message.get("function_call") else []
    return tuple(_call(call.get("function", call) if isinstance(call, dict) else call) for call in (*calls, *older))


def _call(call: Any) -> dict[str, Any]:
    if not isinstance(call, dict) or "name" not in call:
        raise _BadRowError("a tool call needs a name and arguments")
    arguments = call.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except json.JSONDecodeError as error:
            raise _BadRowError(f"a tool call's arguments are malformed JSON: {error}") from error
    return {"name": call["name"], "arguments": arguments}


_CONVERTERS: dict[str, Callable[[int, dict[str, Any], Images], Record]] = {
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "messages": _messages,
    "prompt_completion": _prompt_completion,
}
