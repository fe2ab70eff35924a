"""Whole runs on a tiny real base: what a run folder holds, each method, dtypes, and what stops a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from zerogate.adapters.zero_init import gates
from zerogate.data.load import load_data
from zerogate.errors import UserError
from zerogate.training.callbacks import read_metrics
from zerogate.training.held_out import held_out_loss
from zerogate.training.recipe_file import load_recipe, parse_recipe
from zerogate.training.run import Outcome, train

QUIET = Console(quiet=True)
Settings = Callable[..., dict[str, Any]]


def run(settings: dict[str, Any], **options: bool) -> Outcome:
    return train(parse_recipe(settings), console=QUIET, **options)


def test_run_folder(settings: Settings, tiny_base: Path) -> None:
    recipe = settings()
    outcome = run(recipe)
    folder = outcome.folder
    names = {path.name for path in folder.iterdir()}
    files = {"recipe.yaml", "versions.json", "metrics.jsonl", "summary.json", "loss.png", "gates.png"}
    assert names == {*files, "best", "last", "checkpoints"}
    assert load_recipe(folder / "recipe.yaml") == parse_recipe(recipe)
    assert json.loads((folder / "versions.json").read_text())["torch"] == torch.__version__
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-0000008", "step-0000012"]
    for picture in ("loss.png", "gates.png"):
        assert (folder / picture).read_bytes()[:4] == b"\x89PNG"

    metrics = read_metrics(folder / "metrics.jsonl")
    held_out = {m["step"]: m["eval_loss"] for m in metrics if "eval_loss" in m}
    assert list(held_out) == [0, 4, 8, 12]
    assert held_out[12] < held_out[0]
    assert [m["step"] for m in metrics if "loss" in m] == [1, 2, 4, 6, 8, 10, 12]
    last = [m for m in metrics if "loss" in m][-1]
    final = {layer: gate.abs().mean().item() for layer, gate in gates(outcome.model).items()}
    assert list(final) == [1, 2, 3]
    for layer, value in final.items():
        assert last[f"gate/layer_{layer:02d}"] == pytest.approx(value)
        assert value > 0

    # Step 0 is the base: no adapter in sight.
    data = load_data(parse_recipe(recipe).data, AutoTokenizer.from_pretrained(tiny_base))
    assert data.held_out is not None
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert held_out[0] == pytest.approx(held_out_loss(base, data.held_out, 2).loss, abs=1e-9)
    # The saved adapter gives the loss its card tells.
    adapted = PeftModel.from_pretrained(base, folder / "last")
    loss = held_out_loss(adapted, data.held_out, 2).loss
    assert loss == pytest.approx(held_out[12], abs=1e-9)
    card = (folder / "last" / "README.md").read_text()
    assert f"{loss:.4f}" in card and f"{held_out[0]:.4f}" in card and "80 training records" in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["base_model"] == str(tiny_base)
    assert json.loads((folder / "last" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tiny_base
    )
    assert outcome.summary["trained_parameters"] == 3 * (4 * 32 + 4)
    assert outcome.summary["best_loss"] == min(list(held_out.values())[1:])


def test_the_bases_loss_is_measured_without_vanilla_prompts(settings: Settings, tmp_path: Path) -> None:
    # Random prompts in the softmax change the model before anything is learned, so step 0 is not the base there.
    adapter = {"method": "zero_init", "prompt_length": 4}
    gated = run(settings(adapter=adapter, train__steps=1, output=str(tmp_path / "gated"))).summary
    vanilla = run(
        settings(adapter={**adapter, "attention": "vanilla"}, train__steps=1, output=str(tmp_path / "vanilla"))
    )
    assert vanilla.summary["base_loss"] == gated["base_loss"]
    first = read_metrics(vanilla.folder / "metrics.jsonl")[0]
    assert abs(first["eval_loss"] - first["base_loss"]) > 1e-6


def test_best_is_the_lowest_held_out_loss_and_not_the_last(settings: Settings) -> None:
    # A rate that grows without end ruins what the first steps learned.
    rate = {"train__learning_rate": 1.0, "train__warmup_steps": 12}
    recipe = settings(adapter={"method": "full"}, train__steps=12, train__evaluate_every=1, **rate)
    outcome = run(recipe)
    losses = {m["step"]: m["eval_loss"] for m in read_metrics(outcome.folder / "metrics.jsonl") if "eval_loss" in m}
    del losses[0]
    best = min(losses, key=losses.__getitem__)
    assert best != 12, "the case is real only if training got worse"
    assert (outcome.summary["best_step"], outcome.summary["best_loss"]) == (best, losses[best])
    weights = [load_file(outcome.folder / name / "model.safetensors") for name in ("best", "last")]
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert f"step {best} of 12" in (outcome.folder / "best" / "README.md").read_text()


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "zero_init", "prompt_length": 4, "attention": "vanilla"},
        {"method": "zero_init", "prompt_length": 4, "modules_to_save": ["input_layernorm", "norm"]},
        {"method": "lora", "r": 2, "lora_dropout": 0.1},
        {"method": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2},
        {"method": "full"},
    ],
    ids=["vanilla", "norms", "lora", "adaption_prompt", "full"],
)
def test_every_method_learns(settings: Settings, adapter: dict[str, Any]) -> None:
    outcome = run(settings(adapter=adapter, train__learning_rate=0.01))
    # Below where it began, which is the base's loss for all but vanilla prompts: those begin above it.
    start = next(m["eval_loss"] for m in read_metrics(outcome.folder / "metrics.jsonl") if m["step"] == 0)
    assert outcome.summary["last_loss"] < start
    file = "model.safetensors" if adapter["method"] == "full" else "adapter_model.safetensors"
    assert (outcome.folder / "last" / file).is_file()
    assert (outcome.folder / "gates.png").exists() == (adapter["method"] == "zero_init" and "attention" not in adapter)
    if "modules_to_save" in adapter:
        saved = load_file(outcome.folder / "last" / file)
        assert any("norm" in name for name in saved)


@pytest.mark.parametrize(
    "adapter",
    [
        {"method": "zero_init", "prompt_length": 4},
        {"method": "lora", "r": 2},
        {"method": "zero_init", "prompt_length": 4, "modules_to_save": ["norm"]},
        {"method": "adaption_prompt", "adapter_len": 4, "adapter_layers": 2},
        {"method": "full"},
    ],
    ids=["zero_init", "lora", "norms", "adaption_prompt", "full"],
)
def test_trained_parameters_are_fp32_on_a_bf16_base(settings: Settings, adapter: dict[str, Any]) -> None:
    outcome = run(settings(adapter=adapter, base__dtype="bfloat16", train__steps=4))
    dtypes = {(p.requires_grad, p.dtype) for p in outcome.model.parameters()}
    expected = {(True, torch.float32)} | (set() if adapter["method"] == "full" else {(False, torch.bfloat16)})
    assert dtypes == expected
    assert outcome.summary["last_loss"] == pytest.approx(outcome.summary["last_loss"])  # not NaN


def test_accumulation_gives_the_same_steps(settings: Settings, tmp_path: Path) -> None:
    # In one order of the data, because passes are what like lengths are grouped by.
    whole = run(settings(train__group_by_length=False, output=str(tmp_path / "whole")))
    parts = run(settings(train__group_by_length=False, train__micro_batch_size=2, output=str(tmp_path / "parts")))
    weights = [load_file(o.folder / "last" / "adapter_model.safetensors") for o in (whole, parts)]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=1e-3, atol=1e-4)


def test_same_seed_same_adapter_other_seed_other_adapter(settings: Settings, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        outcome = run(settings(train__seed=seed, output=str(tmp_path / name)))
        files.append((outcome.folder / "last" / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_folder_with_a_run_is_not_touched_unless_asked(settings: Settings) -> None:
    recipe = settings(train__steps=2)
    folder = run(recipe).folder
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already holds a run"):
        run(recipe)
    assert run(recipe, resume=True).summary["steps"] == 2  # finished: nothing to do
    changed = settings(train__steps=3)
    with pytest.raises(UserError, match=r"another recipe \(train.steps: 2 -> 3\)"):
        run(changed, resume=True)  # what is finished is not what was asked for
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"another recipe \(train.steps: 2 -> 3\)"):
        run(changed, resume=True)
    assert run(changed, overwrite=True).summary["steps"] == 3
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(UserError, match="exclude each other"):
        run(changed, overwrite=True, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter__num_layers": 9}, r"does not fit the base .*num_layers=9.*4"),
        ({"adapter": {"method": "lora", "target_modules": ["nope"]}}, "does not fit the base .*nope"),
        ({"data__path": "gone.json"}, "data file not found"),
        ({"data__held_out": 100}, "leaves nothing to train on"),
        ({"train__liger": True}, "train.liger needs (liger-kernel|a GPU)"),
        ({"report_to": "wandb"}, "wandb is not installed; pip install wandb"),
    ],
)
def test_nothing_is_written_for_a_run_that_cannot_start(
    settings: Settings, change: dict[str, Any], message: str
) -> None:
    recipe = settings(**change)
    with pytest.raises(UserError, match=message):
        run(recipe)
    assert not Path(recipe["output"]).exists()


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    settings: Settings, tiny_base: Path, data_file: Path, tmp_path: Path
) -> None:
    # A base with one poisoned embedding: only rows that hold its token break.
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_base.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(broken)
    (poison,) = tokenizer("ß", add_special_tokens=False).input_ids[-1:]
    weights = load_file(broken / "model.safetensors")
    weights["model.embed_tokens.weight"][poison] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    rows = [json.loads(line) for line in data_file.read_text().splitlines()]
    rows[41]["instruction"] += " ß"
    poisoned = tmp_path / "poisoned.json"
    poisoned.write_text(json.dumps(rows))

    # The head shares the embedding, so keep the poisoned logit out of every softmax: untie it.
    config = json.loads((broken / "config.json").read_text())
    config["tie_word_embeddings"] = False
    (broken / "config.json").write_text(json.dumps(config))
    weights["lm_head.weight"] = load_file(tiny_base / "model.safetensors")["model.embed_tokens.weight"].clone()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})

    recipe = settings(base__name=str(broken), data__path=str(poisoned), data__held_out=None, train__save_every=1)
    with pytest.raises(UserError, match=r"the loss became nan at step \d+.*batch of rows .*\b42\b") as caught:
        run(recipe)
    folder = Path(recipe["output"])
    kept = sorted((folder / "checkpoints").iterdir())[-1]
    assert str(kept) in str(caught.value)
    saved = load_file(kept / "trained.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())
    assert not (folder / "summary.json").exists()


def test_tensorboard(settings: Settings) -> None:
    pytest.importorskip("tensorboard")
    outcome = run(settings(report_to="tensorboard", train__steps=2))
    assert list(outcome.folder.rglob("events.out.tfevents*"))
