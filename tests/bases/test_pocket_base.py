"""The pocket base as shipped, its tokenizer, and the parts of its training that can be checked in a second."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from zerogate.bases.pocket import pretrain, probe
from zerogate.bases.pocket.corpus import world_round
from zerogate.bases.pocket.tokenizer import BOS_ID, EOS_ID, PAD_ID, train_tokenizer
from zerogate.bases.pocket.world import facts
from zerogate.errors import UserError

FOLDER = Path(pretrain.__file__).parent


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


def test_any_text_comes_back(tokenizer: PreTrainedTokenizerBase) -> None:
    for text in (
        "A fox lives in a den.",
        "  two  blanks\n\nand lines\t",
        "naïve café, 北京, 🦊",
        "17 plus 5 is 22",
        "</ s>",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_bos_opens_every_text_and_digits_stand_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("fox")["input_ids"][0] == BOS_ID == tokenizer.bos_token_id
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS_ID, PAD_ID)
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert len(tokenizer) == 4096
    assert tokenizer.chat_template is None


def test_training_a_tokenizer_gives_the_same_one_twice(tmp_path: Path) -> None:
    texts = world_round(0)[:400]
    for name in ("a", "b"):
        train_tokenizer(texts, 400).save_pretrained(tmp_path / name)
    assert (tmp_path / "a" / "tokenizer.json").read_text() == (tmp_path / "b" / "tokenizer.json").read_text()


def test_documents_are_packed_between_bos_and_eos(tokenizer: PreTrainedTokenizerBase) -> None:
    packed = pretrain.pack(["A fox.", "An owl."], tokenizer)
    assert packed.dtype == np.uint16
    assert packed[0] == BOS_ID and packed[-1] == EOS_ID
    assert (packed == BOS_ID).sum() == (packed == EOS_ID).sum() == 2
    assert tokenizer.decode(packed, skip_special_tokens=True) == "A fox.An owl."


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    factors = [pretrain.learning_rate_factor(done) for done in np.linspace(0, 1, 101)]
    assert factors[0] == 0.0 and factors[-1] == 0.0
    assert factors[10] == factors[50] == 1.0
    assert factors[60:] == sorted(factors[60:], reverse=True)


def test_a_checkpoint_puts_weights_optimisers_and_progress_back(tmp_path: Path) -> None:
    def step(model: LlamaForCausalLM, opts: list[torch.optim.Optimizer]) -> None:
        ids_BT = torch.arange(24).reshape(2, 12)
        model(ids_BT, labels=ids_BT).loss.backward()
        for optimiser in opts:
            optimiser.step()
            optimiser.zero_grad()

    config = pretrain.model_config()
    config.update({"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 64, "head_dim": 4})
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    opts = pretrain.optimisers(model, 0.01)
    step(model, opts)
    pretrain.save_checkpoint(tmp_path / "c.pt", model, opts, pretrain.Progress(1, 2.5, 24))
    step(model, opts)
    resumed = LlamaForCausalLM(config)
    resumed_opts = pretrain.optimisers(resumed, 0.01)
    assert pretrain.load_checkpoint(tmp_path / "c.pt", resumed, resumed_opts) == pretrain.Progress(1, 2.5, 24)
    step(resumed, resumed_opts)
    for (name, one), other in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_shipped_folder_is_small_safe_and_complete() -> None:
    shipped = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in shipped) < 25e6
    assert not [path for path in shipped if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    config = json.loads((FOLDER / "config.json").read_text())
    assert (config["model_type"], config["dtype"], config["tie_word_embeddings"]) == ("llama", "bfloat16", True)
    assert config["num_key_value_heads"] < config["num_attention_heads"]
    assert "CC BY-SA" in (FOLDER / "README.md").read_text()


def test_the_base_knows_a_sample_of_the_facts() -> None:
    from zerogate.bases import load_base

    model, tokenizer = load_base("pocket", device="cpu")
    asked = facts()[::24]
    made = probe.continuations(model, tokenizer, [fact.stem for fact in asked], probe.MARGIN)
    known = sum(probe.knows(fact, text) for fact, text in zip(asked, made, strict=True))
    assert known / len(asked) >= 0.95


@pytest.mark.parametrize("architecture", ["llama", "bloom", "opt", "gptj"])
def test_every_architecture_trains_and_is_exported_whole(
    architecture: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Small bases for `zerogate compare`: one step, then the exported folder gives the same logits in bf16."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(pretrain.model_config(architecture, width=64, layers=2))
    ids_BT = torch.arange(5, 29).reshape(2, 12)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(ids_BT, labels=ids_BT).loss.backward()
    for optimiser in pretrain.optimisers(model, 0.01):
        optimiser.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name in still if "bias" not in name]  # a bias may have nothing to learn in one step
    pretrain.export(tmp_path, model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16 and again.config.model_type == architecture
    torch.testing.assert_close(again(ids_BT).logits.float(), model(ids_BT).logits, rtol=0.1, atol=0.1)


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match="--width must be a multiple of 64"):
        pretrain.model_config(width=96)
