"""Bases in 8 and 4 bits: what they answer stays close, and what is trained on them learns."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from peft import get_peft_model

from zerogate import ZeroInitConfig
from zerogate.bases import load_base
from zerogate.errors import UserError

TEXT = "The fox lives in the old mill by the river."


def _taught(base: Any, batch: Any) -> Any:
    """The base with an adapter that learned six steps of `batch`, and learned."""
    model = get_peft_model(base, ZeroInitConfig(prompt_length=4, num_layers=2, task_type="CAUSAL_LM")).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(6):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    return model


@pytest.mark.parametrize("kind", ["torchao-int8", "torchao-fp8"])
def test_eight_bits_by_torchao(kind: str) -> None:
    pytest.importorskip("torchao")
    plain, tokenizer = load_base("pocket", dtype="bfloat16", attn_implementation="eager")
    base, _ = load_base("pocket", dtype="bfloat16", attn_implementation="eager", quantization=kind)  # type: ignore[arg-type]
    weight = base.get_submodule("model.layers.0.self_attn.q_proj").weight
    assert type(weight).__module__.startswith("torchao") and not weight.requires_grad
    batch = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        wanted, got = (model(**batch).logits.float().log_softmax(-1) for model in (plain, base))
    assert not torch.equal(got, wanted)
    assert torch.nn.functional.kl_div(got, wanted, log_target=True, reduction="batchmean") / got.shape[1] < 0.02

    model = _taught(base, batch)
    made = model.eval().generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert made.shape[1] == batch["input_ids"].shape[1] + 4


def test_four_bits_by_bitsandbytes_learn_after_an_answer() -> None:
    """On a CPU that knows bf16, answering lays the weights out in a form that lets no gradient through."""
    pytest.importorskip("bitsandbytes")
    base, tokenizer = load_base("pocket", dtype="bfloat16", attn_implementation="eager", quantization="nf4")
    batch = tokenizer(TEXT, return_tensors="pt")
    untouched = load_base("pocket", dtype="bfloat16", attn_implementation="eager", quantization="nf4")[0]
    with torch.no_grad():
        base(**batch)

    given_VD = base.get_input_embeddings()(batch["input_ids"]).detach()
    gradients, logits = [], []
    for model in (base, untouched):
        embeddings = given_VD.clone().requires_grad_()
        out = model(inputs_embeds=embeddings, labels=batch["input_ids"])
        out.loss.backward()
        gradients.append(embeddings.grad)
        logits.append(out.logits)
    assert torch.equal(*logits) and torch.equal(*gradients)

    _taught(base, batch)


def test_kinds_and_packages_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="unknown quantization 'int3'; choose one of: nf4, int8, torchao-int8, torchao-fp8, fp8"
    ):
        load_base("pocket", quantization="int3")  # type: ignore[arg-type]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "torchao" else find(name, *more)
    )
    with pytest.raises(UserError, match="needs torchao, which is not installed"):
        load_base("pocket", quantization="torchao-fp8")
