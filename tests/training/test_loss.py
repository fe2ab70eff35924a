"""The loss over learned positions equals the model's own over all of them, in value and gradient, family by family."""

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from zerogate import ZeroInitConfig
from zerogate.bases import loss
from zerogate.bases.loss import learned_logits, output_head, summed_loss
from zerogate.data.encode import Encoded, EncodeReport
from zerogate.training.held_out import held_out_loss

V = 50


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    )


def gemma2() -> Gemma2ForCausalLM:
    config = Gemma2Config(
        vocab_size=V, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=8
    )
    config.num_key_value_heads = 1
    config.final_logit_softcapping = 2.0  # low, so that it matters
    return Gemma2ForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(3, V, (3, 9), generator=generator)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 6:] = 0
    labels_BT = ids_BT.clone()
    labels_BT[:, :4] = -100
    labels_BT[mask_BT == 0] = -100
    labels_BT[2] = -100  # a row that only pads the batch out
    labels_BT[0, 0] = ids_BT[0, 0]  # nothing stands before it: must not count
    return {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}


@pytest.mark.parametrize("family", [llama, gemma2, gpt2])
def test_equals_the_models_own_loss(family) -> None:
    torch.manual_seed(0)
    model = family().eval()
    inputs = batch()
    total, count = summed_loss(model, output_head(model), inputs)
    total.backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    full_BTV = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    reference = F.cross_entropy(full_BTV[:, :-1].reshape(-1, V), inputs["labels"][:, 1:].reshape(-1), reduction="sum")
    reference.backward()
    assert count == 5 + 2
    torch.testing.assert_close(total, reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(**inputs).loss * count, reference, rtol=1e-5, atol=1e-5)
    for gradient, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [llama, gemma2, gpt2])
@pytest.mark.parametrize("logits", [V, 3 * V, 6 * V])
def test_in_parts_it_is_the_same(family, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = get_peft_model(family(), ZeroInitConfig(prompt_length=3, task_type="CAUSAL_LM")).eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data.normal_()
    head, inputs = output_head(model), batch()
    whole, count = summed_loss(model, head, inputs)
    reference = torch.autograd.grad(whole, trained)
    seen: list[int] = []
    head.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    monkeypatch.setattr(loss, "_LOGITS", logits)
    for _ in range(2):  # the first time it is found out whether the model does anything after its head
        seen.clear()
        total, same = summed_loss(model, head, inputs)
        assert same == count == 7
        torch.testing.assert_close(total, whole, rtol=1e-5, atol=1e-5)
        for ours, theirs in zip(torch.autograd.grad(total, trained), reference, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    # Gemma caps its logits after the head, so they are made all at once; of the others never more than there may be.
    assert seen == [7] if family is gemma2 else max(seen) <= logits // V
    nothing = {**inputs, "labels": torch.full_like(inputs["labels"], -100)}
    total, count = summed_loss(model, head, nothing)
    assert (total.item(), count) == (0.0, 0)


def test_only_learned_positions_reach_the_head() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    logits_SV, targets_S = learned_logits(model, output_head(model), batch())
    assert logits_SV.shape == (7, V) and targets_S.shape == (7,)
    assert model(**batch()).logits.shape == (3, 9, V)  # the hook is gone afterwards


def test_virtual_tokens_are_passed_over() -> None:
    torch.manual_seed(0)
    model = get_peft_model(llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    inputs = batch()
    total, count = summed_loss(model, output_head(model), inputs)
    full_BTV = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, 5:]
    reference = F.cross_entropy(full_BTV[:, :-1].reshape(-1, V), inputs["labels"][:, 1:].reshape(-1), reduction="sum")
    torch.testing.assert_close(total, reference, rtol=1e-5, atol=1e-5)
    assert count == 7


def test_a_batch_with_nothing_learned_is_a_differentiable_zero() -> None:
    model = llama()
    inputs = batch()
    inputs["labels"].fill_(-100)
    total, count = summed_loss(model, output_head(model), inputs)
    total.backward()
    assert (total.item(), count) == (0.0, 0)


def test_held_out_loss_does_not_depend_on_batching_and_sees_the_adapter() -> None:
    torch.manual_seed(0)
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(2)
    sequences = [torch.randint(3, V, (n,), generator=generator).numpy() for n in (5, 30, 7, 12, 30)]
    labels = [ids.copy() for ids in sequences]
    for row in labels:
        row[:3] = -100
    encoded = Encoded(sequences, labels, list(range(5)), EncodeReport())

    def alone() -> float:
        sums, tokens = 0.0, 0
        for ids, row in zip(sequences, labels, strict=True):
            with torch.no_grad():
                logits_TV = model(input_ids=torch.tensor(ids)[None]).logits[0]
            targets = torch.tensor(row)[1:]
            sums += F.cross_entropy(logits_TV[:-1], targets, reduction="sum").item()
            tokens += int((targets != -100).sum())
        return sums / tokens

    model.eval()
    before = held_out_loss(model, encoded, pad_token_id=0)
    assert before.loss == pytest.approx(alone(), rel=1e-5)
    assert before.tokens == sum(len(ids) - 3 for ids in sequences)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    after = held_out_loss(model.train(), encoded, pad_token_id=0)
    assert model.training
    assert after.loss == pytest.approx(alone(), rel=1e-5)
    assert abs(after.loss - before.loss) > 1e-3
    with model.disable_adapter():
        assert held_out_loss(model, encoded, pad_token_id=0).loss == pytest.approx(before.loss, rel=1e-6)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sequences_never_see_each_other(attention: str) -> None:
    """Three side by side give the loss and the gradients of the three by themselves, prompts included."""
    torch.manual_seed(0)
    base = llama()
    base.set_attn_implementation(attention)
    model = get_peft_model(base, ZeroInitConfig(prompt_length=3)).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_()
    head = output_head(model)
    parts = [torch.randint(3, V, (1, length)) for length in (4, 7, 5)]
    alone = [summed_loss(model, head, {"input_ids": p, "attention_mask": p > 0, "labels": p})[0] for p in parts]
    wanted = torch.autograd.grad(sum(alone), trained)
    whole = torch.cat(parts, dim=1)
    labels = torch.cat([torch.where(torch.arange(p.shape[1]) == 0, -100, p) for p in parts], dim=1)
    places = torch.cat([torch.arange(p.shape[1]) for p in parts])[None]
    total, count = summed_loss(model, head, {"input_ids": whole, "labels": labels, "position_ids": places})
    assert count == 3 + 6 + 4
    torch.testing.assert_close(total, sum(alone))
    for got, own in zip(torch.autograd.grad(total, trained), wanted, strict=True):
        torch.testing.assert_close(got, own, rtol=1e-4, atol=1e-5)
