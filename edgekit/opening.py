"""What a build reads, opened and checked before any work: base, adapters, tokenizer, and a plan per quantization."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit import handoff
from edgekit.errors import AdapterError, UnsupportedModelError
from edgekit.overlay import overlay
from edgekit.progress import Progress
from edgekit.project import BuildSpec

if TYPE_CHECKING:
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.checkpoint import Checkpoint
    from edgekit.converters.foreseen import Foreseen
    from edgekit.converters.gguf.gguf_source import GgufSource
    from edgekit.converters.gguf.imatrix import ImportanceMatrix
    from edgekit.converters.gguf.plan import Layout, Plan
    from edgekit.converters.gguf.presets import Override
    from edgekit.converters.lora import Merged
    from edgekit.converters.text_model import TextModel
    from edgekit.rounding import Rounding


ROUNDED = frozenset({"F32", "F16", "BF16", "Q8_0"})
"""Types that round every number by itself, so that no importance matters."""


@dataclass(frozen=True)
class Opened:
    """A build's inputs, all of them checked, and a plan per quantization."""

    spec: BuildSpec
    base: Checkpoint | TextModel | GgufSource | Foreseen
    adapters: Sequence[tuple[Adapter, float]]
    merged: Merged
    layout: Layout
    plans: Sequence[Plan]
    matrix: ImportanceMatrix | None
    words: Path
    """Where the tokenizer's files are: the base's folder, or copies of an adapter's that changed the vocabulary."""

    @property
    def notes(self) -> list[str]:
        """What a person should know although everything works."""
        from edgekit.converters.foreseen import Foreseen
        from edgekit.converters.text_model import TextModel

        notes = list(self.base.notes) if isinstance(self.base, TextModel | Foreseen) else []
        notes += self.merged.notes
        if self.layout.origin and self.spec.base.is_file():
            notes += self.layout.origin.notes()
        elif self.layout.origin:
            notes.append("the tokenizer is as llama.cpp's converter wrote it; it was not proved here")
        if self.layout.vocabulary:
            notes += self.layout.vocabulary.notes
        if self.matrix and (without := self._without_values()):
            notes.append(
                f"the importance matrix has no values for {len(without)} weight(s), which are quantized without: "
                + ", ".join(without[:3])
            )
        return notes

    def _without_values(self) -> list[str]:
        """Weights of layers that are quantized, and that the matrix says nothing of."""
        found = [
            placed.mapped.name
            for plan in self.plans
            for placed in plan.tensors
            if placed.weights is None and not placed.copied and placed.kind.name not in ROUNDED
            if len(placed.mapped.shape) > 1 and placed.mapped.name.startswith("blk.")
        ]
        return list(dict.fromkeys(found))


@contextmanager
def opened(
    spec: BuildSpec,
    progress: Progress,
    *,
    planning: bool = False,
    plans: bool = True,
    roundings: Mapping[str, Rounding] | None = None,
) -> Iterator[Opened]:
    """Open and check everything that a build reads; files are closed on the way out.

    With ``spec.llama_cpp``, a model that edgekit doesn't convert is merged and converted by llama.cpp's script here.
    ``planning`` does with what is there, be it config.json alone, and makes no plans; nor are any without ``plans``.
    ``roundings`` are for the quantizations of these names.
    """
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.gguf import imatrix, plan, presets
    from edgekit.converters.gguf.gguf_source import GgufSource
    from edgekit.converters.lora import Merged

    chosen = [] if planning or not plans else [presets.preset(name) for name in spec.quantizations]
    overrides = [presets.Override.parse(text) for text in spec.tensor_types]
    matrix = imatrix.read(spec.imatrix) if spec.imatrix else None
    with ExitStack() as stack:
        base = (_foreseen(spec.base) if planning else None) or _base(spec, stack)
        adapters: list[tuple[Adapter, float]] = []
        for folder, weight in spec.adapters:
            adapter = Adapter(folder)
            stack.callback(adapter.close)
            adapters.append((adapter, weight))
        merged = Merged(base, adapters)
        words = spec.base
        if isinstance(base, GgufSource):
            _check_vocabulary(merged, spec.base)
        elif merged.tokenizer:
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-"))
            words = overlay(spec.base, merged.tokenizer, Path(temporary))
        layout = _layout(spec, base, merged, words, stack, progress, planning)
        known = roundings or {}
        found = [
            _rounded(spec, layout, known[preset.name], overrides, matrix)
            if preset.name in known
            else plan.plan(layout, preset, overrides, matrix, spec.split_size)
            for preset in chosen
        ]
        yield Opened(spec, base, adapters, merged, layout, found, matrix, words)


