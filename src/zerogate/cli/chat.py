"""`zerogate chat`: talk to a model in the terminal. The conversation itself is `zerogate.inference.chat`; this is
its screen.

Lines that begin with a slash are commands, and each is one function in `COMMANDS`.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zerogate.cli import options
from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.inference import Answer
    from zerogate.inference.chat import Chat, Exchange
    from zerogate.vision import ImageSource

EPILOG = """[bold]Examples[/]

zerogate chat --adapter runs/demo

zerogate chat -a fox=runs/fox -a sums=runs/sums     (then: /adapter sums)

zerogate chat --adapter runs/demo-image     (then: /image circle.png)

zerogate chat --base Qwen/Qwen3-0.6B --persona my-persona.yaml

While talking: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.
"""


def chat(
    base: options.Base = None,
    adapter: options.Adapters = None,
    persona: Annotated[
        str, typer.Option("--persona", "-p", metavar="NAME", help="A persona that ships, or the path of a YAML file.")
    ] = "assistant",
    template: options.Template = "auto",
    seed: Annotated[int, typer.Option(help="The same seed and the same words give the same answers.")] = 0,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    quantization: options.Quantization = None,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Talk to a model: streaming, with personas, and with adapters that are switched while talking.

    The persona is always sent; of what was said, as much as fits. The oldest turns go first.
    """
    from rich.console import Console

    from zerogate.inference.personas import load_persona

    adapters = options.named_adapters(adapter)
    chosen = load_persona(persona)
    engine, base_name = options.load_engine(base, adapters, dtype, device, quantization, allow_pickle)
    from zerogate.inference.chat import Chat

    conversation = Chat(engine, chosen, None if template == "auto" else template)
    conversation.sampling = conversation.sampling.updated({"seed": seed})
    screen = Screen(conversation, Console(highlight=False))
    listed = ", ".join(engine.adapters) or "no adapter"
    screen.note(f"{base_name} with {listed}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    screen.greet()
    screen.run()


class Left(Exception):
    """The user said goodbye: ends the conversation, no error."""


@dataclass
class Screen:
    """The terminal side of one conversation."""

    chat: Chat
    console: Console

    def run(self) -> None:
        """Read lines until the user leaves."""
        at_terminal = sys.stdin.isatty()
        remember = _history() if at_terminal else None
        try:
            while True:
                try:
                    line = input("\n> " if at_terminal else "").strip()
                    if line:
                        self.take(line)
                except KeyboardInterrupt:
                    self.note("\nCtrl-D or /quit leaves.")
                except UserError as error:
                    self.console.print(f"[red]{_plain(str(error))}[/]")
        except (EOFError, Left):
            pass
        finally:
            if remember is not None:
                remember()

    def take(self, line: str) -> None:
        """Run one line: a command, or something to say."""
        if not line.startswith("/"):
            if self.chat.waiting and self.chat.adapter not in self.chat.engine.encoders.seeing:
                name = "the base" if self.chat.adapter == "__base__" else f"the adapter {self.chat.adapter!r}"
                raise UserError(
                    f"{name} takes no images, and {_names(self.chat.waiting)} waits to be shown: /image drop takes it "
                    "back, /adapter NAME chooses one that does"
                )
            if self.chat.waiting:
                self.note(f"(shown: {_names(self.chat.waiting)})")
            self.show(self.chat.say(line, self.write))
            return
        name, _, rest = line[1:].partition(" ")
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean /{near[0]}?" if near else "/help lists them all"
            raise UserError(f"there is no command /{name}; {hint}")
        COMMANDS[name](self, rest.strip())

    def write(self, text: str) -> None:
        """A piece of an answer, as it comes; control characters would let a model steer the terminal, so they go."""
        self.console.file.write("".join(letter for letter in text if letter.isprintable() or letter in "\n\t"))
        self.console.file.flush()

    def show(self, answer: Answer) -> None:
        """End an answer's line, and say what the reader should know of it."""
        self.console.file.write("\n")
        self.console.file.flush()
        if answer.finish == "length":
            self.note("(cut at the length limit: /continue goes on)")
        elif answer.finish == "interrupted":
            self.note("(stopped: /continue goes on, /regen answers anew)")
        if self.chat.forgotten and self.chat.persona.history is None:
            self.note(f"({self.chat.forgotten} of the oldest exchanges no longer fit and were not sent)")
        unseen = [image for exchange in self.chat.exchanges for image in exchange.images]
        if unseen and self.chat.adapter not in self.chat.engine.encoders.seeing:
            self.note(f"(answered without a look at {_names(unseen)}: this adapter takes no images)")

    def note(self, text: str) -> None:
        """Something that is not part of the conversation."""
        self.console.print(f"[dim]{_plain(text)}[/]", soft_wrap=True)

    def greet(self) -> None:
        """The persona's greeting."""
        if self.chat.persona.greeting:
            self.console.print(
                f"[bold]{_plain(self.chat.persona.name)}[/]: {_plain(self.chat.persona.greeting.strip())}"
            )


def _reset(screen: Screen, rest: str) -> None:
    """/reset: forget what was said; the persona stays"""
    screen.chat.reset()
    screen.greet()


def _undo(screen: Screen, rest: str) -> None:
    """/undo: take the last question and its answer back"""
    screen.note(f"taken back: {_asked(screen.chat.undo())}")


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
    names = [*screen.chat.engine.adapters, "base"]
    current = "base" if screen.chat.adapter == "__base__" else screen.chat.adapter
    screen.note("  ".join(f"[{name}]" if name == current else name for name in names))


def _image(screen: Screen, rest: str) -> None:
    """/image [FILE | drop]: show a picture with the next message; list those that wait, or drop them"""
    chat = screen.chat
    if rest == "drop":
        dropped = _names(chat.waiting) or "there was none"
        chat.waiting.clear()
        screen.note(f"dropped: {dropped}")
        return
    if rest:
        from zerogate.vision import image_size, source_from

        source = source_from(_typed_file(rest), Path())
        chat.show(source)
        width, height = image_size(source)
        screen.note(f"{source.name} ({width} x {height}) goes with your next message")
        return
    past = [image for exchange in chat.exchanges for image in exchange.images]
    screen.note(
        f"with your next message: {_names(chat.waiting) or 'none; /image FILE shows one, /image drop drops it'}"
    )
    if past:
        screen.note(f"shown before: {_names(past)}")


def _params(screen: Screen, rest: str) -> None:
    """/params [PRESET] [NAME=VALUE ...]: show the sampling settings, or change them"""
    presets = screen.chat.persona.presets
    sampling = screen.chat.sampling
    for word in shlex.split(rest):
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
        screen.note(f"> {_asked(exchange)}")
        screen.console.print(_plain(exchange.assistant))


def _help(screen: Screen, rest: str) -> None:
    """/help: this list"""
    for command in COMMANDS.values():
        usage, _, text = (command.__doc__ or "").partition(": ")
        screen.console.print(f"  [cyan]{_plain(usage):<30}[/] {_plain(text)}")
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
    return Path(rest).expanduser()


def _typed_file(text: str) -> Path:
    """A file as it was typed, or dropped onto the terminal, which quotes names that have spaces."""
    typed = Path(text).expanduser()
    if typed.exists():
        return typed
    try:
        words = shlex.split(text)
    except ValueError:  # a lone quotation mark is a part of the name
        return typed
    return Path(words[0]).expanduser() if len(words) == 1 else typed


def _names(images: Sequence[ImageSource]) -> str:
    return ", ".join(image.name for image in images)


def _asked(exchange: Exchange) -> str:
    """A question as the transcript shows it."""
    return f"[{_names(exchange.images)}] {exchange.user}" if exchange.images else exchange.user


def _plain(text: str) -> str:
    """Text that rich prints as it stands."""
    from rich.markup import escape

    return escape(text)


def _history() -> Callable[[], None] | None:
    """Bring earlier lines back with the arrow keys; returns what saves them, or None where Python has no readline."""
    try:
        import readline
    except ImportError:
        return None
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    file = state / "zerogate" / "chat-history"
    readline.set_history_length(1000)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_file():
            readline.read_history_file(file)
    except OSError:
        # A read-only home or a broken history is no reason not to talk.
        return None

    def save() -> None:
        try:
            readline.write_history_file(file)
        except OSError as error:
            print(f"the history could not be saved in {file}: {error.strerror}", file=sys.stderr)

    return save
