"""`BitFitConfig`: which biases are trained, as data."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import MethodConfig, PeftName, told


@dataclass
class BitFitConfig(MethodConfig):
    """Trains the biases of the base and nothing else (arXiv 2106.10199).

    Raises:
        ValueError: save_dtype is neither float32 nor bfloat16.
    """

    peft_name = PeftName.BITFIT

    target_modules: list[str] | str | None = field(
        default=None,
        metadata=told("Only the biases of these modules, as PEFT understands names. Default: all biases."),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=told("Names to leave out, as in PEFT."))

    def __post_init__(self) -> None:
        super().__post_init__()
