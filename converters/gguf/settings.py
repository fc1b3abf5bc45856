"""What families ask of a config beyond its sizes: left-out values, switches, biases, parts of heads that rotate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.converters.gguf import decoder
from edgekit.converters.gguf.family import ARRAY, Entry, Mapped, number, unsupported
from edgekit.converters.gguf.rope import rope
from edgekit.errors import InputError

BASE = 10_000.0
"""llama.cpp's base of rotations where a file gives none."""


def completed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what transformers takes for the keys that it leaves out."""
    return {**defaults, **{key: value for key, value in config.items() if value is not None}}


def fixed(config: Mapping[str, Any], **values: object) -> None:
    """Refuse settings other than these; one that is null or not there counts as this."""
    for key, value in values.items():
        if config.get(key) is not None and config[key] != value:
            raise unsupported(f"{key} is set to what llama.cpp doesn't compute", config[key], repr(value))


def switches(config: Mapping[str, Any], *keys: str) -> None:
    """Refuse what is neither on nor off."""
    for key in keys:
        if not isinstance(config[key], bool):
            raise InputError(f"config.json's {key} is unsound", found=config[key], expected="true or false")


def varied(arch: str, entries: Sequence[Entry], values: Mapping[str, Sequence[int]]) -> list[Entry]:
    """Metadata with a list, one value a layer, for each of these keys whose values aren't all the same."""
    lists = {f"{arch}.{key}": list(found) for key, found in values.items() if len(set(found)) > 1}
    kept = [entry for entry in entries if entry.key not in lists]
    return [*kept, *(Entry(key, found, ARRAY) for key, found in lists.items())]


def usual_base(config: Mapping[str, Any]) -> None:
    """Refuse a rotation's base that is not the one of a family whose files don't give it."""
    found = number(rope(config), "rope_theta", BASE)
    if found != BASE:
        raise unsupported("another rotation base than the family's", found, f"rope_theta {BASE:.0f}")


def trimmed(
    arch: str, config: Mapping[str, Any], *left_out: str, epsilon: str = "rms_norm_eps"
) -> list[Entry]:
    """A decoder's metadata less the keys, named without the architecture, that a family's files don't have."""
    entries = decoder.metadata(arch, config, epsilon=epsilon)
    return [entry for entry in entries if entry.key.removeprefix(f"{arch}.") not in left_out]


def biased(tensors: Sequence[Mapped], *modules: str) -> list[Mapped]:
    """``tensors``, if biases are with these modules (named as in GGUF) and with no other; ``InputError`` otherwise."""
    names = {tensor.name for tensor in tensors}
    expected = {
        f"{name.removesuffix('weight')}bias"
        for name in names
        if name.endswith(".weight") and name.split(".")[-2] in modules
    }
    if odd := sorted(expected ^ {name for name in names if name.endswith(".bias")}):
        raise InputError(
            "the checkpoint's biases aren't the architecture's",
            found=f"{'no' if odd[0] in expected else 'a'} tensor for {odd[0]}",
            expected=f"biases of {', '.join(modules)} and of nothing else" if modules else "no biases",
        )
    return list(tensors)


def rotated_size(config: Mapping[str, Any], default: float) -> int:
    """How much of a head is rotated where only part of it is (``partial_rotary_factor``)."""
    name = "partial_rotary_factor"
    given = [found for found in (rope(config).get(name), config.get(name)) if found is not None]
    share = number({name: given[0]} if given else {}, name, default)
    head = decoder.head_dim(config)
    size = int(head * share)
    if size % 2 or not 0 < size <= head:
        raise unsupported("this part of a head can't be rotated", size, f"an even number up to {head}")
    return size
