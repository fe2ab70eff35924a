"""All stages on texts whose right calls are known: a tiny base that was taught to propose them, and to need results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_base import make_base
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from zerogate.data.jsonl import whole_lines
from zerogate.errors import UserError
from zerogate.toolform.document import Clock, Document
from zerogate.toolform.heuristics import makes_sense, something_to_calculate, something_to_translate, worth_asking
from zerogate.toolform.report import funnel_table
from zerogate.toolform.stages import augment, execute, funnel, sample, weigh_calls
from zerogate.tools import Toolbox
from zerogate.tools.calculator import calculator
from zerogate.tools.calendar import calendar
from zerogate.tools.tool import Sampling, Tool

PLAIN = "Jars: 12 * 18 = 216."
OTHER = "The owl sleeps in the tower."


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Proposes the call before the sum's result, and says the result where a call before the text gives it."""
    folder = make_base(tmp_path_factory.mktemp("base"), context=512)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shown = [
        PLAIN.replace(" 216", " [Calculator(12 * 18)] 216"),
        f" [Calculator(12 * 18) -> 216]{PLAIN}",
        f" [Calculator(12 * 18) ->]{PLAIN.replace('216', 'xxx')}",
        PLAIN.replace("216", "zzz"),
        OTHER,
    ]
    rows = [torch.tensor([[0, *tokenizer(text, add_special_tokens=False)["input_ids"]]]) for text in shown]
    start = tokenizer.bos_token_id
    for ids in rows:
        ids[0, 0] = start
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(120):
        loss = sum(model(input_ids=ids, labels=ids).loss for ids in rows)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval(), tokenizer


def tools() -> Toolbox:
    found = Sampling(threshold=0.02, positions=3, calls=4, gain=0.5)
    return Toolbox([replace(calculator(), sampling=found), replace(calendar(), sampling=found)])


