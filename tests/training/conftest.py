"""A tiny real base with its own tokenizer, a data file, and a recipe that trains one on the other in seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ANIMALS = ["fox", "owl", "bear", "hen", "frog", "mole", "wolf", "hare", "goat", "duck"]
PLACES = ["den", "tree", "cave", "yard", "pond", "hole", "wood", "field", "hill", "lake"]


def records() -> list[dict[str, str]]:
    """A hundred questions with answers of different lengths."""
    return [
        {
            "instruction": f"Where does the {animal} number {number} live?",
            "input": "Think." if number % 3 == 0 else "",
            "output": f"The {animal} lives in the {place}" + ", not far from here" * (number % 4) + ".",
        }
        for number in range(10)
        for animal, place in zip(ANIMALS, PLACES, strict=True)
    ]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random grouped-query LLaMA of four layers, saved with a tokenizer that opens with BOS."""
    folder = tmp_path_factory.mktemp("base")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((" ".join(record.values()) for record in records()), trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records as JSON lines."""
    file = tmp_path_factory.mktemp("data") / "where.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records()))
    return file


@pytest.fixture
def settings(tiny_base: Path, data_file: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Recipe settings: twelve steps of eight, over more than one epoch; keywords `section__key` change them."""

    def make(**changes: Any) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "base": {"name": str(tiny_base), "device": "cpu"},
            "adapter": {"method": "zero_init", "prompt_length": 4, "num_layers": 3},
            "data": {"path": str(data_file), "held_out": 20},
            "train": {
                "steps": 12,
                "batch_size": 8,
                "learning_rate": 0.05,
                "warmup_steps": 2,
                "evaluate_every": 4,
                "save_every": 4,
                "log_every": 2,
            },
            "output": str(tmp_path / "run"),
        }
        for dotted, value in changes.items():
            section, _, key = dotted.partition("__")
            if key:
                recipe[section][key] = value
            else:
                recipe[section] = value
        return recipe

    return make
