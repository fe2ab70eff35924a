"""What the configs of all methods share: the name in PEFT, what is trained beside it, and how an adapter is stored."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner


class PeftName(StrEnum):
    """Strings, which PEFT's tables take, with the `.value` that PEFT and transformers ask of PEFT's closed enum."""

    AFFINE = "AFFINE"
    BITFIT = "BITFIT"
    BOTTLENECK = "BOTTLENECK"
    CONTEXT = "CONTEXT"
    GATED_PREFIX = "GATED_PREFIX"
    SIDE = "SIDE"
    VPT = "VPT"
    ZERO_INIT = "ZERO_INIT"


def told(text: str) -> dict[str, str]:
    """A field's metadata, as PEFT has it: what a user is told of it."""
    return {"help": text}


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Check a setting of a few choices.

    Raises:
        ValueError: it is none of them; the message names the nearest.
    """
    known = list(allowed)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, known))}.{hint}")


@dataclass
class MethodConfig(PeftConfig):
    """The settings of one of our methods.

    Attributes:
        peft_name: what PEFT knows the method by.

    Raises:
        ValueError: save_dtype is neither float32 nor bfloat16.
    """

    peft_name: ClassVar[PeftName]
    modules_to_save: list[str] | None = field(
        default=None,
        metadata=told("Further modules to train whole and save with the adapter, such as norms or a head."),
    )
    save_dtype: str = field(
        default="float32", metadata=told("float32 | bfloat16: how save_pretrained stores the adapter.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type: Any = self.peft_name
        one_of("save_dtype", self.save_dtype, ("float32", "bfloat16"))


def register(config: type[MethodConfig], tuner: type[BaseTuner]) -> None:
    """Make a method known to PEFT by its config's name."""
    PEFT_TYPE_TO_CONFIG_MAPPING[config.peft_name] = config  # type: ignore[index]
    PEFT_TYPE_TO_TUNER_MAPPING[config.peft_name] = tuner  # type: ignore[index]
    PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_name] = tuner.prefix  # type: ignore[index]
