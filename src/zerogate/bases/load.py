"""Open a frozen base, alone or with adapters, and say clearly what is wrong when that fails.

    from zerogate.bases import load_adapted, load_base
    model, tokenizer = load_base("pocket")
    model, tokenizer = load_adapted("pocket", {"tuned": "runs/demo/best"})

A base is named by a folder, a Hub id, or `pocket` (the one inside this package). Only safetensors weights are read
unless the caller allows pickles, and then only through `torch.load(weights_only=True)`. The other half is in
`adapted.py`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from zerogate.bases.fp8 import to_fp8
from zerogate.bases.quantize import Quantization, keep_gradients, quantization_config
from zerogate.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
EMBEDDED = {"pocket": "bases/pocket", "pocket-eye": "vision/pocket_eye"}
"""Models inside this package, and where: a language model, and a CLIP."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def base_path(name: str) -> Path:
    """The folder of an embedded base inside the installed package.

    Args:
        name: `pocket` or `pocket-eye`.

    Raises:
        UserError: there is no embedded base of that name, or this installation does not carry its weights.
    """
    if name not in EMBEDDED:
        raise UserError(f"there is no embedded base {name!r}; the embedded bases are: {', '.join(EMBEDDED)}")
    folder = Path(str(resources.files("zerogate"))) / EMBEDDED[name]
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"the embedded base {name!r} has no weights in {folder}; this installation is incomplete: install the "
            "wheel again, or make the base with the scripts in that folder"
        )
    return folder


