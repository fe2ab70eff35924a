"""Joint training: batches of one kind, and each kind's own parameters."""

from __future__ import annotations

import random

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from zerogate import ZeroInitConfig
from zerogate.errors import UserError
from zerogate.training.joint import Apart, order_apart


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("count", [(17, 9), (3, 40), (12, 8), (2, 1), (7, 7), (1, 3)])
def test_every_batch_is_of_one_kind(count: tuple[int, int], grouped: bool) -> None:
    shows = [True] * count[0] + [False] * count[1]
    random.Random(3).shuffle(shows)
    lengths = [random.Random(n).randrange(5, 50) for n in range(len(shows))]
    orders = [order_apart(lengths, shows, 4, 0, epoch, grouped) for epoch in range(3)]
    for order in orders:
        batches = [order[at : at + 4] for at in range(0, len(order), 4)]
        assert all(len({shows[index] for index in batch}) == 1 for batch in batches)
        assert len(batches) == -(-len(shows) // 4), "as many batches as the plan counts"
        assert all(len(batch) == 4 for batch in batches[:-1])
        missing = set(range(len(shows))) - set(order)
        assert len(missing) < 4 and len(order) - len(set(order)) < 4
    assert orders[0] == order_apart(lengths, shows, 4, 0, 0, grouped)
    assert len(shows) < 8 or orders[0] != orders[1]


def model(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2
    )
    images = {"image_layers": [1], "image_channels": 6, "image_hidden": 4, "image_encoder": "none"}
    adapter = ZeroInitConfig(task_type="CAUSAL_LM", prompt_length=2, num_layers=2, **{**images, **settings})  # type: ignore[arg-type]
    return get_peft_model(LlamaForCausalLM(config), adapter)


@pytest.mark.parametrize(("early", "gates"), [(None, 0), (1, 1)])
def test_a_batch_trains_its_own_part(early: int | None, gates: int) -> None:
    adapted = model(image_early=early)
    apart = Apart(adapted)
    names = {parameter: name for name, parameter in adapted.named_parameters()}
    seeing = [names[parameter] for parameter in apart.seeing]
    assert sum("gate" in name for name in seeing) == gates and sum("projector" in name for name in seeing) == 4
    assert {names[p].split(".")[-2] for p in apart.other} == {"prompt", "gate"}
    for parameter in [*apart.seeing, *apart.other]:
        parameter.data += 0.3
    text = {"input_ids": torch.tensor([[3, 4, 5]]), "labels": torch.tensor([[3, 4, 5]])}
    pictured = text | {"image_features": torch.randn(1, 1, 6)}

    def backward(batch: dict[str, torch.Tensor]) -> None:
        with apart.learning(images="image_features" in batch):
            adapted(**batch).loss.backward()

    backward(pictured)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in apart.seeing)
    assert all(p.grad is None for p in apart.other)
    kept = [p.grad.clone() for p in apart.seeing if p.grad is not None]
    backward(text)  # a second batch of the same step, of the other kind
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in apart.other)
    assert all(p.grad is not None and torch.equal(p.grad, old) for p, old in zip(apart.seeing, kept, strict=True))


def test_without_images_there_is_nothing_to_keep_apart() -> None:
    blind = {"image_layers": None, "image_channels": None, "image_encoder": None}
    with pytest.raises(UserError, match="needs an adapter that takes images"):
        Apart(model(**blind))
