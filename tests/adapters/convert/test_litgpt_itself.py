"""Our LitGPT export, loaded and run by LitGPT. Skipped where that is not installed (it pins older libraries).

To run it, put LitGPT beside the environment and name that folder in PYTHONPATH:

    pip install --no-deps --target litgpt-0.5.4 litgpt==0.5.4 lightning lightning-utilities torchmetrics jsonargparse
    PYTHONPATH=litgpt-0.5.4 pytest tests/adapters/convert/test_litgpt_itself.py
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from tiny_adapters import base_of, logits, ours, random_adapter, some_tokens, tiny_llama

from zerogate.adapters.convert import read_litgpt, write_litgpt

lit = pytest.importorskip("litgpt.adapter", exc_type=ImportError)


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_runs_in_litgpt(groups: int, tmp_path: Path) -> None:
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama

    model = tiny_llama(num_key_value_heads=groups)
    base = base_of(model)
    write_litgpt(random_adapter([2, 3, 4], activation="tanh", scale=3.0), tmp_path / "lit_model.pth.adapter", base)
    c = model.config
    config = lit.Config(
        name="tiny",
        block_size=64,
        vocab_size=c.vocab_size,
        padded_vocab_size=c.vocab_size,
        n_layer=c.num_hidden_layers,
        n_head=c.num_attention_heads,
        n_embd=c.hidden_size,
        n_query_groups=groups,
        head_size=c.head_dim,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        norm_eps=c.rms_norm_eps,
        mlp_class_name="LLaMAMLP",
        intermediate_size=c.intermediate_size,
        adapter_prompt_length=3,
        adapter_start_layer=2,
    )
    theirs = lit.GPT(config).eval()
    weights: dict[str, torch.Tensor] = {}
    copy_weights_hf_llama(config, {}, weights, dict(model.state_dict()))
    weights |= torch.load(tmp_path / "lit_model.pth.adapter", weights_only=True)["model"]
    theirs.load_state_dict(weights)  # strictly: each name and shape is LitGPT's own
    with torch.no_grad():
        expected = theirs(some_tokens())
    found = logits(ours(model, read_litgpt(tmp_path, base)), some_tokens())
    difference = (found - expected).abs().max()
    if groups == 1 or tuple(map(int, version("litgpt").split("."))) < (0, 5, 5):
        assert difference < 1e-5
    else:
        assert difference > 0.1  # its wrong rows: when this fails, LitGPT has mended it and our note can go
