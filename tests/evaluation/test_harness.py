"""lm-evaluation-harness on a model of ours, with and without its adapter, on a local task. Skipped without lm-eval."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny_base import make_adapter, make_base

from zerogate.bases import load_adapted
from zerogate.errors import UserError
from zerogate.evaluation.harness import run_harness

PLACES = ["den", "tree", "cave", "yard", "pond", "hole", "wood", "field", "hill", "lake"]
DOCS = [
    {"q": f"Where does fox {n} live?", "right": f"In the {place}.", "wrong": f"In the {PLACES[n - 3]}."}
    for n, place in enumerate(PLACES)
]
TASK = """
task: foxes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: 0
doc_to_choice: "{{{{[right, wrong]}}}}"
target_delimiter: " "
metric_list:
  - metric: acc
"""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCS))
    (folder / "foxes.yaml").write_text(TASK.format(file=folder / "docs.jsonl"))
    return folder


@pytest.mark.slow
def test_a_local_task_with_and_without_an_adapter(tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    base = make_base(tmp_path / "base")
    model, tokenizer = load_adapted(str(base), {"one": make_adapter(tmp_path / "adapter", base, seed=5)})

    def log_likelihood(question: str, answer: str) -> float:
        asked = tokenizer(question)["input_ids"]
        answered = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits_TV = model(torch.tensor([asked + answered])).logits[0].float().log_softmax(-1)
        return sum(logits_TV[len(asked) - 1 + n, token].item() for n, token in enumerate(answered))

    def expected() -> float:
        right = [log_likelihood(row["q"], row["right"]) > log_likelihood(row["q"], row["wrong"]) for row in DOCS]
        return sum(right) / len(right)

    found = run_harness(model, tokenizer, ["foxes"], include_path=tasks, batch_size=4)
    assert found["results"]["foxes"]["acc,none"] == expected()
    assert found["n-samples"]["foxes"]["effective"] == 10
    adapted = expected()
    with model.disable_adapter():
        found = run_harness(model, tokenizer, ["foxes"], include_path=tasks)
        assert found["results"]["foxes"]["acc,none"] == expected()
        assert expected() != adapted, "with equal accuracies the test could not tell whether the adapter was asked"
    assert run_harness(model, tokenizer, ["foxes"], include_path=tasks, limit=4)["n-samples"]["foxes"]["effective"] == 4


def test_what_is_wrong_is_said(tasks: Path, tmp_path: Path) -> None:
    model, tokenizer = None, None  # neither is looked at before the names are right
    if importlib.util.find_spec("lm_eval") is None:
        with pytest.raises(UserError, match=r"pip install 'zerogate\[eval\]'"):
            run_harness(model, tokenizer, ["foxes"])  # type: ignore[arg-type]
        return
    with pytest.raises(UserError, match="does not exist"):
        run_harness(model, tokenizer, ["foxes"], include_path=tmp_path / "none")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"no task 'foxez'; did you mean foxes\?"):
        run_harness(model, tokenizer, ["foxez"], include_path=tasks)  # type: ignore[arg-type]
