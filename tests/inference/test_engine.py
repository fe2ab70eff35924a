"""The engine: an answer depends on its prompt, adapter, settings and seed, and on nothing else."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import AdaptionPromptConfig
from tiny_base import lora, make_adapter, make_base

from zerogate import ZeroInitConfig
from zerogate.bases.sampling import RowSampler
from zerogate.errors import UserError
from zerogate.inference import BASE, Engine, Sampling
from zerogate.inference.streaming import TextStream, cut_at_stop
from zerogate.serving.text import Writer

GREEDY = Sampling(temperature=0, max_new_tokens=10)
WILD = Sampling(temperature=1.5, top_p=0.95, max_new_tokens=10)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("engine")
    base = make_base(root / "base")
    return {
        "base": base,
        "one": make_adapter(root / "one", base, seed=1),
        "two": make_adapter(root / "two", base, seed=2),
        "low": make_adapter(root / "low", base, seed=3, config=lora()),
        "vanilla": make_adapter(
            root / "vanilla", base, seed=4,
            config=ZeroInitConfig(prompt_length=4, num_layers=3, attention="vanilla", task_type="CAUSAL_LM"),
        ),
        "peft": make_adapter(
            root / "peft", base, seed=5, config=AdaptionPromptConfig(adapter_len=4, adapter_layers=3)
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def engine(folders: dict[str, Path]) -> Engine:
    return Engine.load(str(folders["base"]), {"one": folders["one"], "two": folders["two"]})


def prompts(engine: Engine) -> list[list[int]]:
    return [
        engine.prompt("Where does the fox live?"),
        engine.prompt("Hi."),
        engine.prompt("Name it.", "A long input " * 3),
    ]


@pytest.mark.parametrize("sampling", [GREEDY, WILD, replace(WILD, top_k=20, repetition_penalty=1.3)])
def test_batch_is_what_each_row_is_alone(engine: Engine, sampling: Sampling) -> None:
    adapters, seeds = ["one", "two", BASE], [5, 6, 7]
    together = engine.answer(prompts(engine), sampling, adapters, seeds)
    for row, prompt in enumerate(prompts(engine)):
        assert engine.answer([prompt], sampling, [adapters[row]], [seeds[row]]) == [together[row]]
    assert len({answer.text for answer in together}) == 3


def test_each_adapter_says_something_of_its_own(engine: Engine) -> None:
    prompt = prompts(engine)[0]
    answers = {name: engine.answer([prompt], GREEDY, [name])[0].ids for name in ("one", "two", BASE)}
    assert len({tuple(ids) for ids in answers.values()}) == 3
    assert engine.answer([prompt], GREEDY)[0].ids == answers["one"]


def test_greedy_is_the_argmax_of_the_whole_text(engine: Engine) -> None:
    """Cached, batched decoding against plain forward passes without a cache."""
    ids = list(prompts(engine)[0])
    engine.model.set_adapter("two")
    wanted = []
    with torch.no_grad():
        for _ in range(6):
            wanted.append(int(engine.model(torch.tensor([[*ids, *wanted]])).logits[0, -1].argmax()))
            if wanted[-1] == engine.tokenizer.eos_token_id:
                break
    assert engine.answer([ids], replace(GREEDY, max_new_tokens=6), ["two"])[0].ids == wanted


def test_seeds(engine: Engine) -> None:
    prompt = prompts(engine)[0]
    same = engine.answer([prompt] * 2, WILD, seeds=[3, 3])
    assert same[0] == same[1]
    others = engine.answer([prompt] * 4, WILD, seeds=[1, 2, 3, 4])
    assert len({tuple(answer.ids) for answer in others}) > 1


@pytest.mark.parametrize("names", [["vanilla", "one", BASE], ["one", "vanilla", "one"], ["low", BASE, "low"]])
def test_methods_that_cannot_share_a_batch_answer_apart(folders: dict[str, Path], names: list[str]) -> None:
    kinds = [name for name in dict.fromkeys(names) if name != BASE]
    engine = Engine.load(str(folders["base"]), {name: folders[name] for name in kinds})
    prompt = engine.prompt("Where does the fox live?")
    together = engine.answer([prompt] * len(names), GREEDY, names)
    for name, answer in zip(names, together, strict=True):
        assert engine.answer([prompt], GREEDY, [name]) == [answer]


def test_adapters_of_two_methods_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"LORA.*ZERO_INIT|ZERO_INIT.*LORA"):
        Engine.load(str(folders["base"]), {"one": folders["one"], "low": folders["low"]})


def test_pefts_adaption_prompt_and_the_base_in_one_batch(folders: dict[str, Path]) -> None:
    """PEFT itself accepts `adapter_names` for this method and gives every row the adapter."""
    engine = Engine.load(str(folders["base"]), {"peft": folders["peft"]})
    prompt = engine.prompt("Where does the fox live?")
    adapted, plain = engine.answer([prompt] * 2, GREEDY, ["peft", BASE])
    assert adapted.ids != plain.ids
    assert Engine.load(str(folders["base"])).answer([prompt], GREEDY)[0].ids == plain.ids


def test_stream_is_the_answer_piece_by_piece(engine: Engine) -> None:
    for sampling in (GREEDY, WILD, replace(WILD, max_new_tokens=40)):
        prompt = prompts(engine)[0]
        pieces: list[str] = []
        streamed = engine.stream(prompt, sampling, pieces.append, "two")
        assert streamed == engine.answer([prompt], sampling, ["two"])[0]
        assert "".join(pieces) == streamed.text and len(pieces) > 1


def test_stop_string_ends_and_is_cut(engine: Engine) -> None:
    prompt = prompts(engine)[0]
    long = engine.answer([prompt], replace(WILD, max_new_tokens=60))[0]
    stop = re.sub(r"[^a-z]", "", long.text[3:])[:1]
    assert stop, "the tiny model said no letter: choose another seed"
    sampling = replace(WILD, max_new_tokens=60, stop=(stop,))
    pieces: list[str] = []
    answer = engine.stream(prompt, sampling, pieces.append)
    assert answer.finish == "stop" and stop not in answer.text and "".join(pieces) == answer.text
    assert long.text.startswith(answer.text)
    assert engine.answer([prompt], sampling)[0] == answer


def test_a_stop_string_that_begins_in_the_prompt_is_none(engine: Engine) -> None:
    """Only what is new counts: alone, in a batch with rows of other lengths, and for strings of any length."""
    sampling = replace(WILD, max_new_tokens=40)
    for prompt in prompts(engine):
        long = engine.answer([prompt], sampling)[0]
        said = engine.tokenizer.decode(prompt[-3:]) + long.text[:1]
        assert engine.answer([prompt], replace(sampling, stop=(said,)))[0].ids == long.ids
    text = engine.answer([prompts(engine)[0]], sampling)[0].text
    for size in (1, 2):
        stop = re.findall(rf"[ -~]{{{size}}}", text)[-1]
        answers = engine.answer(prompts(engine), replace(sampling, stop=(stop,)))
        for prompt, answer in zip(prompts(engine), answers, strict=True):
            whole = engine.answer([prompt], sampling)[0]
            writer = Writer(engine.tokenizer, (stop,))  # the server's
            wanted = []
            for token in whole.ids:
                if not writer.stopped:
                    wanted.append(token)
                    writer.add([token])
            writer.end()
            assert (answer.ids, answer.text) == (wanted, writer.text)
        assert answers[0].finish == "stop"


def test_end_token_ends(engine: Engine) -> None:
    """With a seed for which the model says the end token, the answer ends there and does not spell it."""
    for seed in range(200):
        answer = engine.answer([prompts(engine)[0]], replace(WILD, temperature=3.0, max_new_tokens=60), seeds=[seed])[0]
        if answer.finish == "end":
            assert answer.ids[-1] == engine.tokenizer.eos_token_id and "</s>" not in answer.text
            assert engine.tokenizer.eos_token_id not in answer.ids[:-1]
            return
    pytest.fail("the tiny model never ended an answer")


def test_an_answer_that_is_gone_on_with(engine: Engine) -> None:
    prompt = prompts(engine)[0]
    whole = engine.answer([prompt], GREEDY)[0]
    pieces: list[str] = []
    rest = engine.stream(prompt, replace(GREEDY, max_new_tokens=6), pieces.append, before=whole.ids[:4])
    assert rest.ids == whole.ids[4:]
    assert "".join(pieces) == rest.text == whole.text[len(engine.tokenizer.decode(whole.ids[:4])) :]


def test_ctrl_c_keeps_what_was_said(engine: Engine) -> None:
    pieces: list[str] = []

    def stop_after_three(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 3:
            raise KeyboardInterrupt

    answer = engine.stream(prompts(engine)[0], replace(WILD, max_new_tokens=60), stop_after_three)
    assert answer.finish == "interrupted" and answer.text == "".join(pieces)
    assert engine.answer([prompts(engine)[0]], GREEDY)[0].finish in ("end", "length")  # and the engine still works


def test_context_limit(engine: Engine) -> None:
    assert engine.context == 256
    room = engine.answer([[5] * 250, [6] * 3], replace(GREEDY, max_new_tokens=20))
    assert len(room[0].ids) <= 6
    assert engine.answer([[6] * 3], replace(GREEDY, max_new_tokens=20))[0] == room[1]
    with pytest.raises(UserError, match="room for 256"):
        engine.answer([[5] * 256], GREEDY)
    with pytest.raises(UserError, match="empty"):
        engine.answer([[]], GREEDY)


def test_unknown_adapter(engine: Engine) -> None:
    with pytest.raises(UserError, match=r"no adapter 'three'.*one, two"):
        engine.answer(prompts(engine), GREEDY, ["one", "three", "two"])


def test_templates(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = Engine.load(str(folders["base"]))
    assert plain.template_for() == "alpaca"
    text = plain.tokenizer.decode(plain.prompt("Where?"))
    assert text.startswith("<s>Below is an instruction") and text.endswith("### Response:")
    chatty = make_base(tmp_path / "chatty", chat_template="{% for m in messages %}[{{ m.content }}]{% endfor %}")
    engine = Engine.load(str(chatty))
    assert engine.template_for() == "chat"
    assert engine.tokenizer.decode(engine.prompt("Where?")) == "[Where?]"
    # An adapter's card says how it was taught, and that is how it is asked.
    adapter = make_adapter(tmp_path / "taught", chatty)
    (adapter / "README.md").write_text("---\nbase_model: x\nzerogate_template: alpaca\n---\n\n# card\n")
    taught = Engine.load(str(chatty), {"taught": adapter})
    assert taught.template_for() == "alpaca" and taught.template_for(BASE) == "chat"
    assert "### Response:" in taught.tokenizer.decode(taught.prompt("Where?"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", -1), ("top_p", 0), ("top_p", 1.1), ("top_k", -1), ("max_new_tokens", 0), ("repetition_penalty", 0),
     ("seed", -1), ("seed", 2**63), ("stop", ("",))],
)  # fmt: skip
def test_settings_out_of_range(field: str, value: object) -> None:
    with pytest.raises(UserError, match=field):
        Sampling(**{field: value})  # type: ignore[arg-type]


def test_settings_as_text() -> None:
    changed = Sampling().updated({"temperature": "0.5", "max_new_tokens": "7", "stop": "END"})
    assert (changed.temperature, changed.max_new_tokens, changed.stop) == (0.5, 7, ("END",))
    with pytest.raises(UserError, match=r"temprature.*temperature"):
        Sampling().updated({"temprature": 1})
    with pytest.raises(UserError, match="not a number"):
        Sampling().updated({"top_p": "much"})
    with pytest.raises(UserError, match="not a number"):
        Sampling().updated({"max_new_tokens": float("inf")})


def test_draws_follow_the_distribution() -> None:
    """Four thousand draws of one token against the softmax at that temperature, and nothing outside the nucleus."""
    logits_V = torch.tensor([2.0, 1.0, 0.5, -1.0])
    temperature, n = 0.7, 4000
    sampler = RowSampler(Sampling(temperature=temperature, top_p=1.0), seeds=range(n))
    drawn = sampler(torch.zeros(n, 1, dtype=torch.long), logits_V.expand(n, -1)).argmax(-1)  # type: ignore[arg-type]
    counts = Counter(drawn.tolist())
    for token, share in enumerate((logits_V / temperature).softmax(-1).tolist()):
        # Three standard deviations of a binomial count.
        assert abs(counts[token] / n - share) < 3 * (share * (1 - share) / n) ** 0.5 + 1e-3
    nucleus = RowSampler(Sampling(temperature=temperature, top_p=0.75), seeds=range(n))
    kept = nucleus(torch.zeros(n, 1, dtype=torch.long), logits_V.expand(n, -1)).argmax(-1)  # type: ignore[arg-type]
    assert set(kept.tolist()) == {0, 1}


def test_stop_strings_across_tokens(engine: Engine) -> None:
    """A stop string that comes letter by letter is never shown, and what only looks like its beginning is."""
    tokenizer = engine.tokenizer
    for text, shown in [
        ("one STOP two", "one "),
        ("one STO two", "one STO two"),
        ("caf\u00e9 STOP", "caf\u00e9 "),
        ("ST", "ST"),
    ]:
        pieces: list[str] = []
        stream = TextStream(tokenizer, pieces.append, ("STOP",))
        stream.put(torch.tensor([[0, 5, 6]]))  # the prompt
        for token in tokenizer(text, add_special_tokens=False).input_ids:
            stream.put(torch.tensor([token]))
            assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
        stream.end()
        assert "".join(pieces) == stream.text() == shown


def test_cut_at_the_first_of_several() -> None:
    assert cut_at_stop("a b c", ["c", "b"]) == ("a ", True)
    assert cut_at_stop("a b c", ["d"]) == ("a b c", False)
