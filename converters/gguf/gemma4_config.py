"""What Gemma 4's config.json says of each layer, and what of it llama.cpp computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.converters.gguf import gemma, settings
from edgekit.converters.gguf.family import number, unsupported, whole
from edgekit.errors import InputError

LOCAL, FULL = "sliding_attention", "full_attention"
PATTERN = 6
DEFAULTS = {
    "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072, "sliding_window": 512,
    "tie_word_embeddings": True, "hidden_size_per_layer_input": 256, "num_kv_shared_layers": 0,
    "attention_k_eq_v": False, "use_double_wide_mlp": False, "global_head_dim": 512,
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


def filled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with transformers' defaults, its layers' kinds written out."""
    full = settings.completed(config, DEFAULTS)
    count = whole(full, "num_hidden_layers")
    full.setdefault("layer_types", [LOCAL if (i + 1) % PATTERN else FULL for i in range(count)])
    return full


def check(config: Mapping[str, Any]) -> None:
    """Refuse what llama.cpp computes otherwise."""
    bidirectional = config.get("use_bidirectional_attention")
    if bidirectional == "vision":  # between images only
        bidirectional = None
    config = filled({**config, "use_bidirectional_attention": bidirectional})
    settings.fixed(config, enable_moe_block=False)
    whole(config, "sliding_window")
    number(config, "final_logit_softcapping", 30.0)
    for switch in ("attention_k_eq_v", "use_double_wide_mlp", "tie_word_embeddings"):
        if not isinstance(config[switch], bool):
            raise InputError(
                f"config.json's {switch} is unsound", found=config[switch], expected="true or false"
            )
    _check_kinds(config)
    _check_rotation(config)
    for layer in layers(config):
        own = {"head_dim": layer.size, "num_key_value_heads": layer.shared, "rope_parameters": {}}
        gemma.check_shared({**config, **own})
    _check_sharing(config)
    if config["hidden_size_per_layer_input"] != 0:
        whole(config, "hidden_size_per_layer_input")
        settings.fixed(config, vocab_size_per_layer_input=whole(config, "vocab_size"))


def layers(config: Mapping[str, Any]) -> list[Layer]:
    """Every layer of a filled config."""
    count, ffn = whole(config, "num_hidden_layers"), whole(config, "intermediate_size")
    first, kinds, own = count - _sharing(config), config["layer_types"], _overrides(config)
    return [
        Layer(
            kind,
            whole({**config, **own[i]}, "head_dim"),
            whole({**config, **own[i]}, "num_key_value_heads"),
            ffn * (2 if config["use_double_wide_mlp"] and i >= first else 1),
            i < first,
            config["attention_k_eq_v"] and kind == FULL,
        )
        for i, kind in enumerate(kinds)
    ]


def rotated(config: Mapping[str, Any], size: int) -> int:
    """Pairs of a head of ``size`` that turn in layers that see everything."""
    share = number(config["rope_parameters"][FULL], "partial_rotary_factor", 1.0)
    turning = int(size * share / 2)
    if share > 1 or turning != int(share * size // 2) or not turning:
        raise unsupported("this part of a head can't be rotated", share, "a part of 1")
    return turning


def _overrides(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs in each layer: by ``per_layer_config`` as transformers saves it, or by the published keys."""
    kinds, listed = config["layer_types"], config.get("per_layer_config")
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


def _check_kinds(config: Mapping[str, Any]) -> None:
    count, kinds = whole(config, "num_hidden_layers"), config["layer_types"]
    if (
        not isinstance(kinds, list)
        or len(kinds) != count
        or {*map(str, kinds)} != {LOCAL, FULL}
        or kinds[-1] != FULL
    ):
        expected = f"{LOCAL} and {FULL}, {count} in all, the last of them {FULL}"
        raise unsupported("layers of another kind", kinds, expected)
    for kind in (LOCAL, FULL):
        sizes = {(layer.size, layer.shared) for layer in layers(config) if layer.kind == kind}
        if len(sizes) > 1:
            raise unsupported(f"{kind} layers that differ", sorted(sizes), "one size and number of heads")


def _check_rotation(config: Mapping[str, Any]) -> None:
    blocks = config["rope_parameters"]
    if (
        not isinstance(blocks, dict)
        or {*blocks} != {LOCAL, FULL}
        or not all(isinstance(b, dict) for b in blocks.values())
    ):
        raise unsupported("rope_parameters aren't by kind of layer", blocks, f"{FULL} and {LOCAL}")
    for kind, rope, share in ((LOCAL, "default", 1), (FULL, "proportional", None)):
        block = blocks[kind]
        if block.get("rope_type", "default") != rope:
            raise unsupported(f"a rope scaling in {kind} layers", block.get("rope_type"), rope)
        if share and block.get("partial_rotary_factor") not in (None, share):
            raise unsupported(f"a part of each head in {kind} layers", block["partial_rotary_factor"], "1")
        if block.get("factor") not in (None, 1):
            raise unsupported(f"a scaling factor in {kind} layers", block["factor"], "1")
        number(block, "rope_theta", math.nan)
    rotated(config, next(layer.size for layer in layers(config) if layer.kind == FULL))


def _sharing(config: Mapping[str, Any]) -> int:
    """How many of the last layers read the keys and values of earlier ones."""
    found = config["num_kv_shared_layers"]
    if type(found) is not int or not 0 <= found < whole(config, "num_hidden_layers"):
        raise InputError(
            "config.json's num_kv_shared_layers is unsound", found=found, expected="fewer than all layers"
        )
    return found


def _check_sharing(config: Mapping[str, Any]) -> None:
    """llama.cpp takes the last layer before those that share for one that sees everything, and the one before not."""
    first = whole(config, "num_hidden_layers") - _sharing(config)
    if _sharing(config) and config["layer_types"][max(0, first - 2) : first] != [LOCAL, FULL]:
        raise unsupported(
            "layers share the keys and values of others than in llama.cpp",
            f"{config['layer_types'][:first][-2:]} before them",
            f"{LOCAL}, then {FULL}",
        )