def load_base(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    quantization: Quantization | None = None,
    attn_implementation: str | None = None,
    allow_pickle: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer, frozen and in eval mode.

    Args:
        name: a folder, a Hub id, or `pocket`.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` (also None): the one its weights were saved in.
        device: a torch device such as `cpu` or `cuda:0`, or `auto` to spread over all; None: the first GPU, else the
            CPU.
        quantization: `nf4` (4-bit), `int8`, `torchao-int8`, `torchao-fp8`, `fp8` (`quantize.py`).
        attn_implementation: `sdpa`, `eager`, `flex_attention`, `flash_attention_2`; None leaves it to transformers.
        allow_pickle: also read pickled weights (`pytorch_model.bin`), with `weights_only=True`.

    Raises:
        UserError: the base cannot be found, read or used as a causal language model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    dtype = dtype or "auto"
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; choose one of: {', '.join(DTYPES)}")
    source = find_base(name)
    if source.folder is not None and not allow_pickle:
        _refuse_pickles(source.folder)
    config = read_config(name)
    tokenizer = load_tokenizer(name)
    options: dict[str, Any] = {
        "config": config,
        "dtype": dtype if dtype == "auto" else getattr(torch, dtype),
        "device_map": _device_map(device),
        "attn_implementation": attn_implementation,
        "use_safetensors": None if allow_pickle else True,
        "output_loading_info": True,
    }
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization, dtype)
    # transformers reports missing tensors as a table of warnings; the check below makes one message of them instead.
    # Its bar stays for what comes from the Hub, where it is the download's.
    loading_log = logging.getLogger("transformers.modeling_utils")
    loading_log.disabled = True
    if source.folder is not None:
        transformers_logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(source.id, **options)
    except UnpicklingError as error:
        # Its own message ends in advice to switch the protection off.
        raise UserError(
            f"cannot load the base {name!r}: its pickled weights hold more than tensors, which could run code; they "
            "were not opened"
        ) from error
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        raise UserError(f"cannot load the base {name!r}: {_first_lines(error)}") from error
    finally:
        loading_log.disabled = False
        if source.folder is not None:
            transformers_logging.enable_progress_bar()
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"the weights of {name!r} lack {len(missing)} tensors that a {type(model).__name__} needs "
            f"({_some(missing)}); they would be random. Is this a causal language model, with its head? An encoder or "
            "a bare backbone cannot generate."
        )
    model.requires_grad_(False)
    if quantization == "fp8":
        to_fp8(model, keep=model.get_output_embeddings())
    if quantization == "nf4":
        keep_gradients(model)
    model.eval()
    return model, tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with a pad token (the end token where it has none of its own).

    Raises:
        UserError: the base has no tokenizer files, or they cannot be read.
    """
    from transformers import AutoTokenizer

    source = find_base(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.id)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot load the tokenizer of {name!r}: {_first_lines(error)}. The folder needs tokenizer.json (or the "
            "files its family uses) beside config.json"
        ) from error
    if tokenizer.vocab_size == 0:
        raise UserError(f"the tokenizer of {name!r} is empty: the folder has no tokenizer.json beside its config.json")
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {name!r} has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_config(name: str) -> PretrainedConfig:
    """The base's configuration, checked to be one of a causal language model; reads no weights.

    Raises:
        UserError: no such base, no readable `config.json`, or an architecture that cannot generate text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    source = find_base(name)
    try:
        config = AutoConfig.from_pretrained(source.id)
    except (OSError, ValueError, KeyError) as error:
        if source.folder is not None:
            raise UserError(f"cannot read {source.folder / 'config.json'}: {_first_lines(error)}") from error
        raise UserError(
            f"cannot load the base {name!r}. Tried: the folder {Path(name).absolute()} (does not exist), the local Hub "
            f"cache, and the Hub itself ({_first_lines(error)}). Without a network, give a folder: elsewhere, run "
            f"`hf download {name} --local-dir DIR`, and copy DIR here; or use the embedded base `pocket`"
        ) from error
    architectures = config.architectures or []
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        made_of = f" ({', '.join(architectures)})" if architectures else ""
        raise UserError(
            f"the base {name!r} is a {config.model_type}{made_of}, which is not a causal language model: transformers "
            "has no text-generating head for it"
        )
    return config


@dataclass(frozen=True)
class BaseSource:
    """Where a base comes from: `id` is what transformers is given; `folder` is None when that is a Hub id."""

    id: str
    folder: Path | None


def find_base(name: str) -> BaseSource:
    """Tell a folder, a Hub id and an embedded base apart; the network is not asked.

    Raises:
        UserError: the name is neither, or the folder is not a model's.
    """
    path = Path(name).expanduser()
    if name in EMBEDDED and not path.is_dir():
        folder = base_path(name)
        return BaseSource(str(folder), folder)
    if path.is_dir():
        if not (path / "config.json").is_file():
            if (path / "adapter_config.json").is_file():
                raise UserError(f"{path} is an adapter, not a base: give it as the adapter, and its base as the base")
            raise UserError(f"{path} has no config.json: a base is a folder that a transformers model was saved in")
        return BaseSource(str(path), path)
    if path.is_file():
        raise UserError(
            f"{path} is a file: a base is a folder with config.json and model.safetensors, a Hub id, or `pocket`"
        )
    if not _HUB_ID.fullmatch(name):
        raise UserError(
            f"the base folder {path} does not exist (and {name!r} is not a Hub id such as org/model, nor `pocket`)"
        )
    return BaseSource(name, None)


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if not pickles:
        raise UserError(f"{folder} has no weights: expected model.safetensors beside config.json")
    raise UserError(
        f"{folder} holds its weights as pickles only ({_some(pickles)}), and a pickle can run code when it is opened. "
        "If you trust its source, allow it (--allow-pickle; it is still read with weights_only), or convert it once: "
        "load it with transformers and call model.save_pretrained(DIR), which writes safetensors"
    )


def _device_map(device: str | None) -> str | dict[str, str] | None:
    if device == "auto":
        return "auto"
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"unknown device {device!r}; examples: cpu, cuda, cuda:1, auto") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device!r} was asked for, but torch sees no CUDA device here; use cpu")
    # Without a map the weights simply stay on the CPU; with one transformers brings accelerate's placement into play.
    return None if kind == "cpu" else {"": device}


def _first_lines(error: BaseException) -> str:
    """A library's message without its stack, on one line and not too long."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def _some(names: list[str], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
