"""adapter_config.json as PEFT means it, and which kinds of adapter can be merged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import AdapterError

HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "lora_dropout", "megatron_core", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "alpha_pattern", "revision", "runtime_config", "target_modules",
    "target_parameters", "task_type", "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
"""Options that a merge honours, or that only matter while training."""

REFUSED = {
    "layer_replication": "it duplicates layers of the base: the result is another architecture",
    "alora_invocation_tokens": "an activated LoRA acts only after its invocation tokens: no merged weight can",
    "arrow_config": "Arrow routes between adapters at run time: no merged weight can",
    "use_qalora": "QALoRA pools its inputs by group: B·A is not the weight's change",
    "use_bdlora": "block-diagonal LoRA is not supported",
}

KINDS = {
    "LOHA": "LoHa's change is a Hadamard product, not B·A; it is not supported",
    "LOKR": "LoKr's change is a Kronecker product, not B·A; it is not supported",
    "IA3": "IA3 rescales activations; it is not supported",
    "VERA": "VeRA's matrices are drawn from a seed and not in the file; it is not supported",
    "PROMPT_TUNING": "prompt tuning adds virtual tokens: there is no weight to merge",
    "P_TUNING": "P-tuning adds virtual tokens: there is no weight to merge",
    "PREFIX_TUNING": "prefix tuning adds virtual keys and values: there is no weight to merge",
    "XLORA": "X-LoRA mixes its experts anew for every token: no merged weight can",
}

CONTRADICTORY = (
    ("use_dora", "lora_bias"),
    ("target_parameters", "use_dora"),
    ("target_parameters", "lora_bias"),
    ("target_parameters", "fan_in_fan_out"),
)
"""Options that PEFT refuses together."""

PARAMETERS = ("weight", "gate_up_proj", "down_proj")
"""Parameters that target_parameters may name, in the order in which modules hold them."""

REWRITES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that also change the base: on the plain base, B·A alone is not what was trained."""


_REPEATS = 6
"""Repeats that a pattern may have: each multiplies the time that a name takes by its length."""
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((?:\?(?:[:=!>]|<[=!]))?|(?:[*+?]|\{\d*,?\d*\})[?+]?|.", re.DOTALL
)


def check_kind(config: Mapping[str, Any], path: Path) -> None:
    """Raise ``AdapterError`` unless the adapter is a LoRA that a merge can hold, with all options known."""
    kind = str(config.get("peft_type", "missing"))
    if kind != "LORA":
        reason = KINDS.get(kind.upper(), "only LoRA and rsLoRA adapters are merged")
        raise AdapterError(reason, path=path, found=f"peft_type {kind}", expected="peft_type LORA")
    for option, value in config.items():
        if option in HARMLESS or not value:
            continue
        reason = REFUSED.get(
            option, "edgekit doesn't know this option; it won't guess what it means for a merge"
        )
        raise AdapterError(reason, path=path, found=f"{option} = {str(value)[:80]}", expected=f"no {option}")
    start = str(config.get("init_lora_weights") or "").lower()
    if start.startswith(REWRITES_BASE):
        raise AdapterError(
            f"the adapter was trained on a base that {start} had changed",
            path=path,
            found=f"init_lora_weights = {start}",
            next_step="save it with PEFT's path_initial_model_for_weight_conversion, which makes it a plain LoRA",
        )
    if config.get("bias", "none") != "none":
        raise AdapterError(
            "trained biases are not supported yet", path=path, found=f"bias = {config['bias']}"
        )
    for one, other in CONTRADICTORY:
        if config.get(one) and config.get(other):
            raise AdapterError(f"{one} and {other} contradict each other", path=path, expected="one of them")
    _check_values(config, path)
    _check_parts(config, path)


