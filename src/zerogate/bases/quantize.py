"""Frozen bases in 4 and 8 bits: what each kind is, and what it needs. What is trained on top stays in fp32.

bitsandbytes and torchao make theirs while the weights are read. `fp8` is ours (`fp8.py`), made afterwards: what theirs
multiplies in 8-bit floats is for inference only. The quality each costs is in docs/benchmarks.md.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal, get_args

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