def _rounded(
    spec: BuildSpec,
    layout: Layout,
    how: Rounding,
    named: Sequence[Override],
    matrix: ImportanceMatrix | None,
) -> Plan:
    """A plan with types of its own; what the build names itself comes first."""
    from edgekit.converters.gguf import plan, presets
    from edgekit.trials import overrides

    listed = [presets.Override.parse(f"{pattern}={kind}") for pattern, kind in how.patterns.items()]
    found = [*named, *overrides(how.types), *listed]
    return plan.plan(layout, how.preset, found, matrix, spec.split_size, feedback=how.feedback)


def _foreseen(folder: Path) -> Foreseen | TextModel | None:
    """A checkpoint whose weights aren't there; None where they are, or where the base is a file."""
    from edgekit.converters.foreseen import lacks_weights
    from edgekit.converters.gguf import families
    from edgekit.converters.text_model import foresee

    if not lacks_weights(folder):
        return None
    base = foresee(folder)
    # So it learns the shapes that adapters are to fit.
    families.find(base.config, folder / "config.json").tensors(base)
    return base


def _base(spec: BuildSpec, stack: ExitStack) -> Checkpoint | TextModel | GgufSource:
    from edgekit.converters.gguf import families
    from edgekit.converters.gguf.gguf_source import GgufSource
    from edgekit.converters.text_model import config_of, open_model

    base: Checkpoint | TextModel | GgufSource
    if spec.llama_cpp:
        handoff.check(spec.llama_cpp)
    if spec.base.is_file():
        base = GgufSource(spec.base, merging=bool(spec.adapters))
    else:
        # The config decides before any weights are looked for, which may be gigabytes that nobody has fetched yet.
        config = config_of(spec.base)
        # What a known family refuses of a config, llama.cpp's converter would take and its runtime compute otherwise.
        if not spec.llama_cpp or families.named(config):
            families.find(config, spec.base / "config.json")
        base = open_model(spec.base)
    stack.callback(base.close)
    return base


def _check_vocabulary(merged: Merged, base: Path) -> None:
    """A GGUF base keeps its own tokenizer: an adapter's can't be put in its place."""
    if folder := merged.resized_by or merged.tokenizer:
        raise AdapterError(
            "the adapter brings a tokenizer of its own, and a GGUF base keeps the one that it has",
            path=folder,
            found="another number of tokens" if merged.resized_by else "trained tokens and a tokenizer.json",
            next_step=f"build from the checkpoint that {base.name} was made of",
        )


def _layout(
    spec: BuildSpec,
    base: Checkpoint | TextModel | GgufSource | Foreseen,
    merged: Merged,
    words: Path,
    stack: ExitStack,
    progress: Progress,
    planning: bool,
) -> Layout:
    from edgekit.converters.gguf import plan, tokenizers
    from edgekit.converters.gguf.gguf_source import GgufSource

    if isinstance(base, GgufSource):
        return plan.lay_out_gguf(merged, base, merged.changed, spec.name)
    try:
        return plan.lay_out(merged, words, spec.name, wordless=planning and not tokenizers.present(words))
    except UnsupportedModelError as error:
        if spec.llama_cpp is None or planning:
            raise
        progress.note(f"left to llama.cpp's converter: {error.args[0]}")
    spec.out.mkdir(parents=True, exist_ok=True)
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".edgekit-", dir=spec.out)))
    source = GgufSource(handoff.convert(merged, words, spec.llama_cpp, work, spec.name, progress))
    stack.callback(source.close)
    return plan.lay_out_gguf(source, source, (), spec.name)
