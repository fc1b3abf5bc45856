"""How an adapter fits a base: which tensor each of its parts changes, and everything that doesn't fit."""

from __future__ import annotations

import numpy as np

from edgekit.converters import places
from edgekit.converters.adapter import Adapter, same_bytes
from edgekit.converters.adapter_config import targets
from edgekit.converters.adapter_parts import HEADS, Pair, Saved
from edgekit.converters.changes import BiasSum, ExpertProduct, Part, Product, TokenValues
from edgekit.converters.places import (
    HEAD,
    TRANSPOSED_EXPERTS,
    Stack,
    expert_stacks,
    input_embedding,
    is_tied,
    is_transposed,
    tensor_of,
)
from edgekit.tensors import TensorSource


def misfits(adapter: Adapter, base: TensorSource) -> list[str]:
    """Everything about an adapter that doesn't fit a base, in plain words; empty if it can be merged."""
    return Fit(adapter, base).problems


class Fit:
    """An adapter laid on a base.

    ``starts`` are tensors that the adapter's file holds whole, ``parts`` what changes each tensor in order. Of
    tied embeddings the head has entries of its own; where they equal the embedding's, the two stay tied.
    """

    def __init__(self, adapter: Adapter, base: TensorSource, weight: float = 1.0) -> None:
        self.adapter, self.base, self.weight = adapter, base, weight
        self.starts: dict[str, Saved] = {}
        self.parts: dict[str, list[Part]] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._tied = is_tied(base)
        self._embedding = input_embedding(base.names())
        self._both = bool(adapter.config.get("ensure_weight_tying")) and self._tied
        self._changed: dict[str, str] = {}
        self._stacks = expert_stacks(base) if adapter.config.get("target_parameters") else {}
        self._place_saved()
        for pair in adapter.pairs.values():
            if pair.parameter == "weight":
                self._place_pair(pair)
            else:
                self._place_experts(pair)
        self._tie_products()
        self._place_tokens()
        self._check_vocabulary()
        self.problems += self._missing()

    def rows_of(self, name: str) -> int:
        """Rows of a tensor after its start."""
        return self._shape(name)[0]

    def _shape(self, name: str) -> tuple[int, ...]:
        if name in self.starts:
            return self.adapter.info(self.starts[name].name).shape
        stored = self._embedding if name == HEAD and self._tied and self._embedding else name
        return self.base.info(stored).shape

    def _place(self, module: str, parameter: str = "weight") -> str | None:
        head = f"{places.text_name(module)}.{parameter}" == HEAD and self._tied and self._embedding
        return tensor_of(self.base, module, parameter) or (HEAD if head else None)

    def _place_saved(self) -> None:
        for tensor, saved in self.adapter.saved.items():
            module, _, parameter = tensor.rpartition(".")
            name = self._place(module, parameter)
            shape = self.adapter.info(saved.name).shape
            if name is None:
                self.problems.append(f"{tensor}: {places.absent(tensor, 'tensor')}")
            elif not self._may_replace(name, shape):
                self.problems.append(f"{tensor}: saved as {shape}, the base has {self._shape(name)}")
            elif self.weight != 1.0 and not saved.frozen:
                self.problems.append(
                    f"{tensor} was trained whole: it can't be merged with weight {self.weight}"
                )
            elif name in self.starts:
                self.problems.append(f"{tensor}: replaces {name}, as {self.starts[name].name} does")
            else:
                self.starts[name] = saved
        if self._tied:
            self._tie_starts()

    def _may_replace(self, name: str, shape: tuple[int, ...]) -> bool:
        """A saved tensor has the base's shape; only a vocabulary may have been resized."""
        old = self._shape(name)
        resizable = name in (self._embedding, HEAD) and len(shape) == len(old) == 2
        return shape == old or resizable and shape[1:] == old[1:] and shape[0] > 0

    def _tie_starts(self) -> None:
        """What saved tensors mean for two that share their storage."""
        embedding, head = self.starts.get(self._embedding or ""), self.starts.get(HEAD)
        one = embedding or head
        if one is None or self._embedding is None:
            return
        if embedding and head:
            if same_bytes(self.adapter, embedding.name, self.adapter, head.name):
                self.starts[HEAD] = embedding
            elif self._both or not (embedding.asked or head.asked):
                self.problems.append(
                    f"{embedding.name} and {head.name}: tied, but saved with different values"
                )
        elif one.frozen:
            self.starts[self._embedding] = self.starts[HEAD] = one
        elif not one.asked:
            self.problems.append(
                f"{one.name}: saved whole, but not in modules_to_save; on tied embeddings that is unclear"
            )
        elif self._both:
            self.problems.append(f"{one.name}: ensure_weight_tying, but only one of the tied two was saved")

    def _place_pair(self, pair: Pair) -> None:
        name = self._place(pair.module)
        if name is None:
            self._leave_out(pair)
            return
        transposed = pair.embedding or is_transposed(self.base, name)
        if problem := self._pair_problem(pair, name, transposed):
            self.problems.append(f"{pair.module}: {problem}")
            return
        part = Product(self.adapter, pair, self.weight, transposed)
        self.parts.setdefault(name, []).append(part)
        if self.adapter.mlx and name == self._embedding and self._tied:  # MLX's as_linear uses both factors
            self.parts.setdefault(HEAD, []).append(part)
        if pair.bias:
            self._place_bias(pair, pair.bias)

    def _leave_out(self, pair: Pair) -> None:
        """A module that the base doesn't have; one beside the text model may be there if it wasn't trained."""
        untrained = not (pair.magnitude or pair.bias) and pair.module.startswith(places.OTHER_PARTS)
        if not untrained or self.adapter.factor(pair.b).any():
            self.problems.append(f"{pair.module}: {places.absent(pair.module, 'module')}")
        elif places.UNTRAINED not in self.notes:
            self.notes.append(places.UNTRAINED)

    def _pair_problem(self, pair: Pair, name: str, transposed: bool) -> str | None:
        """Why factors can't change the tensor that their module names, if they can't."""
        config, change, shape = self.adapter.config, self.adapter.shape(pair), self._shape(name)
        if pair.embedding != (name == self._embedding):
            return "its factors are not of the layer that the base has there"
        if self._changed.setdefault(name, pair.module) != pair.module:
            return f"changes {name}, as {self._changed[name]} does"
        follows = config.get("ensure_weight_tying") and pair.module in HEADS
        if follows and not self._tied and not targets(config, pair.module):
            return "its factors were tied to the embedding's, but the base's head has weights of its own"
        if pair.embedding and pair.magnitude and self.adapter.mlx:
            return "DoRA on an MLX embedding is not supported"
        if shape != (change[::-1] if transposed else change):
            return f"the adapter changes a {change} weight, the base has {shape}"
        if pair.magnitude and self.adapter.info(pair.magnitude).shape != change[:1]:
            return f"the magnitude is {self.adapter.info(pair.magnitude).shape}, expected {change[:1]}"
        return None

    def _place_bias(self, pair: Pair, own: str) -> None:
        name, shape = tensor_of(self.base, pair.module, "bias"), self.adapter.info(own).shape
        if name is None:
            self.problems.append(f"{pair.module}: lora_bias trained a bias, the base has none to add it to")
        elif shape != self._shape(name):
            self.problems.append(
                f"{pair.module}: the trained bias is {shape}, the base has {self._shape(name)}"
            )
        else:
            part = BiasSum(self.adapter, own, pair.scale * self.weight)
            self.parts.setdefault(name, []).append(part)

    def _place_experts(self, pair: Pair) -> None:
        name = f"{pair.module}.{pair.parameter}"
        stack = self._stacks.get(name)
        if stack is None:
            self.problems.append(f"{name}: the base has no such experts")
            return
        a, b = self.adapter.info(pair.a).shape, self.adapter.info(pair.b).shape
        ranks = stack.experts * pair.rank
        if a != (ranks, stack.columns) or b != (stack.out, ranks):
            self.problems.append(
                f"{name}: lora_A is {a} and lora_B is {b}, the base's {stack.experts} experts of rank {pair.rank} "
                f"need {(ranks, stack.columns)} and {(stack.out, ranks)}"
            )
        elif stack.out == stack.columns and not places.square_is_known(
            self.base, self.adapter.config.get("peft_version")
        ):
            self.problems.append(
                f"{name}: square experts of a PEFT before 0.21: which way they lie is unclear"
            )
        else:
            self._add_experts(pair, stack)

    def _add_experts(self, pair: Pair, stack: Stack) -> None:
        transposed = self.base.config.get("model_type") in TRANSPOSED_EXPERTS
        if stack.stored:
            whole = ExpertProduct(self.adapter, pair, self.weight, stack.experts, transposed)
            self.parts.setdefault(stack.stored, []).append(whole)
        for stored, (expert, first) in stack.parts.items():
            part = ExpertProduct(self.adapter, pair, self.weight, stack.experts, False, expert, first)
            self.parts.setdefault(stored, []).append(part)

    def _tie_products(self) -> None:
        """With ensure_weight_tying the head's factors are the embedding's, transposed."""
        if not self._both or self._embedding is None:
            return
        ours, heads = self.parts.get(self._embedding, []), self.parts.get(HEAD, [])
        if not ours and not heads:
            return
        if not (ours and heads):
            self.problems.append("ensure_weight_tying: only one of the tied two has factors")
            return
        one, other = ours[0], heads[0]
        assert isinstance(one, Product) and isinstance(other, Product)
        read = self.adapter.factor
        a, b = read(one.pair.a), read(one.pair.b)
        if not (np.array_equal(read(other.pair.a), b.T) and np.array_equal(read(other.pair.b), a.T)):
            self.problems.append("ensure_weight_tying: the factors of the tied two differ")
        elif one.pair.magnitude is None and one.pair.scale == other.pair.scale:
            self.parts[HEAD] = ours

    def _place_tokens(self) -> None:
        found: dict[str, TokenValues] = {}
        unnamed: dict[str, str] = {}
        for module, tokens in self.adapter.tokens.items():
            name = self._place(module)
            shape = self.adapter.info(tokens.name).shape
            if name is None or name not in (self._embedding, HEAD) or name in found:
                self.problems.append(f"{module}: the base has no such embedding")
            elif tokens.indices is None:
                unnamed[name] = tokens.name
            elif shape != (len(tokens.indices), *self._shape(name)[1:]):
                self.problems.append(
                    f"{module}: {len(tokens.indices)} tokens were trained, their rows are {shape}"
                )
            elif max(tokens.indices, default=0) >= self.rows_of(name):
                self.problems.append(
                    f"{module}: token {max(tokens.indices)} is past {self.rows_of(name)} rows"
                )
            else:
                found[name] = TokenValues(self.adapter, tokens.name, tokens.indices)
        self._tie_tokens(found, unnamed)
        for name, part in found.items():
            if self.weight != 1.0:
                self.problems.append(f"{name}: its tokens were trained whole: no weight but 1 can merge them")
            if self.parts.get(name) or name in self.starts and self.starts[name].asked:
                self.problems.append(f"{name}: single tokens of it were trained and more of it too")
            self.parts.setdefault(name, []).append(part)

    def _tie_tokens(self, found: dict[str, TokenValues], unnamed: dict[str, str]) -> None:
        """On tied embeddings the head follows the tokens of the embedding unless it names others."""
        ours, heads = found.get(self._embedding or ""), found.get(HEAD)
        same = ours is not None and (heads is None or heads.indices == ours.indices)
        copies = [*unnamed.values(), *([heads.name] if heads and same else [])]
        if not self._tied:
            self.problems += [f"nothing consumes tensor {name!r}" for name in unnamed.values()]
        elif ours is None or not same:
            self.problems += [f"nothing consumes tensor {name!r}" for name in unnamed.values()]
            if ours and self._both:
                self.problems.append("ensure_weight_tying: the tied two were trained on different tokens")
        elif not all(same_bytes(self.adapter, ours.name, self.adapter, copy) for copy in copies):
            self.problems.append("the trained tokens of tied embeddings differ")
        else:
            found[HEAD] = ours

    def _check_vocabulary(self) -> None:
        if self._embedding is None or not (self._tied or HEAD in self.base.names()):
            return
        ours, heads = self.rows_of(self._embedding), self.rows_of(HEAD)
        if ours != heads:
            self.problems.append(f"the embedding would have {ours} rows and the head {heads}")

    def _missing(self) -> list[str]:
        """Modules that the configuration targets and the file has nothing for: a truncated adapter."""
        config = self.adapter.config
        wanted = config.get("target_parameters") or []
        missing = [
            name
            for name in self._stacks
            if any(name == key or name.endswith(f".{key}") for key in wanted)
            and name not in self.adapter.pairs
        ]
        if config.get("target_modules") != "all-linear":
            called = places.spelling(self.adapter.pairs)
            have = {tensor_of(self.base, pair.module) for pair in self.adapter.pairs.values()}
            missing += [
                name.removesuffix(".weight")
                for name in self.base.names()
                if name.endswith(".weight")
                and len(self.base.info(name).shape) == 2
                and name not in have
                and targets(config, name.removesuffix(".weight").replace("model.", called, 1))
            ]
            if self._tied and targets(config, "lm_head") and "lm_head" not in self.adapter.pairs:
                missing.append("lm_head")
        return [f"{module}: is targeted, but the adapter has no weights for it" for module in missing]
