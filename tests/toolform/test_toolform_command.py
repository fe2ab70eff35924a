"""`zerogate toolform` from recipe to report on the embedded base, shortened: all stages, stopped, and refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zerogate.bases.adapted import load_adapted
from zerogate.bases.load import load_base
from zerogate.cli.toolform import toolform
from zerogate.data.jsonl import whole_lines
from zerogate.errors import UserError
from zerogate.toolform import evaluate, pocket
from zerogate.training.run_folder import read_summary


def run(*words: str, report: bool = False) -> None:
    """The command's function, without the start of a process."""
    toolform(list(words), report)


def days(count: int, seed: int) -> list[str]:
    return [text for text in pocket.demonstrations(9 * count, seed) if "[Calendar()" in text][:count]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A finished run over documents about days: the calendar's calls are what a few steps can teach."""
    folder = tmp_path_factory.mktemp("toolform")
    (folder / "shown.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in days(60, 1)))
    documents = [one for one in pocket.documents(200) if [true["tool"] for true in one.truth] == ["Calendar"]][:10]
    rows = [{"text": one.text, "date": one.date} for one in documents] + [{"text": "The owl sleeps in the tower."}]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe: dict[str, Any] = {
        "title": "Days",
        "base": {"name": "pocket", "dtype": "float32", "attn_implementation": "eager"},
        "tools": ["calendar"],
        "sampling": {"Calendar": {"threshold": 0.01, "positions": 2, "calls": 2, "gain": -1.0}},
        "documents": {"path": str(folder / "texts.jsonl")},
        "proposer": {
            "demonstrations": str(folder / "shown.jsonl"),
            "adapter": {"method": "lora", "r": 8, "lora_alpha": 16, "target_modules": "all-linear"},
            "train": {"steps": 40, "batch_size": 8, "learning_rate": 0.01, "warmup_steps": 4},
        },
        "adapter": {"method": "lora", "r": 2},
        "plain": "documents",
        "train": {"steps": 2, "batch_size": 4, "learning_rate": 0.001},
        "evaluate": [{"task": "pocket", "limit": 1}],
        "max_new_tokens": 12,
        "output": str(folder / "run"),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run(str(folder / "recipe.yaml"))
    return folder, recipe


def test_every_stage_leaves_what_the_next_one_needs(made: tuple[Path, dict[str, Any]]) -> None:
    folder = made[0] / "run"
    sampled, executed, filtered, merged = (
        whole_lines(folder / f"{name}.jsonl") for name in ("sampled", "executed", "filtered", "merged")
    )
    assert len(sampled) == len(executed) == len(filtered) == 11
    assert sampled[-1]["tools"] == {}, "a text without a date has nothing to ask a calendar"
    calls = [call for row in filtered for found in row["tools"].values() for call in found["calls"]]
    assert calls and all(call["result"].startswith("Today is ") for call in calls if "result" in call)
    assert merged and all("[Calendar() -> Today is" in row["text"] for row in merged)
    for row in merged:
        day = next(one for one in filtered if one["row"] == row["row"])["date"]
        assert day[:4] in row["text"], "the calendar was set to the day of the document"
    for name in ("proposer", "adapter", "without-calls"):
        assert (folder / name / "last" / "adapter_model.safetensors").is_file()


def test_the_report_has_the_funnel_and_the_answers(made: tuple[Path, dict[str, Any]]) -> None:
    folder = made[0] / "run"
    report = (folder / "report.md").read_text()
    assert "| kept at 0.5 |" in report and "## Right answers" in report and "perplexity" in report
    results = json.loads((folder / "results.json").read_text())
    assert list(results) == ["base", "without calls", "tools off", "with tools"]
    assert set(results["base"]["parts"]) == {"pocket sums", "pocket dates", "pocket facts"}
    assert all(part["called"] == 0 for name in ("base", "tools off") for part in results[name]["parts"].values())
    assert len(list((folder / "answers").glob("*.jsonl"))) == 12


def test_what_is_done_is_not_done_again(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    files = [folder / "run" / name for name in ("sampled.jsonl", "filtered.jsonl", "adapter/summary.json")]
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files[2:]]
    kept = files[0].read_bytes()
    files[0].write_bytes(kept[: len(kept) - 40])  # as a kill leaves it
    for stage in ("sample", "train"):
        run(stage, str(folder / "recipe.yaml"))
    assert files[0].read_bytes() == kept
    assert [(file.stat().st_mtime_ns, file.read_bytes()) for file in files[2:]] == before


def test_answers_that_were_given_are_not_asked_for_again(
    made: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    answers, asked = folder / "run" / "answers", []
    kept = {file.name: file.read_bytes() for file in answers.glob("*.jsonl")}
    (answers / "with tools, pocket sums.jsonl").rename(answers / "with tools, pocket sums.partial")
    (answers / "with tools, pocket sums.partial").write_bytes(b'{"prompt": "torn')  # as a kill leaves it
    real = evaluate.answer_with_tools

    def count(*given: Any, **settings: Any) -> Any:
        asked.append(settings["most_calls"])
        return real(*given, **settings)

    monkeypatch.setattr(evaluate, "answer_with_tools", count)
    run("evaluate", str(folder / "recipe.yaml"))
    assert asked == [1] and {file.name: file.read_bytes() for file in answers.glob("*.jsonl")} == kept
    run("evaluate", str(folder / "recipe.yaml"), "max_new_tokens=11")
    assert len(asked) == 1 + 12, "other settings: all answers anew"


def test_texts_are_learned_with_and_without_their_calls(made: tuple[Path, dict[str, Any]]) -> None:
    folder = made[0] / "run"
    count, all_ = (len(whole_lines(folder / f"{name}.jsonl")) for name in ("merged", "filtered"))
    learned = {name: read_summary(folder / name) for name in ("adapter", "without-calls")}
    assert {name: one["train_records"] for name, one in learned.items() if one} == {
        "adapter": count + all_,
        "without-calls": all_,
    }
    assert count < all_ == 11


def test_switched_off_as_a_whole_the_base_is_what_it_was(made: tuple[Path, dict[str, Any]]) -> None:
    adapter = made[0] / "run" / "proposer" / "last"  # the one that has learned enough to tell
    base, tokenizer = load_base("pocket", dtype="float32")
    adapted, _ = load_adapted("pocket", {"default": adapter}, dtype="float32")
    inputs = tokenizer("It was a quiet morning in Ashford. The day was", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected, on = base.eval()(**inputs).logits, adapted.eval()(**inputs).logits
        with adapted.disable_adapter():
            off = adapted(**inputs).logits
    assert torch.equal(off, expected) and not torch.allclose(on, expected, atol=0.1)


def test_what_comes_after_sampling_may_change(made: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = made
    recipe, merged = str(folder / "recipe.yaml"), folder / "run" / "merged.jsonl"
    before = whole_lines(merged)
    run("merge", recipe, "sampling={Calendar: {threshold: 0.01, positions: 2, calls: 2, gain: 99}}")
    assert whole_lines(merged) == []
    with pytest.raises(UserError, match="there is nothing to learn from"):
        run("train", recipe)
    run("merge", recipe)
    assert whole_lines(merged) == before
    with pytest.raises(UserError, match=r"learned from other texts or settings \(train.*delete it to train anew"):
        run("train", recipe, "train.steps=3")


def test_at_the_command_line(made: tuple[Path, dict[str, Any]]) -> None:
    command = [sys.executable, "-m", "zerogate.cli.main", "toolform", "--report", str(made[0] / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "What is left after each stage" in done.stderr and "Right answers" in done.stderr


def test_a_report_of_nothing_is_refused(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"nothing to report yet: .*filtered.jsonl is made by the stages up to `filter`"
    ):
        run(str(made[0] / "recipe.yaml"), f"output={tmp_path / 'new'}", report=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["filter", "RECIPE", "output=NEW"], "is not trained yet: run `zerogate toolform sample` first"),
        (["RECIPE", "seed=3"], r"was made with another recipe (seed: 0 -> 3)"),
        (
            ["RECIPE", "output=NEW", "sampling={QA: {gain: 1}}"],
            "sampling.QA: there is no such tool; there are",
        ),
        (["RECIPE", "output=NEW", "tools=[calender]"], "did you mean calendar?"),
        (["RECIPE", "output=NEW", "adapter={method: lorra}"], "lorra"),
        (["RECIPE", "output=NEW", "docments={path: x}"], "documents"),
        (["RECIPE", "output=NEW", "evaluate=[{task: math}]"], "the task math needs its file"),
        (["sample"], "name a recipe"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    made: tuple[Path, dict[str, Any]], tmp_path: Path, words: list[str], message: str
) -> None:
    names = {"RECIPE": str(made[0] / "recipe.yaml"), "output=NEW": f"output={tmp_path / 'new'}"}
    with pytest.raises(UserError) as refused:
        run(*(names.get(word, word) for word in words))
    assert message in str(refused.value)
