"""Put saved adapters on a frozen base, after comparing names and shapes, so that an adapter of another base says so.

    model, tokenizer = load_adapted("pocket", {"fox": "runs/fox/best", "sums": "runs/sums/best"})
    model.set_adapter("sums")

Every adapter is a PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerogate.bases.load import EMBEDDED, load_base
from zerogate.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_NAME = re.compile(r"[A-Za-z][\w-]*")
# In the card's metadata, which lies between two lines of dashes at its beginning.
_TEMPLATE = re.compile(r"\A---\n(?:(?!---).*\n)*?zerogate_template: (alpaca|chat|plain)\n")
Shapes = dict[str, tuple[int, ...]]


def load_adapted(
    base: str, adapters: Mapping[str, str | Path], **options: Any
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a base and put one or more adapters on it; the first one is active.

    Args:
        base: as for `load_base`.
        adapters: name -> folder.
        **options: as for `load_base`.

    Raises:
        UserError: a folder is not an adapter, or was made for another base (the differing tensors are named).
    """
    if not adapters:
        raise UserError("load_adapted needs at least one adapter; use load_base for the base alone")
    files = {name: read_adapter(folder) for name, folder in adapters.items()}
    model, tokenizer = load_base(base, **options)
    return attach(model, files, base), tokenizer


@dataclass(frozen=True)
class AdapterFiles:
    """One adapter folder, read but not attached."""

    folder: Path
    config: dict[str, Any]
    weights: Path
    shapes: Shapes

    @property
    def method(self) -> str:
        """PEFT's name of the method, such as `ZERO_INIT` or `LORA`."""
        return str(self.config["peft_type"])

    @property
    def base(self) -> str | None:
        """The base the adapter was made for, as recorded: a Hub id, a folder, or `pocket`."""
        name = self.config.get("base_model_name_or_path")
        return None if not name else portable_name(str(name))

    @property
    def template(self) -> str | None:
        """How its training records were worded, as its card records; None for an adapter of another make."""
        return recorded_template(self.folder)


def read_adapter(folder: str | Path) -> AdapterFiles:
    """Check an adapter folder and read its configuration and the names and shapes of its tensors.

    A run folder stands for the best adapter in it, or the last where none was measured.

    Raises:
        UserError: a file is missing or unreadable, or the weights are a pickle.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(f"the adapter folder {folder} does not exist")
    folder = adapter_folder(folder) or folder
    config_file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not config_file.is_file():
        raise UserError(_not_an_adapter(folder))
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{config_file} is not valid JSON: {error}") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise UserError(f"{config_file} has no peft_type, so it is not the configuration of a PEFT adapter")
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise UserError(
                f"{folder} holds its weights as a pickle (adapter_model.bin), which can run code when it is opened. "
                "Load "
                "it with PEFT where you trust it and save it again with safe_serialization=True"
            )
        raise UserError(
            f"the adapter {folder} has no adapter_model.safetensors; was its training stopped before a save?"
        )
    return AdapterFiles(folder, config, weights, tensor_shapes(weights))


def adapter_folder(folder: Path) -> Path | None:
    """The folder itself if it is an adapter's, else the best or last adapter of a run; None if there is neither."""
    places = (folder, folder / "best", folder / "last")
    return next((place for place in places if (place / "adapter_config.json").is_file()), None)


def recorded_template(folder: Path) -> str | None:
    """The template in the metadata of a saved adapter's or model's card, if there is one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    found = _TEMPLATE.search(card.read_text(encoding="utf-8", errors="replace"))
    return found[1] if found else None


def tensor_shapes(file: Path) -> Shapes:
    """Names and shapes in a safetensors file, from its header alone.

    Raises:
        UserError: the file is not safetensors, or is cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{file} is not a whole safetensors file: {error}") from error


def recorded_base(folder: str | Path) -> str:
    """The base that an adapter folder says it was made for.

    Raises:
        UserError: not an adapter folder, or none is recorded.
    """
    base = read_adapter(folder).base
    if base is None:
        raise UserError(f"{folder} does not record which base it was made for; name the base yourself")
    return base


def portable_name(base: str) -> str:
    """A base's name without this machine's paths where it can be: an embedded base's folder becomes its short name."""
    parts = Path(base).parts[-3:]
    return next((name for name, place in EMBEDDED.items() if parts == ("zerogate", *place.split("/"))), base)


