"""Every method a recipe can name, through the real `train`: it learns, is saved, and answers the same when loaded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file

from zerogate.bases.adapted import read_adapter
from zerogate.bases.facts import adapter_facts
from zerogate.errors import UserError
from zerogate.inference import Engine, Sampling
from zerogate.training.attach import attach
from zerogate.training.callbacks import read_metrics
from zerogate.training.methods import METHODS, adapter_keys, build_config
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import Outcome, train

QUIET = Console(quiet=True)
Settings = Callable[..., dict[str, Any]]

# What each method needs to be told beyond its name, on a base this small.
NEEDED: dict[str, dict[str, Any]] = {
    "zero_init": {"prompt_length": 4},
    "adaption_prompt": {"adapter_len": 4, "adapter_layers": 2},
    "bottleneck": {"preset": "par_bn", "reduction_factor": 4, "scaling": "learned"},
    "series_h": {"bottleneck_size": 4},
    "scaled_par_bn": {"use_bias": True, "layers_to_transform": [2, 3]},
    "dora": {"r": 2},
    "prefix_tuning": {"num_virtual_tokens": 3},
    "zero_init_prefix": {"prompt_length": 4},
}
# A random LLaMA has no biases, takes no pictures, and has no fresh head.
_ELSEWHERE = ("bitfit", "vpt", "side", "linear", "coop", "cocoop", "maple")  # for other bases and tasks
TRAINABLE = [name for name in METHODS if name not in _ELSEWHERE]


def run(settings: dict[str, Any], method: str, **options: Any) -> Outcome:
    settings["adapter"] = {"method": method, **NEEDED.get(method, {}), **options}
    return train(parse_recipe(settings), console=QUIET)


@pytest.fixture(scope="module")
def biased_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with biases and LayerNorms, GPT-2, with the tiny base's tokenizer."""
    folder = tmp_path_factory.mktemp("gpt2")
    for file in tiny_base.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(0)
    config = tf.GPT2Config(
        vocab_size=400, n_embd=32, n_layer=3, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=1, pad_token_id=2
    )
    tf.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def check(outcome: Outcome, base: Path, method: str) -> None:
    """It learned only what it may, and what was saved gives what was trained, also through the engine."""
    last = outcome.folder / "last"
    metrics = read_metrics(outcome.folder / "metrics.jsonl")
    start = next(m["eval_loss"] for m in metrics if m["step"] == 0)
    assert outcome.summary["last_loss"] < start
    model = outcome.model.eval()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        trained = model(input_ids=ids).logits
    if method == "full":
        engine = Engine.load(str(last), device="cpu")
    else:
        frozen = tf.AutoModelForCausalLM.from_pretrained(base)
        with torch.no_grad():
            assert (
                outcome.summary["base_loss"] == pytest.approx(start, abs=1e-6)
                or build_config({"method": method, **NEEDED.get(method, {})}).is_prompt_learning
            )
            plain = frozen(input_ids=ids).logits
            with model.disable_adapter():
                torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=0, atol=0)
            back = PeftModel.from_pretrained(frozen, last).eval()
            torch.testing.assert_close(back(input_ids=ids).logits, trained, rtol=0, atol=0)
        files = read_adapter(outcome.folder)
        assert adapter_facts(files).parameters == outcome.summary["trained_parameters"]
        engine = Engine.load(str(base), {"it": str(outcome.folder)}, device="cpu")
    with torch.no_grad():
        loaded = engine.model(input_ids=ids).logits
    torch.testing.assert_close(loaded, trained, rtol=0, atol=0)
    prompts = [engine.prompt("Where does the fox live?"), engine.prompt("And where in the wood does the hare live?")]
    sampling = Sampling(max_new_tokens=4, temperature=0.0)
    together = engine.answer(prompts, sampling)
    assert [answer.ids for answer in together] == [engine.answer([p], sampling)[0].ids for p in prompts]
    assert f"method | {METHODS[method].summary}" in (last / "README.md").read_text()


@pytest.mark.parametrize("method", TRAINABLE)
def test_trained_saved_and_loaded(settings: Settings, tiny_base: Path, method: str) -> None:
    rate = {"prefix_tuning": 0.1, "prompt_tuning": 0.1}.get(method, 0.01)
    outcome = run(settings(train__steps=3, train__warmup_steps=0, train__learning_rate=rate), method)
    check(outcome, tiny_base, method)


