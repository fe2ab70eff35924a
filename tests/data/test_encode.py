"""Templates and masks: what is learned is the answers and their end, to the token; prompts are as generation sends."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from zerogate.data import DataSection, Record, Turn, alpaca_prompt, encode_records, load_data, prompt_ids
from zerogate.data.formats import to_records
from zerogate.errors import UserError

IGNORE = -100


def one(record: Record, tokenizer: PreTrainedTokenizerFast, template: str = "alpaca", max_length: int = 4096):
    encoded = encode_records([record], tokenizer, template, max_length)
    assert len(encoded) == 1
    return encoded.input_ids[0].tolist(), encoded.labels[0].tolist()


def learned_runs(ids: list[int], labels: list[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for position, label in enumerate(labels):
        if label == IGNORE:
            continue
        assert label == ids[position]
        if position and labels[position - 1] != IGNORE:
            runs[-1].append(label)
        else:
            runs.append([label])
    return runs


def test_alpaca_wording() -> None:
    assert alpaca_prompt("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    )
    assert alpaca_prompt("Hi") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nHi\n\n### Response:"
    )


def test_alpaca_single_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    record = Record(1, (Turn("user", "Where?", input="France"), Turn("assistant", "Paris.")))
    ids, labels = one(record, tokenizer)
    prompt = tokenizer(alpaca_prompt("Where?", "France")).input_ids
    answer = tokenizer("Paris.", add_special_tokens=False).input_ids
    assert prompt[0] == tokenizer.bos_token_id
    assert ids == [*prompt, *answer, tokenizer.eos_token_id]
    assert labels == [IGNORE] * len(prompt) + [*answer, tokenizer.eos_token_id]
    # What a user's question becomes is what stood before the answer in training.
    assert prompt_ids((Turn("user", "Where?", input="France"),), "alpaca", tokenizer) == prompt


def test_the_border_is_between_tokens_where_one_text_would_merge_it(tokenizer: PreTrainedTokenizerFast) -> None:
    record = Record(1, (Turn("user", "The capital of Fra"), Turn("assistant", "nce is")), plain=True)
    ids, labels = one(record, tokenizer, "plain")
    prompt = prompt_ids(record.turns[:1], "plain", tokenizer)
    joined = tokenizer("The capital of France is").input_ids
    assert joined[: len(prompt)] != prompt  # the case is real: as one text the border vanishes
    assert ids[: len(prompt)] == prompt
    assert labels.count(IGNORE) == len(prompt)


def test_every_assistant_turn_is_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Turn("user", "One?"), Turn("assistant", "1"), Turn("user", "Two?"), Turn("assistant", "2"))
    ids, labels = one(Record(1, turns), tokenizer)
    ends = [[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for text in "12"]
    assert learned_runs(ids, labels) == ends
    for last in (1, 3):
        asked = prompt_ids(turns[:last], "alpaca", tokenizer)
        assert ids[: len(asked)] == asked
        assert labels[len(asked)] != IGNORE and labels[len(asked) - 1] == IGNORE


def test_system_turn_takes_the_place_of_the_opening_sentence(tokenizer: PreTrainedTokenizerFast) -> None:
    ids, _ = one(Record(1, (Turn("system", "Be a fox."), Turn("user", "Hi"), Turn("assistant", "Yip"))), tokenizer)
    assert tokenizer.decode(ids).startswith("<s>Be a fox.\n\n### Instruction:\nHi")


def test_no_system_turn_is_lost(tokenizer: PreTrainedTokenizerFast) -> None:
    opened = (Turn("system", "Be a fox."), Turn("assistant", "Yip"), Turn("user", "Hi"), Turn("assistant", "Yap"))
    ids, labels = one(Record(1, opened, tools=({"name": "f"},)), tokenizer)
    text = tokenizer.decode(ids)
    assert text.startswith("<s>Be a fox.\n\n### Response:Yip</s>\n\n### Instruction:\nHi")
    assert 'Tools:\n{"name": "f"}' in text
    assert [tokenizer.decode(run) for run in learned_runs(ids, labels)] == ["Yip</s>", "Yap</s>"]
    turns = (
        Turn("system", "Be a fox."), Turn("system", "Be short."), Turn("user", "Hi"), Turn("assistant", "Yip"),
        Turn("system", "Be an owl."), Turn("user", "Hi"), Turn("system", "Now."), Turn("assistant", "Hoo"),
    )  # fmt: skip
    ids, labels = one(Record(1, turns), tokenizer)
    assert tokenizer.decode(ids) == (
        "<s>Be a fox.\n\nBe short.\n\n### Instruction:\nHi\n\n### Response:Yip</s>"
        "\n\nBe an owl.\n\n### Instruction:\nHi\n\n### Response:\n\nNow.\n\n### Response:Hoo</s>"
    )
    assert [tokenizer.decode(run) for run in learned_runs(ids, labels)] == ["Yip</s>", "Hoo</s>"]
    asked = prompt_ids(turns[:-1], "alpaca", tokenizer)
    assert ids[: len(asked)] == asked


def test_plain_text_has_inputs_and_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Turn("user", "Add.", input="1 2"), Turn("assistant", "3"))
    for tools, opening in (((), ""), (({"name": "add"},), 'Tools:\n{"name": "add"}\n\n')):
        ids, labels = one(Record(1, turns, tools=tools), tokenizer, "plain")
        asked = prompt_ids(turns[:1], "plain", tokenizer, tools)
        assert ids[: len(asked)] == asked and ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.decode(asked).endswith(f"{opening}Add.\n1 2")
        assert labels == [IGNORE] * len(asked) + [*tokenizer("3", add_special_tokens=False).input_ids, ids[-1]]
        assert ids[-1] == tokenizer.eos_token_id


def test_an_answerless_turn_at_the_end_is_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Turn("user", "Hi"), Turn("assistant", "Yo"), Turn("user", "Anyone?"))
    assert one(Record(1, turns), tokenizer, "plain") == one(Record(1, turns[:2]), tokenizer, "plain")
    assert one(Record(1, turns), tokenizer) == one(Record(1, turns[:2]), tokenizer)


def test_chat_template(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    turns = (Turn("user", "One?"), Turn("assistant", "1"), Turn("user", "Two?"), Turn("assistant", "2"))
    ids, labels = one(Record(1, turns), chat_tokenizer, "chat")
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    whole = chat_tokenizer.apply_chat_template(messages, tokenize=False).rstrip()
    assert chat_tokenizer.decode(ids) == whole
    end = chat_tokenizer.eos_token_id
    assert learned_runs(ids, labels) == [
        [*chat_tokenizer(text, add_special_tokens=False).input_ids, end] for text in "12"
    ]
    asked = chat_tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=False)
    assert prompt_ids(turns[:1], "chat", chat_tokenizer) == asked == ids[: len(asked)]


def test_chat_template_that_rewrites_history_gives_one_sequence_per_answer(
    chat_tokenizer: PreTrainedTokenizerFast,
) -> None:
    # As Qwen3 does: only the last answer carries the thinking block.
    chat_tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{% if m['role'] == 'assistant' and loop.last %}<think></think>{% endif %}{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = (Turn("user", "One?"), Turn("assistant", "1"), Turn("user", "Two?"), Turn("assistant", "2"))
    encoded = encode_records([Record(5, turns)], chat_tokenizer, "chat", 4096)
    assert encoded.rows == [5, 5]
    for ids, labels, last in zip(encoded.input_ids, encoded.labels, (1, 3), strict=True):
        asked = prompt_ids(turns[:last], "chat", chat_tokenizer)
        assert ids[: len(asked)].tolist() == asked
        (run,) = learned_runs(ids.tolist(), labels.tolist())
        assert chat_tokenizer.decode(run) == f"<think></think>{last // 2 + 1}<|im_end|>"


def test_tool_calls_are_learned_and_observations_read(
    tokenizer: PreTrainedTokenizerFast, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    turns = (
        Turn("user", "1+1?"),
        Turn("assistant", '{"name": "add"}', tool_calls=(call,)),
        Turn("tool", "2"),
        Turn("assistant", "Two."),
    )
    record = Record(1, turns, tools=({"name": "add"},))
    ids, labels = one(record, tokenizer)
    assert [tokenizer.decode(run) for run in learned_runs(ids, labels)] == ['{"name": "add"}</s>', "Two.</s>"]
    assert "### Observation:\n2" in tokenizer.decode(ids)
    assert 'Tools:\n{"name": "add"}' in tokenizer.decode(ids)
    ids, labels = one(record, chat_tokenizer, "chat")
    runs = [chat_tokenizer.decode(run) for run in learned_runs(ids, labels)]
    assert runs == ['{"name": "add", "arguments": {"a": 1}}<|im_end|>', "Two.<|im_end|>"]


def test_text_and_calls_of_a_turn_are_both_learned(
    tokenizer: PreTrainedTokenizerFast, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    call = {"name": "add", "arguments": {"a": 1}}
    message = {"role": "assistant", "content": "Let me add.", "tool_calls": [{"function": call}]}
    row = {"messages": [{"role": "user", "content": "1+1?"}, message]}
    (record,) = to_records([(1, row)], "messages", "x")
    ids, labels = one(record, tokenizer)
    assert [tokenizer.decode(run) for run in learned_runs(ids, labels)] == [
        'Let me add.\n{"name": "add", "arguments": {"a": 1}}</s>'
    ]
    chat_tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for c in m.tool_calls or [] %}CALL {{ c.function.name }}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ids, labels = one(record, chat_tokenizer, "chat")
    assert [chat_tokenizer.decode(run) for run in learned_runs(ids, labels)] == ["Let me add.CALL add<|im_end|>"]


def test_a_null_answer_is_dropped_where_nothing_to_learn_says_so(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text('{"instruction": "a", "output": null}\n{"instruction": "c", "output": "d"}\n')
    assert load_data(DataSection(path=str(file), nothing_to_learn="drop"), tokenizer).train.rows == [2]
    with pytest.raises(UserError, match="1 rows have nothing to learn"):
        load_data(DataSection(path=str(file)), tokenizer)


def test_chat_template_that_is_missing_or_refuses(
    tokenizer: PreTrainedTokenizerFast, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    record = Record(4, (Turn("user", "Hi"), Turn("assistant", "Yo")))
    with pytest.raises(UserError, match="needs a tokenizer with a chat template"):
        one(record, tokenizer, "chat")
    chat_tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(UserError, match="row 4: no such role"):
        one(record, chat_tokenizer, "chat")


def test_length_policy(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [
        Record(row, (Turn("user", "a"), Turn("assistant", "b " * n)), plain=True) for row, n in ((1, 2), (2, 50))
    ]
    cut = encode_records(records, tokenizer, "plain", 20)
    assert (cut.report.too_long, cut.report.truncated, cut.report.dropped) == (1, 1, 0)
    assert len(cut.input_ids[1]) == 20
    assert tokenizer.eos_token_id not in cut.labels[1]  # a cut answer does not end
    dropped = encode_records(records, tokenizer, "plain", 20, too_long="drop")
    assert (dropped.report.too_long, dropped.report.truncated, dropped.report.dropped) == (1, 0, 1)
    assert dropped.rows == [1]
    assert "1 sequences over the length limit" in " ".join(dropped.report.lines())


def test_rows_with_nothing_to_learn(tokenizer: PreTrainedTokenizerFast) -> None:
    records = [
        Record(1, (Turn("user", "a"), Turn("assistant", "b")), plain=True),
        Record(2, (Turn("user", "a"), Turn("assistant", " \n")), plain=True),
        Record(3, (Turn("user", "a " * 50), Turn("assistant", "b")), plain=True),
        Record(4, (Turn("user", "a"),), plain=True),
    ]
    with pytest.raises(UserError, match=r"f.json: 3 rows have nothing to learn .*rows 2, 4, 3.*nothing_to_learn=drop"):
        encode_records(records, tokenizer, "plain", 20, source="f.json")
    kept = encode_records(records, tokenizer, "plain", 20, nothing_to_learn="drop")
    assert kept.rows == [1]
    assert sorted(kept.report.nothing_to_learn) == [2, 3, 4]
    with pytest.raises(UserError, match="no record is left"):
        encode_records(records[1:], tokenizer, "plain", 20, nothing_to_learn="drop")


def test_bos_is_added_where_the_tokenizer_has_one_but_keeps_it(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>")
    bare._tokenizer.post_processor = None  # a tokenizer file that lost its template
    record = Record(1, (Turn("user", "a"), Turn("assistant", "b")), plain=True)
    assert one(record, bare, "plain")[0][0] == bare.bos_token_id


def test_real_alpaca_masks(tokenizer: PreTrainedTokenizerFast, real_data: Callable[[str], Path]) -> None:
    section = DataSection(path=str(real_data("formats/alpaca_en_demo.json")), max_length=100_000, held_out=100)
    data = load_data(section, tokenizer)
    assert data.held_out is not None
    assert (len(data.train), len(data.held_out)) == (899, 100)
    for ids, labels in zip(data.train.input_ids[:50], data.train.labels[:50], strict=True):
        (run,) = learned_runs(ids.tolist(), labels.tolist())
        assert run[-1] == tokenizer.eos_token_id
        prompt = tokenizer.decode(ids[np.asarray(labels) == IGNORE])
        assert prompt.startswith("<s>Below is an instruction") and prompt.endswith("### Response:")


def test_real_tool_calls_encode(chat_tokenizer: PreTrainedTokenizerFast, real_data: Callable[[str], Path]) -> None:
    section = DataSection(path=str(real_data("formats/glaive_toolcall_en_demo.json")), max_length=100_000)
    data = load_data(section, chat_tokenizer)
    assert (data.format, data.template) == ("sharegpt", "chat")
    assert len(data.train) == 300
    assert all(labels[-1] == chat_tokenizer.eos_token_id for labels in data.train.labels)