def attach(model: PreTrainedModel, files: Mapping[str, AdapterFiles], base: str) -> PeftModel:
    """Put adapters that were read on a loaded base, in eval mode; the first is active.

    Raises:
        UserError: an adapter does not fit the base.
    """
    from peft import PeftModel, get_peft_model

    adapted: PeftModel | None = None
    held = [module for module, _ in model.named_modules()]
    held += [tensor.rpartition(".")[0] for adapter in files.values() for tensor in adapter.shapes]
    taken = {part for module in held for part in module.split(".")}
    for name, adapter in files.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"{name!r} cannot name an adapter: use letters, digits, _ and -, with a letter first")
        if name in taken or name == adapter.method.lower():
            # PEFT finds an adapter's tensors by its name between dots, and would take the base's for them.
            raise UserError(
                f"{name!r} cannot name an adapter here, as the model has a module of that name; choose another"
            )
        config = _peft_config(adapter)
        if config.is_prompt_learning:
            fit_prompts(config, model)
        with warnings.catch_warnings():
            # PEFT warns that it overwrites the recorded base name, and about names that only look dangerous; the checks
            # above and the comparison below are the real ones.
            warnings.filterwarnings("ignore", message="The PEFT config's `base_model_name_or_path`")
            warnings.filterwarnings("ignore", message="Adapter name .* should not be contained in the prefix")
            try:
                if adapted is None:
                    adapted = get_peft_model(model, config, adapter_name=name)
                    assert isinstance(adapted, PeftModel)
                else:
                    adapted.add_adapter(name, config)
            except (ValueError, TypeError, KeyError, IndexError) as error:
                raise UserError(_does_not_fit(adapter, base, str(error))) from error
        _load_weights(adapted, name, adapter, base)
    assert adapted is not None
    adapted.set_adapter(next(iter(files)))
    adapted.requires_grad_(False)
    adapted.eval()
    return adapted


def _peft_config(adapter: AdapterFiles) -> Any:
    from peft import PeftConfig

    import zerogate.adapters  # noqa: F401  registers this package's methods with PEFT

    try:
        config = PeftConfig.from_pretrained(str(adapter.folder))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{adapter.folder / 'adapter_config.json'} cannot be used by this PEFT (peft_type {adapter.method!r}): "
            f"{error}"
        ) from error
    config.inference_mode = True
    return config


def fit_prompts(config: Any, model: PreTrainedModel) -> None:
    """Fill in what PEFT asks of a prompt or prefix's config and knows of some families only.

    Prompts are as wide as the embeddings they stand beside, which in some families (ELECTRA, ALBERT) are narrower than
    the layers.

    Args:
        config: of one of PEFT's prompt learning methods; changed.
        model: the base.
    """
    if config.peft_type not in ("PREFIX_TUNING", "CARTRIDGE"):  # these lie in the layers
        embeddings: Any = model.get_input_embeddings()
        config.token_dim = embeddings.weight.shape[1]
    text = model.config.get_text_config()
    for setting, name in (("token_dim", "hidden_size"), ("num_attention_heads", "num_attention_heads")):
        # PEFT reads what is written; by attribute, a family may write it under another name (DistilBERT's `dim`).
        value = getattr(text, name, None)
        if getattr(config, setting) is None and isinstance(value, int):
            setattr(config, setting, value)


def _load_weights(model: PeftModel, name: str, adapter: AdapterFiles, base: str) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    expected = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    expected_shapes = {key: tuple(value.shape) for key, value in expected.items()}
    differences = differing(expected_shapes, adapter.shapes)
    if differences:
        raise UserError(_does_not_fit(adapter, base, "; ".join(differences)))
    set_peft_model_state_dict(model, load_file(adapter.weights), adapter_name=name)


def differing(expected: Shapes, found: Shapes, limit: int = 3) -> list[str]:
    """What differs between the tensors a model expects and those a file has, in words; empty when nothing does."""
    wrong = [
        f"{key} is {list(found[key])} in the adapter, {list(shape)} in this base"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    missing = [f"{key} {list(shape)} is not in the adapter" for key, shape in expected.items() if key not in found]
    # A saved embedding is PEFT's copy of the base's own, kept when its vocabulary was resized: no sign of another base.
    extra = [
        f"{key} {list(shape)} has no place in this base"
        for key, shape in found.items()
        if key not in expected and not key.endswith(("embed_tokens.weight", "lm_head.weight"))
    ]
    lines = []
    for kind in (wrong, missing, extra):
        lines += kind[:limit] + ([f"and {len(kind) - limit} more of this kind"] if len(kind) > limit else [])
    return lines


def _does_not_fit(adapter: AdapterFiles, base: str, reason: str) -> str:
    made_for = f"it was made for {adapter.base!r}" if adapter.base else "it does not record which base it was made for"
    return f"the adapter {adapter.folder} ({adapter.method}) does not fit the base {base!r}: {reason}. Note: {made_for}"


def _not_an_adapter(folder: Path) -> str:
    candidates = sorted(file.parent for file in folder.glob("*/adapter_config.json"))
    if candidates:
        return f"{folder} is not an adapter folder, but these in it are: {', '.join(str(path) for path in candidates)}"
    if (folder / "config.json").is_file():
        return f"{folder} is a base model, not an adapter: give it as the base"
    return f"{folder} has no adapter_config.json, so it is not an adapter folder"


def base_for(adapters: Mapping[str, str | Path], base: str | None) -> str:
    """The base to load: the one named, else the one that the adapters record, else `pocket`.

    Raises:
        UserError: the adapters record different bases, or one that is not on this machine.
    """
    if base is not None:
        return base
    recorded = {recorded_base(folder) for folder in adapters.values()}
    if len(recorded) > 1:
        raise UserError(f"these adapters were made for different bases: {', '.join(sorted(recorded))}; load them apart")
    return recorded.pop() if recorded else "pocket"
