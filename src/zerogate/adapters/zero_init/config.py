"""`ZeroInitConfig`: what a zero-init adapter is, as data. Code that branches on it is in `layer.py` and `model.py`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..config import MethodConfig, PeftName, one_of, told

_CHOICES = {
    "gate_activation": ("tanh", "identity"),
    "gate_per": ("head", "layer"),
    "attention": ("zero_init", "vanilla"),
}


@dataclass
class ZeroInitConfig(MethodConfig):
    """Adaption prompts in the topmost layers, let in by gates that start at zero (arXiv 2303.16199, section 3).

    Raises:
        ValueError: A value is out of its range; the message names the field, the value and what it may be.
    """

    peft_name = PeftName.ZERO_INIT

    prompt_length: int = field(default=10, metadata=told("K, the number of prompt positions per layer."))
    num_layers: int | None = field(default=None, metadata=told("L, counted from the top. None: every layer."))
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata=told("Absolute layer indices, in place of num_layers.")
    )
    target_modules: list[str] | str | None = field(
        default=None,
        metadata=told(
            "Which attention modules, as PEFT understands it: a regular expression on full names, or a list of name "
            "endings. Needed where a model has several stacks (CLIP, Whisper)."
        ),
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata=told("Names to leave out, as in PEFT."))
    gate_activation: str = field(default="tanh", metadata=told("tanh | identity: how a stored gate becomes effective."))
    gate_scale: float = field(
        default=1.0,
        metadata=told("The stored gate is multiplied by this before its activation: faster gates at one rate."),
    )
    gate_per: str = field(default="head", metadata=told("head | layer: one gate for each query head, or one in all."))
    prompt_init_std: float = field(default=1.0, metadata=told("Prompts start at N(0, std). Small starts learn worse."))
    attention: str = field(
        default="zero_init",
        metadata=told("zero_init, or vanilla: prompts in the text's own softmax, no gate (the ablation of Table 4)."),
    )
    image_layers: list[int] | int | None = field(
        default=None,
        metadata=told(
            "Layers of a vision encoder whose global features condition the prompts (indices of its hidden states; M "
            "of them), or how many, where whoever loads the encoder chooses them. None: the adapter takes no images."
        ),
    )
    image_channels: int | None = field(
        default=None, metadata=told("Channels of one layer's feature: the encoder's hidden size.")
    )
    image_hidden: int = field(default=64, metadata=told("Width of the MLP that makes the image token."))
    image_tokens: int = field(
        default=1,
        metadata=told(
            "Tokens made of each image. The paper's single one is the same to every word of the text; among several, "
            "attention chooses by what is asked."
        ),
    )
    image_early: int | None = field(
        default=None,
        metadata=told(
            "Early fusion (LLaMA-Adapter V2): images enter in the lowest so many layers, behind gates of their own, "
            "and not through the prompts, which lie above. None: images are added to the prompts of all adapted layers."
        ),
    )
    image_encoder: str | None = field(
        default=None, metadata=told("The vision encoder the features come from, for whoever loads the adapter.")
    )
    image_fingerprint: str | None = field(
        default=None,
        metadata=told(
            "Tells that encoder's weights from any others (`VisionEncoder.fingerprint`). Recorded by `zerogate train`."
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        if self.prompt_length < 1:
            raise ValueError(f"prompt_length (K) must be at least 1, not {self.prompt_length}.")
        if self.num_layers is not None and self.num_layers < 1:
            raise ValueError(
                f"num_layers (L) must be at least 1, not {self.num_layers}; leave it out to adapt every layer."
            )
        if self.num_layers is not None and self.layers_to_transform is not None:
            raise ValueError("Give num_layers (L from the top) or layers_to_transform (indices), not both.")
        if self.prompt_init_std <= 0 or self.gate_scale <= 0:
            raise ValueError(
                f"prompt_init_std and gate_scale must be positive, not {self.prompt_init_std} and {self.gate_scale}."
            )
        takes_images = self.image_layers is not None or self.image_encoder is not None
        if takes_images and (self.image_layers in ([], 0) or self.attention == "vanilla"):
            raise ValueError(
                "image_layers needs at least one layer of the encoder, and attention='zero_init': images come in "
                "through the gates."
            )
        if self.image_early is not None and (self.image_early < 1 or not takes_images):
            raise ValueError(
                f"image_early={self.image_early} must be at least 1, and goes with image_layers or image_encoder."
            )
        for name in ("image_hidden", "image_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if isinstance(self.layers_to_transform, int):
            self.layers_to_transform = [self.layers_to_transform]
