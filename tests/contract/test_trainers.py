"""The adapter under the trainers people use: TRL's SFTTrainer, transformers' Trainer, and a classification head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import BY_NAME, VOCAB
from helpers import adapter_parameters, layers
from peft import PeftModel, TaskType, get_peft_model
from torch import Tensor

from zerogate import ZeroInitConfig

TEXT = ["the fox lives in a den", "the bear eats honey", "a den is a home", "honey is sweet", "the fox eats a hen"]


def word_tokenizer() -> Any:
    """A real tokenizer over the words above, small enough for the tiny model's vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for line in TEXT for word in line.split()})
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{word: i for i, word in enumerate(words, start=3)}}
    assert len(vocabulary) <= VOCAB
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "checkpointed"])
def test_sft_trainer_takes_the_config(tmp_path: Path, checkpointed: bool) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    family = BY_NAME["llama-grouped"]
    base = family.model()
    frozen = {name: parameter.clone() for name, parameter in base.named_parameters()}
    arguments = SFTConfig(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        learning_rate=0.1, logging_steps=1, report_to=[], use_cpu=True, save_strategy="no", bf16=False,
        gradient_checkpointing=checkpointed, dataloader_num_workers=0,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=base,
        args=arguments,
        train_dataset=Dataset.from_dict({"text": TEXT * 4}),
        processing_class=word_tokenizer(),
        peft_config=ZeroInitConfig(prompt_length=3, num_layers=2, task_type="CAUSAL_LM"),
    )
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0]
    model = trainer.model
    assert isinstance(model, PeftModel)
    for name, parameter in adapter_parameters(model).items():
        assert parameter.abs().max() > 0, name  # gates have left zero
    for name, parameter in model.get_base_model().named_parameters():
        if "zero_init" not in name:
            assert torch.equal(parameter, frozen[name]), name
    trainer.save_model(str(tmp_path / "adapter"))
    back = PeftModel.from_pretrained(family.model(), tmp_path / "adapter").eval()
    ids = family.inputs()["input_ids"]
    with torch.no_grad():
        assert torch.equal(back(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


@pytest.mark.slow
def test_trainer_trains_a_classifier_with_its_head(tmp_path: Path) -> None:
    import transformers as tf

    torch.manual_seed(0)
    config = tf.BertConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    model = get_peft_model(
        tf.BertForSequenceClassification(config),
        ZeroInitConfig(prompt_length=3, num_layers=1, task_type=TaskType.SEQ_CLS, modules_to_save=["classifier"]),
    )
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("classifier" in name for name in trainable) and any("zero_init" in name for name in trainable)
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"input_ids": torch.randint(3, VOCAB, (6,), generator=generator), "labels": torch.tensor(i % 3)}
        for i in range(12)
    ]
    head: Tensor = next(p for n, p in model.named_parameters() if n in trainable and "classifier" in n).clone()
    arguments = tf.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=0.05, report_to=[],
        use_cpu=True, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    tf.Trainer(model=model, args=arguments, train_dataset=rows).train()
    assert not torch.equal(head, next(p for n, p in model.named_parameters() if n in trainable and "classifier" in n))
    assert all(layer.gate["default"].abs().max() > 0 for _, layer in layers(model))
    model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(0)
    back = PeftModel.from_pretrained(tf.BertForSequenceClassification(config), tmp_path / "adapter").eval()
    ids = torch.stack([row["input_ids"] for row in rows])
    with torch.no_grad():
        assert torch.equal(back(input_ids=ids).logits, model.eval()(input_ids=ids).logits)
