"""Adapters of other codebases, both ways: one reader and one writer per format, and `PromptAdapter` between them.

    adapter = read_official("adapter.pth", gate_activation="tanh")
    write_zerogate(adapter, "my-adapter")
    config, state = to_zero_init(adapter)        # or without files

`detect_format` tells what a path is. The command line is `zerogate convert`; docs/convert.md has the rules.
"""

from pathlib import Path

from ..zero_init.config import ZeroInitConfig
from .files import check_free, read_pickle
from .folder import read_config, read_zerogate, to_zero_init, write_zerogate
from .litgpt import FILE, is_litgpt, read_litgpt, write_litgpt
from .official import is_official, read_official, write_official
from .peft import PEFT_TYPE, read_peft, write_peft
from .prompts import Base, PromptAdapter

FORMATS = ("official", "peft", "litgpt", "zerogate")

__all__ = [
    "FORMATS",
    "Base",
    "PromptAdapter",
    "check_free",
    "detect_format",
    "read_litgpt",
    "read_official",
    "read_peft",
    "read_zerogate",
    "to_zero_init",
    "write_litgpt",
    "write_official",
    "write_peft",
    "write_zerogate",
]


def detect_format(path: str | Path) -> str:
    """Which of `FORMATS` the adapter at `path` has, by its content.

    Raises:
        ValueError: It does not exist, is none of them, or is a pickle that cannot be read safely.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path} does not exist.")
    if path.is_dir():
        if (path / FILE).is_file() and not (path / "adapter_config.json").is_file():
            return "litgpt"
        kind = read_config(path)["peft_type"]
        if kind not in (PEFT_TYPE, ZeroInitConfig.peft_name):
            raise ValueError(
                f"{path} holds a PEFT adapter of type {kind}, which has no adaption prompts and cannot become one."
            )
        return "peft" if kind == PEFT_TYPE else "zerogate"
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is one file of an adapter folder: give the folder.")
    content = read_pickle(path)
    if is_litgpt(content):
        return "litgpt"
    if is_official(content):
        return "official"
    raise ValueError(
        f"{path} is no adapter that zerogate knows: neither an official checkpoint (adapter_query.weight) nor a "
        "LitGPT adapter (model: transformer.h.N.attn.adapter_wte.weight)."
    )
