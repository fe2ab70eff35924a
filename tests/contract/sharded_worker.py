"""One of the processes of `test_sharded.py`: trains an adapter whole and on a sharded model, and compares."""

import copy
from typing import Any

import torch
import torch.distributed as dist
from families import BY_NAME
from peft import PeftModel, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from zerogate import ZeroInitConfig


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def train(model: PeftModel, ids_BT: torch.Tensor, steps: int) -> list[dict[str, Any]]:
    """Losses and gradients of some steps."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    told = []
    for _ in range(steps):
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        gradients = {n: whole(p.grad).clone() for n, p in model.named_parameters() if p.grad is not None}
        told.append({"loss": loss.detach(), **gradients})
        optimizer.step()
        optimizer.zero_grad()
    return told


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    family = BY_NAME["llama"]
    model = get_peft_model(family.model(), ZeroInitConfig(prompt_length=4, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    ids_BT = torch.randint(3, model.config.vocab_size, (2, 8))
    alone = train(copy.deepcopy(model), ids_BT, steps=3)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    held = sum(p.to_local().numel() for p in model.parameters())
    assert held < 0.6 * sum(p.numel() for p in model.parameters()), "each process holds about half"
    sharded = train(model, ids_BT, steps=3)
    for step, (one, other) in enumerate(zip(alone, sharded, strict=True)):
        assert one.keys() == other.keys() and len(one) > 4
        for name, value in one.items():
            torch.testing.assert_close(
                other[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, at=(step, name): f"{at}: {m}"
            )
            assert value.abs().max() > 0, name
    if dist.get_rank() == 0:
        print("sharded equals whole")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
