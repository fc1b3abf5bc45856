"""What each tensor of an adapter's file is: a factor, a magnitude, token rows, a module saved whole, or a problem."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekit.converters import mlx_adapter
from edgekit.converters.adapter_config import parameters_of, pattern_value, targets
from edgekit.converters.dtypes import FLOATS
from edgekit.tensors import TensorInfo

PREFIX = "base_model.model."
EMBEDDINGS = {"embed_tokens", "wte"}
HEADS = {"lm_head", "embed_out"}

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector"
    r"|token_adapter\.trainable_tokens_delta)(\.default)?(?P<leaf>\.weight|\.bias)?"
)
_ROLES = {
    "lora_A.weight": "A", "lora_B.weight": "B", "lora_B.bias": "bias", "lora_embedding_A": "embedding A",
    "lora_embedding_B": "embedding B", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude", "token_adapter.trainable_tokens_delta": "tokens",
}  # fmt: skip
_SAVED = re.compile(
    r"(?P<module>.+?)(?P<wrap>\.modules_to_save|\.original_module|(\.token_adapter)?\.base_layer)?"
    r"(\.default)?\.(?P<parameter>weight|bias)"
)


@dataclass(frozen=True)
class Pair:
    """The two factors of one parameter: ``A`` (rank, in), ``B`` (out, rank), and what ``B @ A`` is scaled by.

    Of a stack of experts ``A`` holds their ranks one after another, ``B`` interleaved. An ``embedding``'s change
    is the product transposed: it has tokens for inputs.
    """

    module: str
    a: str
    b: str
    rank: int
    scale: float
    parameter: str = "weight"
    embedding: bool = False
    magnitude: str | None = None
    bias: str | None = None


@dataclass(frozen=True)
class Saved:
    """A tensor that the adapter's file holds whole."""

    name: str
    asked: bool
    """Whether ``modules_to_save`` names it: it was trained."""
    frozen: bool
    """Whether it is the base's own, kept beside what was trained on it."""


@dataclass(frozen=True)
class TokenRows:
    """Single trained rows of an embedding or head; no indices where the configuration only names the embedding."""

    name: str
    indices: tuple[int, ...] | None


