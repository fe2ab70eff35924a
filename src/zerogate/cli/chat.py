"""`zerogate chat`: talk to a model in the terminal. The conversation itself is `zerogate.inference.chat`; this is
its screen.

Lines that begin with a slash are commands: `chat_commands.py`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zerogate.cli import options
from zerogate.cli.chat_commands import COMMANDS, Left, names, plain
from zerogate.data.jsonl import whole_text
from zerogate.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from zerogate.inference import Answer
    from zerogate.inference.chat import Chat
    from zerogate.tools.tool import Called

EPILOG = """[bold]Examples[/]

zerogate chat --adapter runs/demo

zerogate chat -a fox=runs/fox -a sums=runs/sums     (then: /adapter sums)

zerogate chat --adapter runs/demo-image     (then: /image circle.png)

zerogate chat --base Qwen/Qwen3-0.6B --persona my-persona.yaml

zerogate chat -a runs/toolform-pocket/adapter --tools calculator,calendar

While talking: /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.
"""


def chat(
    base: options.Base = None,
    adapter: options.Adapters = None,
    persona: Annotated[
        str, typer.Option("--persona", "-p", metavar="NAME", help="A persona that ships, or the path of a YAML file.")
    ] = "assistant",
    tools: Annotated[
        list[str] | None,
        typer.Option(metavar="TOOL", help="What the model may call: calculator, calendar, search=FOLDER, and more."),
    ] = None,
    max_calls: Annotated[
        int, typer.Option(min=0, help="Calls of tools in one answer; 0 forbids them, for a look at the difference.")
    ] = 3,
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
    toolbox = None
    if tools:
        from zerogate.inference.reading import reader_of
        from zerogate.tools.named import named_tools

        toolbox = named_tools(tools, reader_of=reader_of)
    engine, base_name = options.load_engine(base, adapters, dtype, device, quantization, allow_pickle)
    from zerogate.inference.chat import Chat

    conversation = Chat(engine, chosen, None if template == "auto" else template)
    if toolbox is not None:
        from zerogate.inference.tool_use import ToolUse

        conversation.tools = ToolUse(toolbox, most_calls=max_calls)
    conversation.sampling = conversation.sampling.updated({"seed": seed})
    screen = Screen(conversation, Console(highlight=False))
    if conversation.tools is not None:
        conversation.tools.on_call = screen.called
    listed = ", ".join(engine.adapters) or "no adapter"
    screen.note(f"{base_name} with {listed}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.")
    screen.greet()
    screen.run()


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
                    line = whole_text(input("\n> " if at_terminal else "").strip())
                    if line:
                        self.take(line)
                except KeyboardInterrupt:
                    self.note("\nCtrl-D or /quit leaves.")
                except UserError as error:
                    self.console.print(f"[red]{plain(str(error))}[/]")
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
                    f"{name} takes no images, and {names(self.chat.waiting)} waits to be shown: /image drop takes it "
                    "back, /adapter NAME chooses one that does"
                )
            if self.chat.waiting:
                self.note(f"(shown: {names(self.chat.waiting)})")
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
            self.note(f"(answered without a look at {names(unseen)}: this adapter takes no images)")

    def called(self, called: Called) -> None:
        """A call of a tool: one line in place of all that went to and fro."""
        given = ", ".join(str(value) for value in called.arguments.values())
        came = called.result if called.error is None else f"no answer: {called.error}"
        self.console.file.flush()
        self.note(f" [{called.name}({given}) \N{RIGHTWARDS ARROW} {came}]")

    def note(self, text: str) -> None:
        """Something that is not part of the conversation."""
        self.console.print(f"[dim]{plain(text)}[/]", soft_wrap=True)

    def greet(self) -> None:
        """The persona's greeting."""
        if self.chat.persona.greeting:
            self.console.print(f"[bold]{plain(self.chat.persona.name)}[/]: {plain(self.chat.persona.greeting.strip())}")


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
