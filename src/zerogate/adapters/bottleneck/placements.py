"""Where bottlenecks go: the presets by the names people know, and the Linear layers of each known family they mean.

What differs between families is data: `FAMILIES` says, by model_type, what a family calls the layers into and out of
its attention and its MLP. A preset names those places and a position for each. `resolve` turns both into
`target_modules`, `position` and `fed_by`, which are saved with the adapter, so a file does not depend on this table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import BottleneckConfig


@dataclass(frozen=True)
class Places:
    """What a family calls its Linear layers: ends of their full names, as regular expressions.

    Attributes:
        attention_in: Into the attention: queries, keys, values.
        attention_out: Out of it.
        mlp_in: Into the MLP; of several (gated MLPs), the gate first.
        mlp_out: Out of it.
        within: What comes before in the full names of the layers that are meant, where there are others alike.
    """

    attention_in: tuple[str, ...]
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    within: str = ""

    def endings(self, place: str) -> tuple[str, ...]:
        """The endings of a place, "mlp_up" among them: the last of `mlp_in`, the one that is no gate."""
        found = self.mlp_in[-1] if place == "mlp_up" else getattr(self, place)
        return tuple(self.within + end for end in ((found,) if isinstance(found, str) else found))


_QKV = ("q_proj", "k_proj", "v_proj")
_LLAMA = Places(_QKV, "o_proj", ("gate_proj", "up_proj"), "down_proj")
_VIT = Places(_QKV, "o_proj", ("fc1",), "fc2")
_CLIP = Places(_QKV, "out_proj", ("fc1",), "fc2")
_BERT = Places(("query", "key", "value"), r"attention\.output\.dense", (r"intermediate\.dense",),
               r"layer\.\d+\.output\.dense")  # fmt: skip

FAMILIES: dict[str, Places] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _LLAMA
    ),
    "gemma3": replace(_LLAMA, within=r"language_model\..*\."),  # its image side stays as it is
    "opt": Places(_QKV, "out_proj", ("fc1",), "fc2"),
    "bloom": Places(("query_key_value",), r"self_attention\.dense", ("dense_h_to_4h",), "dense_4h_to_h"),
    "gpt_neox": Places(("query_key_value",), r"attention\.dense", ("dense_h_to_4h",), "dense_4h_to_h"),
    "gptj": Places(_QKV, "out_proj", ("fc_in",), "fc_out"),
    "gpt2": Places((r"attn\.c_attn",), r"attn\.c_proj", (r"mlp\.c_fc",), r"mlp\.c_proj"),
    "bert": _BERT,
    "roberta": _BERT,
    **dict.fromkeys(("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "vit_msn"), _VIT),
    # Their layers for pictures, not those for texts, nor the pooling head that a classifier does not use.
    **dict.fromkeys(("clip", "metaclip_2", "siglip", "siglip2"), replace(_CLIP, within=r"vision_model\.encoder\..*\.")),
    **dict.fromkeys(("clip_vision_model", "siglip_vision_model"), replace(_CLIP, within=r"encoder\.layers\..*\.")),
}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """A placement by name.

    Attributes:
        summary: What it is, for messages and documents.
        places: Where, in the words of `Places`, each with the position there.
        settings: What comes with it, where the paper's defaults do not hold.
        around: The places whose bottleneck is fed by the MLP's input, whatever lies between.
    """

    summary: str
    places: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    around: tuple[str, ...] = ()


_HUB = {"reduction_factor": 16, "non_linearity": "relu"}
_PARALLEL_HUB = {"reduction_factor": 2, "non_linearity": "relu", "scaling": 4.0}

PRESETS: dict[str, Preset] = {
    "series_h": Preset(
        "series adapters into and out of the MLP (LLM-Adapters, after Houlsby)",
        {"mlp_in": "series-input", "mlp_out": "series-output"},
    ),
    "series_p": Preset(
        "series adapters out of the MLP (LLM-Adapters, after Pfeiffer)", {"mlp_out": "series-output"}
    ),
    "parallel": Preset("parallel adapters on queries, keys and values (LLM-Adapters)", {"attention_in": "parallel"}),
    "parallel_mlp": Preset(
        "parallel adapters on the MLP's up and down projections (LLM-Adapters)",
        {"mlp_up": "parallel", "mlp_out": "parallel"},
    ),
    "seq_bn": Preset("a bottleneck after the MLP (Pfeiffer)", {"mlp_out": "series-output"}, _HUB),
    "double_seq_bn": Preset(
        "bottlenecks after the attention and after the MLP (Houlsby)",
        {"attention_out": "series-output", "mlp_out": "series-output"},
        {**_HUB, "non_linearity": "swish"},
    ),
    "par_bn": Preset(
        "a bottleneck beside the whole MLP (He et al.)", {"mlp_out": "parallel"}, _PARALLEL_HUB, ("mlp_out",)
    ),
    "scaled_par_bn": Preset(
        "a bottleneck beside the whole MLP, its scale learned",
        {"mlp_out": "parallel"},
        {**_PARALLEL_HUB, "scaling": "learned"},
        ("mlp_out",),
    ),
}  # fmt: skip

# What a position alone means in a known family.
_USUAL = {"series-input": {"mlp_in": "series-input"}, "series-output": {"mlp_out": "series-output"},
          "parallel": {"attention_in": "parallel"}}  # fmt: skip


def resolve(config: BottleneckConfig, model_type: str | None) -> None:
    """Fills in `target_modules`, `position` and `fed_by` where the config leaves them open.

    Raises:
        ValueError: The family is not known and no target_modules are given, or a preset needs to be told more.
    """
    preset = PRESETS[config.preset] if config.preset is not None else None
    if config.target_modules is not None:
        _resolve_own_targets(config, preset)
        return
    if model_type not in FAMILIES:
        raise ValueError(
            f"There are no default places for models of type {model_type!r}; known are {', '.join(FAMILIES)}. "
            "Say which Linear layers to adapt: target_modules=[...]."
        )
    family = FAMILIES[model_type]
    if preset is not None:
        places = preset.places
    elif isinstance(config.position, dict):
        raise ValueError("position={...} needs target_modules=[...] beside it, or a preset.")
    else:
        places = _USUAL[config.position or "series-output"]
    endings = {end: position for place, position in places.items() for end in family.endings(place)}
    plain = all(re.fullmatch(r"\w+", end) for end in endings)
    config.target_modules = list(endings) if plain else rf"(.*\.)?({'|'.join(endings)})"
    if preset is not None and preset.around and config.fed_by is None:
        config.fed_by = {end: family.mlp_in[0] for place in preset.around for end in family.endings(place)}
    if config.position is None:
        config.position = endings if len(set(endings.values())) > 1 else next(iter(endings.values()))


def _resolve_own_targets(config: BottleneckConfig, preset: Preset | None) -> None:
    if preset is None:
        config.position = config.position or "series-output"
        return
    if preset.around and config.fed_by is None:
        raise ValueError(
            f"preset={config.preset!r} lies beside a whole MLP. With target_modules of your own, also say whose input "
            "feeds it: fed_by={'w2': 'w1'}, for an MLP that begins with w1 and ends with w2."
        )
    if config.position is not None:
        return
    positions = list(dict.fromkeys(preset.places.values()))
    if len(positions) == 1:
        config.position = positions[0]
    elif isinstance(config.target_modules, str):
        raise ValueError(
            f"preset={config.preset!r} has one position for the last target and another for the rest, so with "
            "target_modules of your own it needs a list of them, in order; or say position={...}."
        )
    else:
        names = list(config.target_modules or [])
        config.position = {name: positions[0 if name != names[-1] else -1] for name in names}


def lookup(table: dict[str, str], name: str) -> str | None:
    """The entry of `table` whose key is the end of `name`, from a dot on; keys are regular expressions, as in PEFT."""
    return next((value for key, value in table.items() if re.fullmatch(rf"(.*\.)?({key})", name)), None)
