"""PEFT's prompts and prefixes before texts, on bases that differ from BERT in heads, widths, names and positions."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from rich.console import Console

from zerogate.bases.adapted import attach, read_adapter
from zerogate.errors import UserError
from zerogate.inference.predict import Predictor
from zerogate.training.callbacks import read_metrics
from zerogate.training.problems import find_problem
from zerogate.training.problems.base import load_fast_tokenizer, longest_text
from zerogate.training.problems.trained import load_trained
from zerogate.training.recipe_file import parse_recipe
from zerogate.training.run import Outcome, train

SIZE: dict[str, Any] = dict(vocab_size=80, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
POSITIONS = 40  # for as many tokens; of RoBERTa's kin two more
KINDS: dict[str, tf.PretrainedConfig] = {
    "bert": tf.BertConfig(**SIZE, hidden_size=32, max_position_embeddings=POSITIONS),
    "electra": tf.ElectraConfig(**SIZE, hidden_size=32, embedding_size=16, max_position_embeddings=POSITIONS),
    "albert": tf.AlbertConfig(**SIZE, hidden_size=32, embedding_size=16, max_position_embeddings=POSITIONS),
    "distilbert": tf.DistilBertConfig(
        vocab_size=80, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=POSITIONS
    ),
    "modernbert": tf.ModernBertConfig(
        **SIZE, hidden_size=32, max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=2, cls_token_id=2,
        eos_token_id=3, sep_token_id=3,
    ),
    "deberta-v2": tf.DebertaV2Config(**SIZE, hidden_size=32, max_position_embeddings=POSITIONS),
    "mpnet": tf.MPNetConfig(**SIZE, hidden_size=32, pad_token_id=1, max_position_embeddings=POSITIONS + 2),
    "roberta": tf.RobertaConfig(**SIZE, hidden_size=32, pad_token_id=1, max_position_embeddings=POSITIONS + 2),
}  # fmt: skip
DATA: dict[str, dict[str, Any]] = {
    "token_classification": {"max_length": 16},
    "question_answering": {"max_length": 24, "stride": 4},
}


@pytest.fixture
def base(request: pytest.FixtureRequest, tiny_bert: Path, tmp_path: Path) -> Path:
    """A tiny model of a kind, with the tiny BERT's tokenizer, which does not say what length the model takes."""
    folder = tmp_path / "base"
    torch.manual_seed(0)
    tf.AutoModel.from_config(KINDS[request.param]).save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    return folder


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("base", kinds, indirect=True)


def recipe(task: str, base: Path, method: str, data: dict[str, Any], **adapter: Any) -> dict[str, Any]:
    """A run of two steps; its data are made here."""
    folder = base.parent
    names = ["anna", "paris", "who", "live"]
    if task == "token_classification":
        lines = [f"{names[n % 4]} B-PER\nlives O\nin O\n{' '.join(['paris'])} B-LOC\n" for n in range(24)]
        lines.append("anna B-PER\n" + "a O\n" * 60)
        (folder / "data").write_text("\n".join(lines))
    else:
        articles = []
        for n in range(10):
            context = "a b c d e f " * 8 + f"{names[n % 4]} lives in paris."
            answer = {"text": "paris", "answer_start": context.index("paris.")}
            asked = {"id": str(n), "question": "where ?", "answers": [answer]}
            articles.append({"title": str(n), "paragraphs": [{"context": context, "qas": [asked]}]})
        (folder / "data").write_text(json.dumps({"version": "1.1", "data": articles}))
    path = folder / ("data.conll" if task == "token_classification" else "data.json")
    (folder / "data").rename(path)
    return {
        "task": task,
        "base": {"name": str(base), "device": "cpu"},
        "adapter": {"method": method, "num_virtual_tokens": 4, **adapter},
        "data": {"path": str(path), "held_out": 5, **DATA[task], **data},
        "train": {"steps": 2, "batch_size": 8, "learning_rate": 0.05, "evaluate_every": 2, "save_every": 2},
        "output": str(folder / "run"),
    }


def run(settings: dict[str, Any]) -> Outcome:
    return train(parse_recipe(settings), console=Console(quiet=True))


def assert_loaded_as_it_was(outcome: Outcome, settings: dict[str, Any]) -> Any:
    loaded = load_trained(outcome.folder / "last")
    problem = find_problem(parse_recipe(settings))
    part = problem.load_data(loaded.processor).held_out
    last = [m["eval_loss"] for m in read_metrics(outcome.folder / "metrics.jsonl") if "eval_loss" in m][-1]
    assert problem.measure(loaded.model, part, batch_size=3)["eval_loss"] == pytest.approx(last, abs=1e-5)  # type: ignore[attr-defined]
    return loaded


TASKS = pytest.mark.parametrize("task", DATA)


@TASKS
@on("electra", "albert", "distilbert", "modernbert", "roberta")
def test_prompts_on_other_bases(task: str, base: Path) -> None:
    settings = recipe(task, base, "prompt_tuning", {})
    outcome = run(settings)
    loaded = assert_loaded_as_it_was(outcome, settings)
    width = loaded.model.get_input_embeddings().weight.shape[1]
    config = read_adapter(outcome.folder / "last").config
    assert config["token_dim"] == width
    assert len(config["modules_to_save"]) == len(set(config["modules_to_save"]))