def test_bitfit_trains_biases_alone(settings: Settings, biased_base: Path, tiny_base: Path) -> None:
    recipe = settings(base__name=str(biased_base), train__steps=3, train__learning_rate=0.01)
    outcome = run(recipe, "bitfit")
    check(outcome, biased_base, "bitfit")
    saved = load_file(outcome.folder / "last" / "adapter_model.safetensors")
    frozen = tf.AutoModelForCausalLM.from_pretrained(biased_base)
    biases = {name: p for name, p in frozen.named_parameters() if name.endswith(".bias")}
    assert {f"base_model.model.{name.removesuffix('bias')}bitfit.shift" for name in biases} == set(saved)
    # Merged, it is the base with other biases.
    back = PeftModel.from_pretrained(frozen, outcome.folder / "last").eval()
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        expected = back(input_ids=ids).logits
        merged = back.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-5, atol=1e-6)
    again = tf.AutoModelForCausalLM.from_pretrained(biased_base)
    changed = {n for n, p in merged.named_parameters() if not torch.equal(p, dict(again.named_parameters())[n])}
    assert changed == set(biases)


@pytest.mark.parametrize("method", ["par_bn", "lora", "ia3", "ln_tuning", "prefix_tuning", "prompt_tuning"])
def test_other_families_by_their_own_defaults(settings: Settings, biased_base: Path, method: str) -> None:
    rate = {"prefix_tuning": 0.1, "prompt_tuning": 0.1}.get(method, 0.01)
    outcome = run(settings(base__name=str(biased_base), train__steps=3, train__learning_rate=rate), method)
    check(outcome, biased_base, method)


@pytest.mark.parametrize("method", ["scaled_par_bn", "series_h", "ln_tuning", "prefix_tuning", "prompt_tuning", "ia3"])
def test_a_bf16_base(settings: Settings, tiny_base: Path, method: str) -> None:
    outcome = run(settings(base__dtype="bfloat16", train__steps=2), method)
    assert {p.dtype for p in outcome.model.parameters() if p.requires_grad} == {torch.float32}
    engine = Engine.load(str(tiny_base), {"it": str(outcome.folder)}, device="cpu", dtype="bfloat16")
    prompts = [engine.prompt("Where does the fox live?"), engine.prompt("And where in the wood does the hare live?")]
    answers = engine.answer(prompts, Sampling(max_new_tokens=3, temperature=0.0))
    assert all(1 <= len(answer.ids) <= 3 for answer in answers)


@pytest.mark.parametrize("method", ["scaled_par_bn", "bitfit"])
def test_stopped_runs_go_on_bit_for_bit(
    settings: Settings, tiny_base: Path, biased_base: Path, tmp_path: Path, method: str
) -> None:
    base = str(biased_base if method == "bitfit" else tiny_base)
    whole = run(settings(base__name=base, train__steps=2, train__save_every=1, output=str(tmp_path / "a")), method)
    recipe = settings(base__name=base, train__steps=2, train__save_every=1, output=str(tmp_path / "b"))
    stopped = run(recipe, method)
    (stopped.folder / "summary.json").unlink()
    for newest in (stopped.folder / "checkpoints").glob("step-0000002"):
        for file in newest.iterdir():
            file.unlink()
    again = train(parse_recipe(recipe), resume=True, console=QUIET)
    weights = [(o.folder / "last" / "adapter_model.safetensors").read_bytes() for o in (whole, again)]
    assert weights[0] == weights[1]


def test_adapters_of_several_methods_answer_in_one_batch(settings: Settings, tiny_base: Path, tmp_path: Path) -> None:
    """Bottlenecks of different presets share a pass; each row is answered as alone."""
    runs = {
        name: run(settings(train__steps=3, train__learning_rate=0.05, output=str(tmp_path / name)), name).folder
        for name in ("series_h", "scaled_par_bn")
    }
    engine = Engine.load(str(tiny_base), {"one": runs["series_h"], "two": runs["scaled_par_bn"]}, device="cpu")
    names = ["one", "two", "__base__", "one"]
    prompts = [engine.prompt(f"Where does the {animal} live?") for animal in ("fox", "hen", "mole", "grey wolf")]
    sampling = Sampling(max_new_tokens=5, temperature=0.0)
    together = [answer.ids for answer in engine.answer(prompts, sampling, names)]
    alone = [engine.answer([p], sampling, [n])[0].ids for p, n in zip(prompts, names, strict=True)]
    assert together == alone


