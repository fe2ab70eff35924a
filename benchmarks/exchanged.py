"""What the processes of a run tell each other at every step: bytes of gradients, beside the bytes that are trained.

    torchrun --nproc-per-node 2 benchmarks/exchanged.py            # any number of processes; gloo without a GPU

The model is the embedded base with a zero-init adapter under DDP, as the trainer wraps it. Every bucket of gradients
passes a hook that counts it before it is averaged as usual; all other collective calls of a step would show up in the
profile that is printed below.
"""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from peft import get_peft_model
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from zerogate import ZeroInitConfig
from zerogate.bases import load_base
from zerogate.bases.loss import output_head, summed_loss

STEPS = 3


def main() -> None:
    """Run some steps and print the count."""
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda", dist.get_rank()) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(0)
    base, _ = load_base("pocket", device=str(device))
    model = get_peft_model(base, ZeroInitConfig(prompt_length=10, task_type="CAUSAL_LM"))
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    sent: list[int] = []

    def counted(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent.append(bucket.buffer().numel() * bucket.buffer().element_size())
        return default_hooks.allreduce_hook(state, bucket)

    wrapped.register_comm_hook(dist.group.WORLD, counted)
    head = output_head(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids_BT = torch.randint(3, 4096, (4, 64), device=device)
    batch = {"input_ids": ids_BT, "attention_mask": torch.ones_like(ids_BT), "labels": ids_BT}

    def step() -> None:
        loss, count = summed_loss(wrapped, head, batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):  # DDP sorts its buckets anew after the first step, and tells the others
        step()
    sent.clear()
    with torch.profiler.profile() as profile:
        for _ in range(STEPS):
            step()
    if dist.get_rank() == 0:
        calls = Counter(e.name for e in profile.events() if e.name.startswith(("gloo:", "nccl:", "c10d::")))
        print(f"{dist.get_world_size()} processes; trained: {trained:,} bytes")
        print(f"exchanged per step: {sum(sent) // STEPS:,} bytes of gradients in {len(sent) // STEPS} bucket(s)")
        print(f"collective calls in {STEPS} steps: {dict(calls)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
