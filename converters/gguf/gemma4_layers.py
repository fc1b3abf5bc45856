"""What Gemma 4's config.json says of each layer, in either of its two ways, and which of it llama.cpp computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.converters.gguf import hybrid, settings, turns
from edgekit.converters.gguf.family import unsupported, whole
from edgekit.converters.gguf.turns import FULL, LOCAL
from edgekit.errors import InputError

PATTERN = 6
WIDTH, MIXED = "hidden_size_per_layer_input", "enable_moe_block"
DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072, "sliding_window": 512,
    "tie_word_embeddings": True, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 0,
    "attention_k_eq_v": False, "use_double_wide_mlp": False, "global_head_dim": 512, "enable_moe_block": False,
    "vocab_size_per_layer_input": 262_144,
    "rope_parameters": {
        LOCAL: {"rope_type": "default", "rope_theta": 1e4},
        FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    },
}  # fmt: skip
"""What transformers' Gemma4TextConfig has where config.json is silent."""
OVERRIDES = {"head_dim", "num_key_value_heads"}


@dataclass(frozen=True)
class Layer:
    """One layer: size and number of its key-value heads, its feed-forward, where its keys and values come from."""

    kind: str
    size: int
    shared: int
    ffn: int
    stores: bool
    """Whether it has keys and values of its own."""
    value_is_key: bool

    @property
    def sizes(self) -> dict[str, int]:
        """By config.json's names."""
        return {"head_dim": self.size, "num_key_value_heads": self.shared, "intermediate_size": self.ffn}


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with transformers' defaults, its layers' kinds written out."""
    full = settings.completed(config, DEFAULTS)
    full.setdefault("layer_types", turns.pattern(full, PATTERN))
    return {**full, "num_experts_per_tok": full.get("top_k_experts")}


def layers(config: Mapping[str, Any]) -> list[Layer]:
    """Every layer of a filled config; ``UnsupportedModelError`` for what llama.cpp computes otherwise."""
    kinds = hybrid.kinds(config, FULL, LOCAL)
    if kinds[-1] != FULL:
        raise unsupported("layers of another kind", kinds, f"the last of them {FULL}")
    first, own = len(kinds) - _sharing(config, kinds), _overrides(config, kinds)
    found = [
        Layer(
            kind,
            whole({**config, **own[i]}, "head_dim"),
            whole({**config, **own[i]}, "num_key_value_heads"),
            whole(config, "intermediate_size") * (2 if config["use_double_wide_mlp"] and i >= first else 1),
            i < first,
            config["attention_k_eq_v"] and kind == FULL,
        )
        for i, kind in enumerate(kinds)
    ]
    for kind in (LOCAL, FULL):
        sizes = {(layer.size, layer.shared) for layer in found if layer.kind == kind}
        if len(sizes) > 1:
            raise unsupported(f"{kind} layers that differ", sorted(sizes), "one size and number of heads")
    return found


def _overrides(config: Mapping[str, Any], kinds: list[str]) -> list[dict[str, Any]]:
    """What differs in each layer: by ``per_layer_config`` as transformers saves it, or by the published keys."""
    listed = config.get("per_layer_config")
    if listed is None:
        full = {"head_dim": config["global_head_dim"]}
        if config["attention_k_eq_v"] and config.get("num_global_key_value_heads") is not None:
            full["num_key_value_heads"] = config["num_global_key_value_heads"]
        return [full if kind == FULL else {} for kind in kinds]
    known = isinstance(listed, dict) and all(
        isinstance(own, dict) and own.keys() <= OVERRIDES for own in listed.values()
    )
    if not known or not listed.keys() <= {str(i) for i in range(len(kinds))}:
        raise unsupported(
            "settings of single layers", listed, f"{' and '.join(sorted(OVERRIDES))} by number of layer"
        )
    return [listed.get(str(i), {}) for i in range(len(kinds))]


def _sharing(config: Mapping[str, Any], kinds: list[str]) -> int:
    """How many of the last layers read the keys and values of earlier ones.

    llama.cpp takes the last layer before those for one that sees everything, and the one before it for one that doesn't.
    """
    found = config["num_kv_shared_layers"]
    if type(found) is not int or not 0 <= found < len(kinds):
        raise InputError(
            "config.json's num_kv_shared_layers is unsound", found=found, expected="fewer than all layers"
        )
    before = kinds[: len(kinds) - found][-2:]
    if found and before != [LOCAL, FULL]:
        what = "layers share the keys and values of others than in llama.cpp"
        raise unsupported(what, f"{before} before them", f"{LOCAL}, then {FULL}")
    return found