# --- mistakes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"method": "series-h"}, "unknown adapter.method 'series-h'; did you mean series_h?"),
        ({"method": "dorra"}, "did you mean dora?"),
        ({"method": "bottleneck", "presett": "par_bn"}, "unknown key adapter.presett; did you mean preset?"),
        ({"method": "bottleneck", "preset": "par-bn"}, "preset='par-bn' must be one of .*Did you mean 'par_bn'"),
        ({"method": "series_h", "preset": "par_bn"}, "unknown key adapter.preset"),
        ({"method": "dora", "use_dora": False}, "unknown key adapter.use_dora"),
        ({"method": "prefix_tuning", "num_layers": 2}, "unknown key adapter.num_layers"),
        ({"method": "lora", "rank": 4}, "unknown key adapter.rank"),
        ({"method": "bottleneck", "bottleneck_size": "big"}, "adapter.bottleneck_size: .*not 'big'"),
        ({"method": "bottleneck", "position": "behind"}, "position='behind' must be one of"),
        ({"method": "par_bn", "target_modules": ["w1"]}, "fed_by"),
        (
            {"method": "series_p", "target_modules": ["w2"]},
            r"'w2' in target_modules.*model\.layers\.\*\.mlp\.down_proj",
        ),
        (
            {"method": "lora", "target_modules": ["w2"]},
            r"w2.*Its Linear layers are .*model\.layers\.\*\.mlp\.down_proj",
        ),
        ({"method": "bitfit"}, "LlamaForCausalLM has no biases.*ln_tuning"),
        ({"method": "full", "r": 2}, "unknown key adapter.r"),
        ({"method": "lora", "prompt_length": 2}, 'unknown key adapter.prompt_length.*"adapter={method: lora}"'),
    ],
    ids=str,
)
def test_mistakes_are_named(settings: Settings, adapter: dict[str, Any], message: str) -> None:
    recipe = settings(adapter=adapter)
    with pytest.raises(UserError, match=f"(?s){message}"):
        train(parse_recipe(recipe), console=QUIET)
    assert not Path(recipe["output"]).exists()


def test_prefix_tuning_refuses_gradient_checkpointing(settings: Settings) -> None:
    recipe = settings(adapter={"method": "prefix_tuning"}, train__gradient_checkpointing=True)
    with pytest.raises(UserError, match=r"prefix_tuning does not go with train\.gradient_checkpointing: .*caches"):
        train(parse_recipe(recipe), console=QUIET)


@pytest.mark.parametrize("method", ["par_bn", "prompt_tuning"])
def test_gradient_checkpointing_gives_the_same_adapter(settings: Settings, tmp_path: Path, method: str) -> None:
    files = []
    for checkpointing in (False, True):
        recipe = settings(
            train__steps=2, train__gradient_checkpointing=checkpointing, output=str(tmp_path / str(checkpointing))
        )
        files.append(load_file(run(recipe, method).folder / "last" / "adapter_model.safetensors"))
    for key in files[0]:
        torch.testing.assert_close(files[1][key], files[0][key], rtol=1e-4, atol=1e-5)


def test_what_a_preset_stands_for_is_written_into_the_file(settings: Settings) -> None:
    outcome = run(settings(train__steps=1), "seq_bn")
    config = json.loads((outcome.folder / "last" / "adapter_config.json").read_text())
    assert (config["preset"], config["reduction_factor"], config["non_linearity"]) == ("seq_bn", 16, "relu")
    assert (config["target_modules"], config["position"]) == (["down_proj"], "series-output")


@pytest.mark.parametrize(
    ("method", "model", "expected"),
    [
        ("ln_tuning", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), (2 * 32 + 1) * 4096),
        ("bitfit", lambda: tf.GPT2LMHeadModel(tf.GPT2Config()), 12 * (3 + 1 + 4 + 1 + 2) * 768 + 768),
        ("lora", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), 32 * 2 * 8 * 2 * 4096),
        ("prefix_tuning", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), 10 * 32 * 2 * 4096),
        ("prompt_tuning", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), 10 * 4096),
        ("ia3", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), 32 * (4096 * 2 + 11008)),
        ("llm-adapters' lora", lambda: tf.LlamaForCausalLM(tf.LlamaConfig()), 56_098_816),
    ],
)
def test_counts_on_the_meta_device(method: str, model: Callable[[], Any], expected: int) -> None:
    adapter: dict[str, Any] = {"method": method}
    if method.endswith("lora") and method != "lora":
        targets = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
        adapter = {"method": "lora", "r": 32, "target_modules": targets}
    if method == "prompt_tuning":
        adapter["prompt_tuning_init"] = "RANDOM"  # sampled tokens have no values on the meta device
    with torch.device("meta"):
        base = model()
        adapted = attach(base, build_config(adapter), 0, "base")
    assert adapted.get_nb_trainable_parameters()[0] == expected


def test_keys_are_those_of_the_config() -> None:
    assert {"preset", "position", "bottleneck_size", "scaling"} <= set(adapter_keys({"method": "bottleneck"}))
    assert "preset" not in adapter_keys({"method": "series_h"})
    assert "token_dim" not in adapter_keys({"method": "prompt_tuning"})
    assert adapter_keys({"method": "full"}) == []
