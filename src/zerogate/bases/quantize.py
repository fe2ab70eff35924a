"""Frozen bases in 4 and 8 bits: what each kind is, and what it needs. What is trained on top stays in fp32.

bitsandbytes and torchao make theirs while the weights are read. `fp8` is ours (`fp8.py`), made afterwards: what theirs
multiplies in 8-bit floats is for inference only. The quality each costs is in docs/benchmarks.md.
"""

from __future__ import annotations

import importlib.util
from copy import copy
from functools import partial
from typing import Any, Literal, cast, get_args

import torch

from zerogate.errors import UserError

Quantization = Literal["nf4", "int8", "torchao-int8", "torchao-fp8", "fp8"]
"""`nf4` and `int8` are bitsandbytes' (4 bits; 8 bits with outliers apart), those of torchao have weights alone in 8-bit
integers or floats (e4m3), one scale per output channel, multiplied in the base's dtype. `fp8` multiplies in 8 bits."""

_PACKAGES = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "torchao-int8": "torchao", "torchao-fp8": "torchao"}


def quantization_config(kind: Quantization, dtype: str) -> Any:
    """What transformers is to load the weights with; None where they are quantised afterwards.

    Args:
        kind: one of `Quantization`.
        dtype: of the products: `float32`, `bfloat16`, `float16`, or `auto` for bfloat16.

    Raises:
        UserError: no such kind, or its package is not installed.
    """
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind not in get_args(Quantization):
        raise UserError(f"unknown quantization {kind!r}; choose one of: {', '.join(get_args(Quantization))}")
    if kind == "fp8":
        return None
    if importlib.util.find_spec(_PACKAGES[kind]) is None:
        raise UserError(
            f"quantization {kind!r} needs {_PACKAGES[kind]}, which is not installed: pip install 'zerogate[quant]'"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "nf4":
        compute = torch.bfloat16 if dtype == "auto" else getattr(torch, dtype)
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
        )
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig() if kind == "torchao-int8" else Float8WeightOnlyConfig())


def keep_gradients(model: torch.nn.Module) -> None:
    """Let gradients through bitsandbytes' 4-bit weights on a CPU, also after the model has answered something.

    In eval mode bitsandbytes lays such weights out anew for a faster kernel that has no backward pass and does not
    say so: whatever is trained beside it then learns nothing. Here the first call that may need gradients puts a
    layer's weights back, to the bit, and they stay so. Calls without gradients before it keep the faster kernel.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            before = copy(cast(Any, module.weight).quant_state)
            module.register_forward_pre_hook(partial(_put_back, before=before))


def _put_back(module: Any, _: Any, before: Any) -> None:
    if not (torch.is_grad_enabled() and module.support_avx512bf16_for_cpu):
        return
    module.support_avx512bf16_for_cpu = False
    if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
        module.state_dict()  # bitsandbytes' own way back, from which only the scales come rounded
        vars(module.weight.quant_state).update(vars(before))