def test_from_documents_to_texts_with_calls(taught: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = taught
    files = [tmp_path / f"{name}.jsonl" for name in ("sampled", "executed", "weighed", "augmented")]
    seen: list[tuple[int, int]] = []
    options: dict[str, Any] = {"shown": False, "progress": lambda done, total: seen.append((done, total))}
    sample(model, tokenizer, tools(), [Document(PLAIN, "2026-05-28"), Document(OTHER)], files[0], **options)
    assert seen == [(2, 2)]
    first, second = whole_lines(files[0])
    assert set(first["tools"]) == {"Calculator", "Calendar"}
    assert second["tools"] == {}, "nothing to calculate there, and nobody knows the day"
    place = len(tokenizer("Jars: 12 * 18 =", add_special_tokens=False)["input_ids"])
    assert {"position": place, "input": "12 * 18"} in first["tools"]["Calculator"]["calls"]
    execute(tools(), files[0], files[1])
    weigh_calls(model, tokenizer, files[1], files[2])
    calls = whole_lines(files[2])[0]["tools"]["Calculator"]["calls"]
    right = next(call for call in calls if (call["position"], call["input"]) == (place, "12 * 18"))
    assert right["result"] == "216" and right["gain"] > 1
    assert right["gain"] == pytest.approx(min(right["losses"][:2]) - right["losses"][2])
    assert augment(tokenizer, tools(), files[2], files[3]) == 1
    (made,) = whole_lines(files[3])
    assert made["text"] == PLAIN.replace(" 216", " [Calculator(12 * 18) -> 216] 216")
    assert tokenizer.decode(made["ids"]) == made["text"] and made["plain"] == PLAIN
    counted = funnel(whole_lines(files[2]))["Calculator"]
    assert counted["documents"] == 1 and counted["sampled"] == 4 * counted["positions"]
    assert counted["well formed"] >= counted["executed"] >= counted["kept at 0.5"] >= counted["kept at 2"]
    assert counted["kept at 1"] >= 1


def test_a_stage_that_was_stopped_goes_on(
    taught: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = taught
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    monkeypatch.setattr("zerogate.toolform.stages.AT_ONCE", 1)
    documents = [Document(text) for text in (PLAIN, OTHER, PLAIN + " ", OTHER + " ")]
    sample(model, tokenizer, tools(), documents, whole, shown=False)
    sample(model, tokenizer, tools(), documents, torn, shown=False)
    lines = torn.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    done: list[int] = []
    sample(model, tokenizer, tools(), documents, torn, shown=False, progress=lambda n, _: done.append(n))
    assert torn.read_bytes() == whole.read_bytes() and done == [3, 4]
    with pytest.raises(UserError, match=r"made with other settings \(seed: 0 -> 1\)"):
        sample(model, tokenizer, tools(), documents, torn, shown=False, seed=1)
    with pytest.raises(UserError, match="is of other documents"):
        sample(model, tokenizer, tools(), documents[::-1], torn, shown=False)


@pytest.mark.parametrize("stage", ["execute", "filter"])
def test_calls_that_were_run_or_weighed_are_not_again(
    taught: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("zerogate.toolform.stages.AT_ONCE", 1)
    call = {"position": 6, "input": "12 * 18"} | ({"result": "216"} if stage == "filter" else {})
    ids = taught[1](PLAIN, add_special_tokens=False)["input_ids"]
    found = {"Calculator": {"positions": [], "sampled": 1, "calls": [call]}}
    rows = [{"text": f"{PLAIN} {n}", "date": "", "truth": [], "ids": ids, "tools": found} for n in range(3)]
    source, target = tmp_path / "source.jsonl", tmp_path / "target.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run() -> list[int]:
        done: list[int] = []
        if stage == "execute":
            execute(tools(), source, target, progress=lambda n, _: done.append(n))
        else:
            weigh_calls(*taught, source, target, progress=lambda n, _: done.append(n))
        return done

    assert run() == [1, 2, 3]
    whole = target.read_bytes()
    target.write_bytes(whole[: whole.index(b"\n") + 30])  # as a kill leaves it
    assert run() == [2, 3] and target.read_bytes() == whole
    assert run() == []


def test_a_stage_is_done_anew_where_the_one_before_it_was(taught: tuple[Any, Any], tmp_path: Path) -> None:
    call = {"position": 6, "input": "12 * 18"}
    ids = taught[1](PLAIN, add_special_tokens=False)["input_ids"]
    found = {"Calculator": {"positions": [[6, 0.5]], "sampled": 1, "calls": [call]}}
    sampled, executed, filtered = (tmp_path / f"{name}.jsonl" for name in ("sampled", "executed", "filtered"))
    sampled.write_text(json.dumps({"text": PLAIN, "date": "", "truth": [], "ids": ids, "tools": found}) + "\n")
    gains = []
    for result in ("7", "216"):
        executed.unlink(missing_ok=True)
        box = Toolbox([Tool("Calculator", "", lambda input, said=result: said)])
        execute(box, sampled, executed)
        weigh_calls(*taught, executed, filtered)
        ((weighed,),) = (row["tools"]["Calculator"]["calls"] for row in whole_lines(filtered))
        assert weighed["result"] == result
        gains.append(weighed["gain"])
    assert gains[0] != gains[1]
    found["Calculator"]["calls"] = [call | {"input": "18 * 12"}]
    sampled.write_text(json.dumps({"text": PLAIN, "date": "", "truth": [], "ids": ids, "tools": found}) + "\n")
    execute(box, sampled, executed)
    assert whole_lines(executed)[0]["tools"]["Calculator"]["calls"] == [call | {"input": "18 * 12", "result": "216"}]
    sampled.write_text(json.dumps({"text": PLAIN, "date": "2026-05-28", "ids": ids, "tools": found}) + "\n")
    with pytest.raises(UserError, match="is of other documents"):
        execute(box, sampled, executed)


def test_what_does_not_fit_into_the_context_is_counted(taught: tuple[Any, Any], tmp_path: Path) -> None:
    tokenizer = taught[1]
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=16, n_layer=1, n_head=2)
    small = GPT2LMHeadModel(config).eval()
    small.generation_config.eos_token_id = None
    box = Toolbox([Tool("Anything", "", lambda input: "word " * 40, sampling=Sampling(0.0, 2, 1, gain=-99.0))])
    files = [tmp_path / f"{name}.jsonl" for name in ("sampled", "executed", "filtered", "merged")]
    long = "The owl sleeps in the tower. " * 9
    sample(small, tokenizer, box, [Document(OTHER), Document(long.strip())], files[0], shown=False)
    first, second = whole_lines(files[0])
    assert len(first["tools"]["Anything"]["positions"]) == 2
    assert second["tools"]["Anything"] == {"positions": [], "sampled": 0, "calls": [], "too_long": True}
    first["tools"]["Anything"]["calls"] = [{"position": 3, "input": "x"}]
    files[0].write_text("".join(json.dumps(row) + "\n" for row in (first, second)))
    execute(box, files[0], files[1])
    weigh_calls(small, tokenizer, files[1], files[2])
    (call,) = whole_lines(files[2])[0]["tools"]["Anything"]["calls"]
    assert call["too_long"] is True and "gain" not in call
    counted = dict(funnel_table(whole_lines(files[2]))[1])
    assert counted["documents"] == "2" and counted["documents too long"] == "1"
    assert counted["executed"] == "1" and counted["too long with the result"] == "1"
    assert augment(tokenizer, box, files[2], files[3]) == 0
    sample(small, tokenizer, box, [Document(OTHER)], tmp_path / "shown.jsonl")
    assert whole_lines(tmp_path / "shown.jsonl")[0]["tools"]["Anything"]["too_long"], "with the prompt that shows calls"


def test_the_prompt_has_the_document(taught: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = taught
    sample(model, tokenizer, Toolbox([calendar()]), [Document(OTHER, "2026-05-28")], tmp_path / "shown.jsonl")
    row = json.loads((tmp_path / "shown.jsonl").read_text())
    assert row["ids"] == tokenizer(OTHER, add_special_tokens=False)["input_ids"] and "Calendar" in row["tools"]


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("We had 12 and 30, so 42 in all.", True),
        ("From 1,200 in May 200 were sold and 1,000 left.", True),
        ("There were 7 cats, 9 dogs and 100 birds.", False),
        ("An average of 5 goals.", True),
        ("The total of $40 was paid.", True),
        ("x = 4", True),
        ("The owl sleeps.", False),
        ("3 " + "word " * 200 + "4 " + "word " * 200 + "7", False),
        ("0 0 0", True),
    ],
)
def test_what_is_worth_asking_the_calculator(text: str, worth: bool) -> None:
    assert something_to_calculate(text) == worth == worth_asking("Calculator", text)
    assert worth_asking("Calendar", text, "2026-05-28") and not worth_asking("Calendar", text)


def test_what_is_worth_translating() -> None:
    english = "The old woman went to the market to buy some bread and cheese."
    german = "Die alte Frau ging jeden Morgen auf den Markt, um frisches Brot und Butter zu kaufen."
    assert something_to_translate(f"{english} {german} {english}") and worth_asking(
        "MT", f"{english} {german} {english}"
    )
    assert not something_to_translate(f"{english} {english} {english}")
    assert not something_to_translate(f"{german} {english}"), "nothing English before it"
    assert makes_sense("MT", "jeden Morgen", german) and not makes_sense("MT", "jeden Abend", german)
    assert makes_sense("Calculator", "1 + 1", "")


def test_the_calendar_knows_the_day_of_each_document(taught: tuple[Any, Any], tmp_path: Path) -> None:
    clock = Clock()
    call = {"positions": [], "sampled": 1, "calls": [{"position": 0, "input": ""}]}
    days = ("2026-05-28", "2023-01-30")
    rows = [{"text": "x", "date": day, "truth": [], "ids": [5], "tools": {"Calendar": call}} for day in days]
    (tmp_path / "sampled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    execute(Toolbox([calendar(clock)]), tmp_path / "sampled.jsonl", tmp_path / "executed.jsonl", clock)
    said = [row["tools"]["Calendar"]["calls"][0]["result"] for row in whole_lines(tmp_path / "executed.jsonl")]
    assert said == ["Today is Thursday, May 28, 2026.", "Today is Monday, January 30, 2023."]
