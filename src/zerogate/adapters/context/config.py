"""`ContextConfig`: the words before a class's name, learned, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..config import MethodConfig, PeftName, told


@dataclass
class ContextConfig(MethodConfig):
    """Learned vectors in the place of the words before a class's name, in a model of pictures and texts (CLIP).

    As it stands this is CoOp (arXiv 2109.01134); `conditional` makes it CoCoOp (arXiv 2203.05557), `coupled` with a
    `depth` MaPLe (arXiv 2210.03117).

    Raises:
        ValueError: depth less than 1, conditional and coupled at once, or save_dtype neither float32 nor bfloat16.
    """

    peft_name = PeftName.CONTEXT
    # PEFT asks every tuner's config for these; where this method goes is no choice.
    target_modules: ClassVar[None] = None
    exclude_modules: ClassVar[None] = None

    context: str = field(
        default="a photo of a",
        metadata=told("The words that open every class's text; what is learned starts there."),
    )
    context_ids: list[int] | None = field(default=None, metadata=told("Their tokens. Default: by the tokenizer."))
    context_start: int | None = field(
        default=None, metadata=told("How many tokens stand before them in a text. Default: by the tokenizer.")
    )
    depth: int = field(default=1, metadata=told("In how many of the text encoder's layers they are learned anew."))
    coupled: bool = field(
        default=False,
        metadata=told("Project each layer's context by a learned linear map to prompts of the picture's encoder."),
    )
    conditional: bool = field(
        default=False, metadata=told("Add to the context what a small network makes of the picture.")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1:
            raise ValueError(f"depth must be at least 1, not {self.depth}.")
        if self.conditional and (self.coupled or self.depth > 1):
            raise ValueError("conditional is for context in the first layer alone: leave coupled out, and depth at 1.")
