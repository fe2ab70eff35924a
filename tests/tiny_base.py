"""Tiny real models for the tests of bases, inference and commands: random LLaMAs with a tokenizer, saved as usual.

Adapters made here have gates far from zero and strong prompts, so that they visibly change what the base says.
"""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zerogate import ZeroInitConfig

TEXT = "Below is an instruction that describes it. ### Instruction: Where does the fox live? ### Response: In a den."


def make_tokenizer(chat_template: str | None = None) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens that opens with BOS."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=chat_template
    )


def make_base(
    folder: Path, *, hidden: int = 32, layers: int = 4, context: int = 256, chat_template: str | None = None
) -> Path:
    """Save a random grouped-query LLaMA with its tokenizer; returns the folder."""
    tokenizer = make_tokenizer(chat_template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, seed: int = 1, config: PeftConfig | None = None) -> Path:
    """Save a zero-init adapter (or another) of `base`, every trained number random; returns the folder."""
    config = config or ZeroInitConfig(prompt_length=4, num_layers=3, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=2.0)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def lora() -> LoraConfig:
    """A LoRA on two projections."""
    return LoraConfig(r=2, target_modules=["q_proj", "o_proj"], task_type="CAUSAL_LM")