def _check_values(config: Mapping[str, Any], path: Path) -> None:
    def need(name: str, good: bool, expected: str) -> None:
        if not good:
            raise AdapterError(
                f"{name} is unsound", path=path, found=str(config.get(name))[:80], expected=expected
            )

    need("r", type(config.get("r")) is int and config["r"] > 0, "a positive whole number")
    need("lora_alpha", _is_number(config.get("lora_alpha")), "a number")
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        good = isinstance(patterns, dict) and all(_is_number(v) and v > 0 for v in patterns.values())
        need(name, good and all(_compiles(key) for key in patterns), "module patterns and positive numbers")
    wanted = config.get("target_modules") or []
    need(
        "target_modules",
        _are_names(wanted) or isinstance(wanted, str) and _compiles(wanted),
        "names, or one regex",
    )
    for name in ("use_rslora", "fan_in_fan_out", "ensure_weight_tying", "use_dora", "lora_bias"):
        need(name, isinstance(config.get(name) or False, bool), "true or false")
    excluded, layers = config.get("exclude_modules") or [], config.get("layers_to_transform") or []
    need(
        "exclude_modules",
        _are_names(excluded) or isinstance(excluded, str) and _compiles(excluded),
        "names, or one regex",
    )
    numbers = layers if isinstance(layers, list) else [layers]
    need("layers_to_transform", all(type(n) is int for n in numbers), "whole numbers")
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    need("layers_pattern", _are_names(patterns) and all(map(_compiles, patterns)), "names")
    saved = config.get("modules_to_save") or []
    need("modules_to_save", _are_names(saved), "names")


def _check_parts(config: Mapping[str, Any], path: Path) -> None:
    """The options that name tokens and bare parameters."""
    tokens = config.get("trainable_token_indices") or []
    lists = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    if not all(_are_tokens(ids) for ids in lists):
        raise AdapterError(
            "trainable_token_indices is unsound",
            path=path,
            found=str(tokens)[:80],
            expected="different token ids, or lists of them by layer",
        )
    wanted = config.get("target_parameters") or []
    if not _are_names(wanted) or any(name.rpartition(".")[2] not in PARAMETERS for name in wanted):
        raise AdapterError(
            "target_parameters names something that edgekit can't place",
            path=path,
            found=str(wanted)[:80],
            expected=f"names that end in {', '.join(PARAMETERS)}",
        )


def _are_tokens(value: Any) -> bool:
    ids = value if isinstance(value, list) else [None]
    return all(type(n) is int and 0 <= n < 1 << 31 for n in ids) and len(set(ids)) == len(ids)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return len(pattern) <= 4096 and not _is_costly(pattern)


def _is_costly(pattern: str) -> bool:
    """Whether a name that almost matches could take forever: a repeated group with a choice or repeat in it, or many."""
    groups, repeats, closed = [False], 0, False
    for token in _TOKEN.findall(pattern):
        if token == ")":
            closed = groups.pop() if len(groups) > 1 else False
            groups[-1] |= closed
            continue
        if token[0] == "(":
            groups.append(False)
        elif token == "|":
            groups[-1] = True
        elif token[0] in "*+?{":
            if closed and token[0] != "?":
                return True
            groups[-1], repeats = True, repeats + 1
        closed = False
    return repeats > _REPEATS


def pattern_value(patterns: Mapping[str, float] | None, module: str, default: float) -> float:
    """The value of the first pattern that matches the end of ``module`` (PEFT's get_pattern_key)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def parameters_of(config: Mapping[str, Any], module: str) -> tuple[str, str] | None:
    """The module and bare parameter that factors named ``module`` train, if target_parameters names it.

    Several parameters of one module nest (PEFT's ParamWrapper): the first that the module holds is innermost,
    and each wrapper around it takes one ``base_layer`` off the name.
    """
    bare, depth = module, 0
    while bare.endswith(".base_layer"):
        bare, depth = bare.removesuffix(".base_layer"), depth + 1
    wanted = config.get("target_parameters") or []
    held = [p for p in PARAMETERS if _names_one(wanted, f"{bare}.{p}")]
    return (bare, held[-1 - depth]) if depth < len(held) else None


def targets(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT would put a LoRA on ``module`` (its check_target_module_exists)."""
    excluded = config.get("exclude_modules") or []
    if isinstance(excluded, str) and re.fullmatch(excluded, module):
        return False
    if not isinstance(excluded, str) and _names_one(excluded, module):
        return False
    wanted = config.get("target_modules") or []
    if isinstance(wanted, str):
        return wanted == "all-linear" or re.fullmatch(wanted, module) is not None
    if module in wanted:
        return True
    return _names_one(wanted, module) and _layer_wanted(config, module)


def _names_one(names: list[str], module: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _layer_wanted(config: Mapping[str, Any], module: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = [re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module) for pattern in patterns]
    match = next(filter(None, found), None) if patterns else re.match(r".*?\.[^.]*\.(\d+)\.", module)
    if match is None:
        return False
    return int(match[1]) in ([layers] if isinstance(layers, int) else layers)