@TASKS
@pytest.mark.parametrize("method", ["prompt_tuning", "lora"])
@on("modernbert")
def test_all_parts_of_a_head_are_trained_and_saved(method: str, task: str, base: Path) -> None:
    settings = recipe(task, base, "prompt_tuning", {})
    if method == "lora":
        settings["adapter"] = {"method": "lora", "r": 2, "target_modules": ["Wqkv"]}
    before = dict(find_problem(parse_recipe(settings)).load_base(whole=False, device="cpu")[0].named_parameters())
    outcome = run(settings)
    saved = read_adapter(outcome.folder / "last").shapes
    trained = {name for name, p in outcome.model.named_parameters() if p.requires_grad}
    for part in ("head.dense.weight", "head.norm.weight", "classifier.weight"):
        assert any(name.endswith(part) for name in saved), part
        assert sum(part.split(".")[0] in name and name.endswith(part.split(".", 1)[1]) for name in trained) == 1
        assert part in before
    assert_loaded_as_it_was(outcome, settings)


@TASKS
@on("bert", "electra", "roberta")
def test_prefixes_up_to_the_bases_full_length(task: str, base: Path) -> None:
    with pytest.raises(UserError, match=r"max_length 37 is too long: .* 40 tokens, 4 of them prefix_tuning's; .* 36$"):
        run(recipe(task, base, "prefix_tuning", {"max_length": 37}))
    settings = recipe(task, base, "prefix_tuning", {"max_length": 36})
    outcome = run(settings)
    loaded = assert_loaded_as_it_was(outcome, settings)
    # Asked without a record of how its texts were cut, it reads as many tokens as fit beside the prefix, and no more.
    (outcome.folder / "last" / "lengths.json").unlink()
    long = {"text": "a " * 90, "question": "where ?", "context": "a " * 90}
    widths: list[int] = []
    embeddings = next(m for n, m in loaded.model.named_modules() if n.endswith("word_embeddings"))
    with embeddings.register_forward_hook(lambda module, args, y: widths.append(y.shape[1])):
        list(Predictor(loaded)([long]))
    assert max(widths) == 36


@on("bert", "roberta")
def test_prompts_count_and_other_methods_do_not(base: Path) -> None:
    with pytest.raises(UserError, match=r"reads 40 tokens, 10 of them prompt_tuning's; .* at most 30$"):
        settings = recipe("token_classification", base, "prompt_tuning", {"max_length": 31})
        del settings["adapter"]["num_virtual_tokens"]  # ten unless told
        run(settings)
    settings = recipe("token_classification", base, "linear", {"max_length": 41})
    settings["adapter"] = {"method": "linear"}
    with pytest.raises(UserError, match=r"max_length 41 is too long: .* reads 40 tokens; .* at most 40$"):
        run(settings)
    settings["data"]["max_length"] = 40
    run(settings)


@TASKS
@on("albert", "distilbert", "modernbert", "deberta-v2", "mpnet")
def test_bases_without_a_cache_take_no_prefix(task: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe(task, base, "prefix_tuning", {})
    said_late = lambda self, processor: pytest.fail("the data were read before")  # noqa: E731
    monkeypatch.setattr(type(find_problem(parse_recipe(settings))), "load_data", said_late)
    with pytest.raises(UserError, match=r"prefix_tuning does not fit the base .* takes no keys and values .*lora"):
        run(settings)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (tf.BertConfig(**SIZE, hidden_size=32, max_position_embeddings=80), 80),  # as many as there are words
        (tf.RobertaConfig(), 510),
        (tf.XLMRobertaConfig(max_position_embeddings=514), 512),
        (tf.CamembertConfig(max_position_embeddings=514), 512),
        (tf.MPNetConfig(max_position_embeddings=514), 512),
        (tf.LongformerConfig(max_position_embeddings=4098), 4096),
        (tf.ModernBertConfig(), 8192),
        (tf.OPTConfig(), 2048),  # whose table has two positions more than it says
        (tf.BloomConfig(), 9000),  # without positions
    ],
    ids=lambda value: str(getattr(value, "model_type", "")),
)
def test_how_many_tokens_a_base_reads(config: tf.PretrainedConfig, longest: int, tiny_bert: Path) -> None:
    tokenizer = load_fast_tokenizer(str(tiny_bert))
    tokenizer.model_max_length = 9000
    before = config.to_dict()
    assert longest_text(config, tokenizer) == longest == longest_text(config, tokenizer)
    assert config.to_dict() == before
    tokenizer.model_max_length = 30
    assert longest_text(config, tokenizer) == 30


@on("electra")
def test_prompts_are_compared_with_the_bases_embeddings(base: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = recipe("token_classification", base, "prompt_tuning", {})
    folder = run(settings).folder / "last"
    # Made by an earlier version: it says the layers' width, and its prompts have the embeddings'.
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "token_dim": 32}))
    assert load_trained(folder).model.prompt_encoder["trained"].embedding.weight.shape == (4, 16)
    with pytest.raises(UserError, match=r"prompt_embeddings is \[4, 16\] in the adapter, \[4, 32\] in this base"):
        load_trained(folder, str(tiny_bert))


@torch.no_grad()
@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_adapters_of_pefts_own_making_are_loaded_as_peft_does(kind: Any, tmp_path: Path) -> None:
    def llama() -> tf.PreTrainedModel:
        torch.manual_seed(0)
        config = tf.LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )  # fmt: skip
        return tf.LlamaForCausalLM(config).eval()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = get_peft_model(llama(), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
        theirs.save_pretrained(tmp_path, save_embedding_layers=False)
    tokens = torch.arange(10)[None]
    expected = PeftModel.from_pretrained(llama(), tmp_path).eval()(input_ids=tokens).logits
    ours = attach(llama(), {"one": read_adapter(tmp_path)}, "llama")
    assert torch.allclose(ours(input_ids=tokens).logits, expected, atol=1e-6)
