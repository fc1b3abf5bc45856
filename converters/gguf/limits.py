"""What llama.cpp's graphs of some families don't compute, refused from config.json alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgekit.converters.gguf.family import number, unsupported, whole
from edgekit.converters.gguf.rope import rope

YARN = {
    "beta_fast": (None, 32), "beta_slow": (None, 1), "truncate": (None, True), "attention_factor": (None,),
    "attn_factor": (None,), "extrapolation_factor": (None,), "mscale": (None,), "mscale_all_dim": (None,),
}  # fmt: skip
"""The values with which llama.cpp computes YaRN: it reads no other ones from a file."""


def check_rotation(config: Mapping[str, Any]) -> None:
    """Refuse rotations of whole heads by one base that llama.cpp computes otherwise, YaRN's among them."""
    scaling = rope(config)
    nested = sorted(key for key, value in scaling.items() if isinstance(value, dict))
    if nested:
        raise unsupported("rotations that differ by layer", ", ".join(nested), "one for all layers")
    part = scaling.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise unsupported("a rotation of a part of each head", part, "1.0")
    name = "original_max_position_embeddings"
    context, top = scaling.get(name), config.get(name)
    if scaling.get("rope_type") in {"llama3", "yarn"} and top not in (None, context):
        raise unsupported("two original contexts for the rope scaling", f"{context} and {top}", "one")
    if scaling.get("rope_type") != "yarn":
        return
    for key, values in YARN.items():
        if scaling.get(key) not in values:
            raise unsupported(
                f"YaRN with a {key} of its own",
                scaling[key],
                "none" if values[-1] is None else str(values[-1]),
            )
    base, factor = number(scaling, "rope_theta", 10_000.0), number(scaling, "factor", math.nan)
    # Outside of these the two formulas for the ramp's ends part.
    if factor < 1 or not 7 <= whole(scaling, name) <= base * base:
        found = f"factor {factor}, context {context}, base {base}"
        raise unsupported("YaRN out of its range", found, "a factor of at least 1, a context of 7 to base²")


def check_flag(config: Mapping[str, Any], key: str, why: str) -> None:
    """Refuse a switch of the config that llama.cpp's graph of the family doesn't have."""
    if config.get(key):
        raise unsupported(why, f"{key}: {config[key]}", "false")


def check_head_size(
    config: Mapping[str, Any], hidden: str = "hidden_size", heads: str = "num_attention_heads"
) -> None:
    """Refuse heads that aren't hidden size / heads where llama.cpp's graph of the family takes no other."""
    size, count = whole(config, hidden), whole(config, heads)
    if size % count:
        raise unsupported("heads don't divide the hidden size", f"{count} and {size}", "a multiple")
    if config.get("head_dim") not in (None, size // count):
        raise unsupported(
            "a head size apart from hidden size / heads", config["head_dim"], str(size // count)
        )


def window(config: Mapping[str, Any]) -> int | None:
    """The length of the sliding window of all layers, where they have one."""
    return None if config.get("sliding_window") is None else whole(config, "sliding_window")


def within(config: Mapping[str, Any], window: int | None) -> Mapping[str, Any]:
    """The config with its context cut to a sliding window that llama.cpp's graph of the family doesn't have.

    Up to the window's length the attention is the whole one; beyond it the answers would differ.
    """
    context = whole(config, "max_position_embeddings")
    return config if window is None or window >= context else {**config, "max_position_embeddings": window}
