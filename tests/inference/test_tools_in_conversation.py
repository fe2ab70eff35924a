"""A conversation with tools, in both ways of calling: tiny bases that were taught to, real tools, the real engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run_command
from tiny_base import make_base
from transformers import AutoModelForCausalLM, AutoTokenizer

from zerogate.bases.sampling import Sampling
from zerogate.data import Turn
from zerogate.data.templates import prompt_segments
from zerogate.inference import Engine
from zerogate.inference.chat import Chat, Exchange
from zerogate.inference.personas import load_persona
from zerogate.inference.tool_use import HeldBack, ToolUse
from zerogate.tools import Called, Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.render import descriptions

TEMPLATE = (
    "{% if tools %}{{ tools[0].function.name }}|{% endif %}{% for m in messages %}{{ m.role[0] }}:"
    "{% if m.tool_calls %}<tool_call>{{ m.tool_calls[0].function | tojson }}</tool_call>"
    "{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)
CALL = '<tool_call>{"name": "Calculator", "arguments": {"input": "12 * 18"}}</tool_call>'


def teach(folder: Path, texts: list[str], steps: int) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rows = [torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"], 1]]) for text in texts]
    for ids in rows:
        ids[0, 0], ids[0, -1] = tokenizer.bos_token_id, tokenizer.eos_token_id
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = sum(model(input_ids=ids, labels=ids).loss for ids in rows)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def in_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("text"), context=512)
    return teach(folder, ["Jars: [Calculator(12 * 18) -> 216] 216."], 80)


@pytest.fixture(scope="module")
def by_turns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("turns"), context=512, chat_template=TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    known = tuple(descriptions(Toolbox([calculator()])))

    def asked(turns: list[Turn]) -> str:
        return "".join(segment.text for segment in prompt_segments(tuple(turns), "chat", tokenizer, known))

    call = Turn("assistant", CALL, tool_calls=({"name": "Calculator", "arguments": {"input": "12 * 18"}},))
    first, second = [Turn("user", "Jars?")], [Turn("user", "Jars?"), call, Turn("tool", "216")]
    return teach(folder, [asked(first) + CALL, asked(second) + "There are 216."], 150)


def talk(folder: Path, template: Any, **settings: Any) -> tuple[Chat, list[Called]]:
    calls: list[Called] = []
    use = ToolUse(Toolbox([calculator()]), on_call=calls.append, **settings)
    chat = Chat(Engine.load(str(folder), dtype="float32"), load_persona("assistant"), template, use)
    chat.sampling = Sampling(temperature=0, max_new_tokens=120)
    return chat, calls


def test_a_call_in_the_text_is_made_and_not_shown(in_text: Path) -> None:
    chat, calls = talk(in_text, "plain", open_top_k=1)
    pieces: list[str] = []
    answer = chat.say("Jars:", pieces.append)
    assert [(call.name, call.arguments, call.result) for call in calls] == [("Calculator", {"input": "12 * 18"}, "216")]
    assert answer.text == "".join(pieces) == " 216." and answer.finish == "end"
    assert chat.exchanges[0].assistant == " 216."


def test_tools_can_be_switched_off(in_text: Path) -> None:
    chat, calls = talk(in_text, "plain", most_calls=0)
    answer = chat.say("Jars:", lambda piece: None)
    assert calls == [] and " [" not in answer.text


def test_a_call_in_a_turn_of_its_own(by_turns: Path, tmp_path: Path) -> None:
    chat, calls = talk(by_turns, "chat")
    pieces: list[str] = []
    answer = chat.say("Jars?", pieces.append)
    assert [(call.name, call.result) for call in calls] == [("Calculator", "216")]
    assert answer.text == "".join(pieces) == "There are 216."
    assert [turn.role for turn in chat.exchanges[0].steps] == ["assistant", "tool"]
    chat.save(tmp_path / "talk.json")
    again, _ = talk(by_turns, "chat")
    again.load(tmp_path / "talk.json")
    assert again.exchanges == chat.exchanges
    assert Exchange.from_dict(chat.exchanges[0].as_dict()) == chat.exchanges[0]


def test_calls_have_an_end(by_turns: Path) -> None:
    chat, calls = talk(by_turns, "chat", most_calls=1)
    chat.tools.run(CALL, 0)  # type: ignore[union-attr]
    assert len(calls) == 1 and chat.tools.run(CALL, 2) == []  # type: ignore[union-attr]
    assert ToolUse(Toolbox([calculator()]), most_calls=0).described("chat") == ()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_looks_like_a_call_waits(size: int) -> None:
    def shown(text: str, released: bool) -> str:
        pieces: list[str] = []
        held = HeldBack(pieces.append)
        for at in range(0, len(text), size):
            held(text[at : at + size])
        if released:
            held.release()
        return "".join(pieces)

    assert shown(CALL, False) == ""
    assert shown(f"Let me see. {CALL}", False) == "Let me see. "
    assert shown("a < b and {c}", False) == "a < b and {c}"
    assert shown("1 <tool", True) == "1 <tool"
    assert shown('{"a": 1}', True) == '{"a": 1}'


def test_in_the_terminal(in_text: Path) -> None:
    command = ["chat", "--base", str(in_text), "--template", "plain"]
    done = run_command(*command, "--tools", "calculator,calendar", "--max-calls", "1", stdin="Jars:\n")
    assert done.returncode == 0, done.stderr
    assert "[Calculator(12 * 18) \N{RIGHTWARDS ARROW} 216]" in done.stdout and " 216." in done.stdout
    off = run_command(*command, "--tools", "calculator", "--max-calls", "0", stdin="Jars:\n")
    assert off.returncode == 0 and "Calculator" not in off.stdout
    wrong = run_command(*command, "--tools", "calculater", stdin="Jars:\n")
    assert wrong.returncode == 2 and "did you mean calculator?" in wrong.stderr