class Parts:
    """The tensors of a file, sorted; ``same`` tells whether two of them hold the same bytes."""

    def __init__(
        self,
        config: Mapping[str, Any],
        infos: Mapping[str, TensorInfo],
        same: Callable[[str, str], bool],
        mlx: bool,
    ) -> None:
        self.config, self.mlx = config, mlx
        self.pairs: dict[str, Pair] = {}
        self.saved: dict[str, Saved] = {}
        self.tokens: dict[str, TokenRows] = {}
        self.problems: list[str] = []
        self._infos, self._same = infos, same
        self._sort_tensors()

    def _factor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._infos[name].shape
        return shape[::-1] if self.mlx else shape

    def _asked(self, tensor: str) -> bool:
        """Whether ``modules_to_save`` names the module of a tensor that was saved whole."""
        module, wanted = tensor.rpartition(".")[0], self.config.get("modules_to_save") or []
        if self.config.get("ensure_weight_tying") and module in HEADS:  # PEFT drops the head from the list
            return any(name.rpartition(".")[2] in EMBEDDINGS | HEADS for name in wanted)
        return any(module == m or module.endswith(f".{m}") for m in wanted)

    def _sort_tensors(self) -> None:
        """Give every tensor its part: a factor, token rows, a saved module, or a problem."""
        modules: dict[str, dict[str, str]] = {}
        for name, info in self._infos.items():
            module, role = self._role(name)
            if info.dtype not in FLOATS or info.dtype.startswith("F8"):
                self.problems.append(f"tensor {name!r} is {info.dtype}, expected F32, F16 or BF16")
            elif role is None:
                self._save(name)
            elif role in (names := modules.setdefault(module, {})):
                self.problems.append(f"two tensors for one place: {names[role]!r} and {name!r}")
            else:
                names[role] = name
        for module, names in modules.items():
            if tokens := names.pop("tokens", None):
                self._add_tokens(module, tokens)
            if names:
                self._add_pair(module, names)
        if not self.problems:
            self.problems += self._missing_tokens()

    def _role(self, name: str) -> tuple[str, str | None]:
        if self.mlx:
            return mlx_adapter.role(name)
        match = _PART.fullmatch(name.removeprefix(PREFIX))
        role = _ROLES.get(match["part"] + (match["leaf"] or "")) if match else None
        return (match["module"] if match else "", role)

    def _save(self, name: str) -> None:
        key = name.removeprefix(PREFIX)
        match = None if "lora_" in key or self.mlx else _SAVED.fullmatch(key)
        if match is None or not self._saves(match["module"], match["parameter"], match["wrap"] or ""):
            self.problems.append(f"nothing consumes tensor {name!r}")
            return
        if match["wrap"] == ".original_module":  # what modules_to_save was trained from: nothing reads it
            return
        place, frozen = f"{match['module']}.{match['parameter']}", "base_layer" in (match["wrap"] or "")
        if (other := self.saved.get(place)) and not self._same(name, other.name):
            self.problems.append(f"two tensors for one place: {other.name!r} and {name!r}")
        self.saved[place] = Saved(name, self._asked(place), frozen)

    def _saves(self, module: str, parameter: str, wrap: str) -> bool:
        # PEFT also writes the embeddings that it found resized or targeted, unasked.
        asked = self._asked(f"{module}.")
        if wrap == ".original_module":
            return asked
        return asked or (parameter == "weight" and module.rpartition(".")[2] in EMBEDDINGS | HEADS)

    def _add_tokens(self, module: str, name: str) -> None:
        wanted = self.config.get("trainable_token_indices") or {}
        last = module.rpartition(".")[2]
        if isinstance(wanted, dict):
            found = [v for k, v in wanted.items() if module == k or module.endswith(f".{k}")]
        else:
            found = [wanted] if last in EMBEDDINGS else []
        if not wanted or (not found and last not in HEADS):
            self.problems.append(f"nothing consumes tensor {name!r}")
            return
        self.tokens[module] = TokenRows(name, tuple(found[0]) if found else None)

    def _missing_tokens(self) -> list[str]:
        """Layers of which the configuration trains tokens and the file has none; a tied head has none of its own."""
        wanted = self.config.get("trainable_token_indices") or {}
        if isinstance(wanted, list):
            return [] if self.tokens else ["trainable_token_indices: the adapter has no weights for them"]
        return [
            f"{key}: tokens of it were trained, but the adapter has no weights for them"
            for key in wanted
            if not any(module == key or module.endswith(f".{key}") for module in self.tokens)
            and not (
                key.rpartition(".")[2] in HEADS and wanted[key] in [v for k, v in wanted.items() if k != key]
            )
        ]

    def _add_pair(self, module: str, names: Mapping[str, str]) -> None:
        """A module's factors, with the magnitude and bias that its kind must have."""
        embedding = "embedding A" in names or "embedding B" in names
        embedding = embedding or (self.mlx and module.rpartition(".")[2] in EMBEDDINGS)
        kind = "embedding " if embedding and not self.mlx else ""
        needed = {f"{kind}A": "lora_A", f"{kind}B": "lora_B"}
        if self.config.get("use_dora"):
            needed["magnitude"] = "lora_magnitude_vector"
        if self.config.get("lora_bias") and not embedding:
            needed["bias"] = "lora_B.bias"
        if missing := [what for role, what in needed.items() if role not in names]:
            self.problems.append(f"{module}: {' and '.join(missing)} is missing")
        elif extra := [names[role] for role in names if role not in needed]:
            self.problems += [f"nothing consumes tensor {name!r}" for name in extra]
        else:
            pair = Pair(
                module, names[f"{kind}A"], names[f"{kind}B"], 0, 0.0, "weight", embedding,
                names.get("magnitude"), names.get("bias"),
            )  # fmt: skip
            self._check_pair(pair)

    def _check_pair(self, pair: Pair) -> None:
        """Take a pair in if the configuration trains it and says its rank."""
        config, module, parameter = self.config, pair.module, pair.parameter
        if parameters := parameters_of(config, module):
            module, parameter = parameters
        key = f"{module}.{parameter}" if parameters else module
        asked = pattern_value(config.get("rank_pattern"), key, config["r"])
        rank = int(asked)
        alpha = pattern_value(config.get("alpha_pattern"), key, config["lora_alpha"])
        shape_a, shape_b = self._factor_shape(pair.a), self._factor_shape(pair.b)
        sound = len(shape_a) == len(shape_b) == 2 and shape_a[0] == shape_b[1] and rank == asked > 0
        if not sound or shape_a[0] != rank and not (parameter != "weight" and shape_a[0] % rank == 0):
            self.problems.append(
                f"{module}: lora_A is {shape_a} and lora_B is {shape_b}, the configuration says rank {asked}"
            )
        elif not parameters and not targets(config, module) and not self._follows(module):
            self.problems.append(f"{module}: has weights, but the configuration does not target it")
        else:
            scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
            key = module if parameter == "weight" else f"{module}.{parameter}"
            if key in self.pairs:
                self.problems.append(f"{key}: two pairs of factors for one place")
            self.pairs[key] = replace(pair, module=module, rank=rank, scale=float(scale), parameter=parameter)

    def _follows(self, module: str) -> bool:
        """Whether PEFT drops a head from the targets because the embedding's factors are its own too."""
        return bool(self.config.get("ensure_weight_tying")) and module in HEADS
