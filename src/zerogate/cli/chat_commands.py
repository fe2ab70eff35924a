"""What can be typed while talking to a model: each line that begins with a slash is one function of `COMMANDS`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zerogate.cli import options
from zerogate.errors import UserError

if TYPE_CHECKING:
    from zerogate.cli.chat import Screen
    from zerogate.inference.chat import Exchange
    from zerogate.vision import ImageSource


class Left(Exception):
    """The user said goodbye: ends the conversation, no error."""


def _reset(screen: Screen, rest: str) -> None:
    """/reset: forget what was said; the persona stays"""
    screen.chat.reset()
    screen.greet()


def _undo(screen: Screen, rest: str) -> None:
    """/undo: take the last question and its answer back"""
    screen.note(f"taken back: {asked(screen.chat.undo())}")


def _regen(screen: Screen, rest: str) -> None:
    """/regen: answer the last question anew, with the next seed"""
    screen.show(screen.chat.again(screen.write))


def _continue(screen: Screen, rest: str) -> None:
    """/continue: go on with the last answer"""
    screen.show(screen.chat.go_on(screen.write))


def _persona(screen: Screen, rest: str) -> None:
    """/persona [NAME]: list the personas, or become one that ships or is in a YAML file"""
    from zerogate.inference.personas import load_persona, shipped

    if not rest:
        screen.note(f"{screen.chat.persona.name}; there are: {', '.join(shipped())}, or the path of a YAML file")
        return
    screen.chat.become(load_persona(rest))
    screen.greet()


def _adapter(screen: Screen, rest: str) -> None:
    """/adapter [NAME]: list the adapters, or answer with another from now on; base is none"""
    if rest:
        screen.chat.use_adapter(rest)
    known = [*screen.chat.engine.adapters, "base"]
    current = "base" if screen.chat.adapter == "__base__" else screen.chat.adapter
    screen.note("  ".join(f"[{name}]" if name == current else name for name in known))


def _image(screen: Screen, rest: str) -> None:
    """/image [FILE | drop]: show a picture with the next message; list those that wait, or drop them"""
    chat = screen.chat
    if rest == "drop":
        dropped = names(chat.waiting) or "there was none"
        chat.waiting.clear()
        screen.note(f"dropped: {dropped}")
        return
    if rest:
        from zerogate.vision import image_size

        source = options.image(_typed_file(rest))
        chat.show(source)
        width, height = image_size(source)
        screen.note(f"{source.name} ({width} x {height}) goes with your next message")
        return
    past = [image for exchange in chat.exchanges for image in exchange.images]
    screen.note(f"with your next message: {names(chat.waiting) or 'none; /image FILE shows one, /image drop drops it'}")
    if past:
        screen.note(f"shown before: {names(past)}")


def _params(screen: Screen, rest: str) -> None:
    """/params [PRESET] [NAME=VALUE ...]: show the sampling settings, or change them"""
    presets = screen.chat.persona.presets
    sampling = screen.chat.sampling
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise UserError(f"a quotation mark or a backslash in {rest!r} has no partner: /params stop='a b'") from error
    for word in words:
        name, sign, value = word.partition("=")
        if not sign and name not in presets:
            raise UserError(
                f"no preset {name!r}; there are: {', '.join(presets) or 'none'}. To set one: temperature=0.7"
            )
        sampling = sampling.updated({name: value} if sign else presets[name])
    screen.chat.sampling = sampling
    screen.note("  ".join(f"{name}={value}" for name, value in sampling.as_dict().items()))
    if presets:
        screen.note(f"presets: {', '.join(presets)}")


def _save(screen: Screen, rest: str) -> None:
    """/save FILE: write the conversation to a file"""
    path = _path(rest, "save")
    screen.chat.save(path)
    screen.note(f"saved in {path}")


def _load(screen: Screen, rest: str) -> None:
    """/load FILE: take up a saved conversation"""
    screen.chat.load(_path(rest, "load"))
    screen.greet()
    for exchange in screen.chat.exchanges:
        screen.note(f"> {asked(exchange)}")
        screen.console.print(plain(exchange.assistant))


def _help(screen: Screen, rest: str) -> None:
    """/help: this list"""
    for command in COMMANDS.values():
        usage, _, text = (command.__doc__ or "").partition(": ")
        screen.console.print(f"  [cyan]{plain(usage):<30}[/] {plain(text)}")
    screen.note("  Ctrl-C stops an answer. Arrow keys bring earlier lines back.")


def _quit(screen: Screen, rest: str) -> None:
    """/quit: leave"""
    raise Left


COMMANDS: dict[str, Callable[[Screen, str], None]] = {
    "reset": _reset,
    "undo": _undo,
    "regen": _regen,
    "continue": _continue,
    "persona": _persona,
    "adapter": _adapter,
    "image": _image,
    "params": _params,
    "save": _save,
    "load": _load,
    "help": _help,
    "quit": _quit,
}


def _path(rest: str, command: str) -> Path:
    if not rest:
        raise UserError(f"/{command} needs a file name: /{command} talk.json")
    return options.home(rest)


def _typed_file(text: str) -> str:
    """A file as it was typed, or dropped onto the terminal, which quotes names that have spaces."""
    from zerogate.vision.source import is_address

    if is_address(text) or os.path.lexists(os.path.expanduser(text)):
        return text
    try:
        words = shlex.split(text)
    except ValueError:  # a lone quotation mark is a part of the name
        return text
    return words[0] if len(words) == 1 else text


def names(images: Sequence[ImageSource]) -> str:
    """Images by name, in one line."""
    return ", ".join(image.name for image in images)


def asked(exchange: Exchange) -> str:
    """A question as the transcript shows it."""
    return f"[{names(exchange.images)}] {exchange.user}" if exchange.images else exchange.user


def plain(text: str) -> str:
    """Text that rich prints as it stands."""
    from rich.markup import escape

    return escape(text)
