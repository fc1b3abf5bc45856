"""Everything about a GGUF file that is known before a tensor is read: its keys, types, sizes and offsets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUFValueType, GGUFWriter, size_label
from gguf import GGMLQuantizationType as Q

from edgekit.converters.gguf import families, imatrix, measures, presets, tokenizers
from edgekit.converters.gguf.decoder import interleave
from edgekit.converters.gguf.family import STRING, U32, Entry, Mapped
from edgekit.converters.gguf.feedback import Feedback
from edgekit.converters.gguf.gguf_source import GgufSource
from edgekit.converters.gguf.imatrix import ImportanceMatrix
from edgekit.converters.gguf.measures import padded
from edgekit.converters.gguf.vocabulary import Vocabulary
from edgekit.errors import InputError
from edgekit.gguf_shards import SHARD_LIMIT
from edgekit.tensors import Float32, TensorSource

KEY_COUNT_AT = 16
"""Where a GGUF header has the number of its keys."""
U16, I32 = GGUFValueType.UINT16, GGUFValueType.INT32


@dataclass(frozen=True)
class Placed:
    """One tensor of one file: where it comes from, the type it gets, its bytes and its offset in its shard's data.

    ``weights`` are an importance matrix's, (experts, columns). What is ``copied`` stays as a GGUF base stores it.
    ``feedback`` rounds instead of ggml.
    """

    mapped: Mapped
    kind: Q
    row_bytes: int
    nbytes: int
    offset: int
    weights: Float32 | None = None
    shard: int = 0
    copied: bool = False
    feedback: Feedback | None = None


@dataclass(frozen=True)
class Layout:
    """A model as its family and tokenizer see it; the same for every preset."""

    source: TensorSource
    arch: str
    model: presets.Model
    metadata: Sequence[Entry]
    tensors: Sequence[Mapped]
    vocabulary: Vocabulary | None
    """None where a GGUF base's own is copied, or where a plan has to do without."""
    name: str
    origin: GgufSource | None = None
    """The GGUF base, if that is what the source is."""
    changed: frozenset[str] = frozenset()
    """Names of the tensors that adapters change in a GGUF base."""

    @cached_property
    def parameters(self) -> int:
        """Number of weights, computed tensors left out."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors if tensor.sources)

    @cached_property
    def words(self) -> Sequence[Entry]:
        """The vocabulary's keys, made once for all presets."""
        return self.vocabulary.entries() if self.vocabulary else ()

    @cached_property
    def words_bytes(self) -> Mapping[int, int]:
        """Bytes of each of ``words`` in a file, by its identity."""
        return {id(entry): measures.of_entry(entry) for entry in self.words}

    @cached_property
    def size_label(self) -> str:
        """Such as ``1.5B``; with experts ``8x7B``, where one expert of each stack counts."""
        stacks = [tensor.shape for tensor in self.tensors if "_exps." in tensor.name]
        one = sum(int(np.prod(shape[1:])) for shape in stacks)
        shared = self.parameters - sum(int(np.prod(shape)) for shape in stacks)
        return str(size_label(self.parameters, shared, one, stacks[0][0] if stacks else 0))

    def stored(self, tensor: Mapped) -> Q | None:
        """The type that a GGUF base has a tensor in."""
        return self.origin.stored(tensor.source) if self.origin else None


@dataclass(frozen=True)
class Plan:
    """One GGUF model: keys, tensors in llama.cpp's order, and the tensors' bytes in each file that it is split into."""

    layout: Layout
    preset: presets.Preset
    entries: Sequence[Entry]
    tensors: Sequence[Placed]
    shards: Sequence[int]

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(self.shards)

    @property
    def file_bytes(self) -> int:
        """Bytes of the model's files, headers and all; what ``write_header`` and ``data_bytes`` come to, unwritten."""
        # A type or an offset takes the same room whatever it is: keys are measured once for all presets.
        return self.data_bytes + sum(self.header_bytes(shard) for shard in range(len(self.shards)))

    @property
    def lacking(self) -> list[str]:
        """Tensors that can't be written for want of an importance matrix."""
        weights = {t.mapped.name: t.weights for t in self.tensors if t.weights is not None}
        return imatrix.lacking({t.mapped.name: t.kind for t in self.tensors}, self.preset, weights)

    def header_bytes(self, shard: int = 0) -> int:
        """Where the tensors' bytes begin in a file."""
        infos = (t.mapped for t in self.tensors if t.shard == shard)
        size = measures.START + sum(measures.of_info(one.name, len(one.shape)) for one in infos)
        words = self.layout.words_bytes
        size += sum(words.get(id(entry)) or measures.of_entry(entry) for entry in self._keys(shard))
        size += len(self._copied_keys(shard)[1])
        return padded(size)

    def paths(self, path: Path) -> list[Path]:
        """The model's files: ``path`` itself, or what llama.cpp calls the parts of a split one."""
        count = len(self.shards)
        if count == 1:
            return [path]
        return [path.with_name(f"{path.stem}-{i + 1:05}-of-{count:05}.gguf") for i in range(count)]

    def write_header(self, path: Path, shard: int = 0) -> int:
        """Write keys and tensor infos to a new file; returns where the tensors' bytes begin."""
        writer = GGUFWriter(path, self.layout.arch)
        writer.kv_data[0].clear()  # it puts the architecture into every file; the first holds all keys
        for entry in self._keys(shard):
            writer.add_key_value(entry.key, entry.value, entry.kind)
        for tensor in self.tensors:
            if tensor.shard == shard:
                writer.add_tensor_info(
                    tensor.mapped.name,
                    tensor.mapped.shape,
                    np.dtype(np.float32),
                    tensor.nbytes,
                    raw_dtype=tensor.kind,
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        count, copied = self._copied_keys(shard)
        writer.fout[0].write(copied)
        writer.write_ti_data_to_file()
        writer.close()
        _add_keys(path, count)
        return padded(path.stat().st_size)

    def _copied_keys(self, shard: int) -> tuple[int, bytes]:
        origin = self.layout.origin
        return origin.keys([entry.key for entry in self.entries]) if origin and shard == 0 else (0, b"")

    def _keys(self, shard: int) -> list[Entry]:
        keys = [*self.entries] if shard == 0 else []
        if len(self.shards) > 1:
            keys.append(Entry("split.no", shard, U16))
            keys.append(Entry("split.count", len(self.shards), U16))
            keys.append(Entry("split.tensors.count", len(self.tensors), I32))
        return keys


def lay_out(source: TensorSource, folder: Path, name: str, *, wordless: bool = False) -> Layout:
    """Map a model to GGUF: from configs and headers alone, before any work starts.

    ``wordless`` leaves the tokenizer out, for a plan where there is none: it can't be built.
    """
    family = families.find(source.config, folder / "config.json")
    metadata, tensors = family.metadata(source.config), family.tensors(source)
    families.check_consumed(source, set().union(*(t.sources for t in tensors)), family, folder)
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    vocabulary = None if wordless else tokenizers.read(folder, source.config, embedding.shape[0])
    model = replace(family.mixture(source.config), arch=family.ARCH)
    return Layout(source, family.ARCH, model, metadata, tensors, vocabulary, name)


def lay_out_gguf(source: TensorSource, origin: GgufSource, changed: Iterable[str], name: str) -> Layout:
    """The same for a GGUF base: ``source`` is it, with adapters merged that change some of its tensors."""
    tensors = []
    for tensor in source.names():
        unit = origin.unit(tensor)
        transform = interleave(unit) if unit > 1 else None
        tensors.append(Mapped(origin.gguf_name(tensor), source.info(tensor).shape, tensor, unit, transform))
    return Layout(source, origin.arch, origin.model, (), tensors, None, name, origin, frozenset(changed))


def plan(
    layout: Layout,
    preset: presets.Preset,
    overrides: Sequence[presets.Override] = (),
    matrix: ImportanceMatrix | None = None,
    split_size: int | None = None,
    *,
    unchecked: bool = False,
    feedback: Feedback | None = None,
) -> Plan:
    """Give each tensor its type and place under a preset; ``matrix`` has to fit the model.

    Files hold up to ``split_size`` bytes of tensors, or one tensor that is larger. ``unchecked`` plans, to know their
    size, also those that can't be written for want of a matrix: ``Plan.lacking`` tells. ``feedback`` rounds the tensors
    that it can.
    """
    by_name = {tensor.name: tensor for tensor in layout.tensors}
    if len(by_name) != len(layout.tensors):
        raise InputError("two tensors would get the same GGUF name")
    kinds, weights = _kinds(layout, preset, overrides, matrix)
    if not unchecked:
        imatrix.check_needs(kinds, preset, weights if matrix else None)
    placed, full, offset = [], [], 0
    for name in presets.order(by_name):
        mapped = by_name[name]
        row = presets.row_bytes(kinds[name], mapped.shape[-1])
        nbytes = row * (int(np.prod(mapped.shape)) // mapped.shape[-1])
        if split_size and offset and offset + padded(nbytes) > split_size:
            full.append(offset)
            offset = 0
        copied = kinds[name] == layout.stored(mapped) and mapped.source not in layout.changed
        place = Placed(mapped, kinds[name], row, nbytes, offset, weights.get(name), len(full), copied)
        fits = feedback is not None and not copied and feedback.factors.fits(name, mapped.shape, kinds[name])
        placed.append(replace(place, feedback=feedback) if fits else place)
        offset += padded(nbytes)
    if len(full) >= SHARD_LIMIT:
        raise InputError("too many files", found=f"{len(full) + 1:,}", next_step="choose a larger split size")
    entries = [*_entries(layout, preset), *(matrix.entries() if matrix else ())]
    return Plan(layout, preset, entries, placed, [*full, offset])


def _kinds(
    layout: Layout,
    preset: presets.Preset,
    overrides: Sequence[presets.Override],
    matrix: ImportanceMatrix | None,
) -> tuple[dict[str, Q], dict[str, Float32]]:
    """Each tensor's type, and a matrix's values where it has some."""
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    weights = None if matrix is None else matrix.fit(shapes)
    stored = {tensor.name: kind for tensor in layout.tensors if (kind := layout.stored(tensor)) is not None}
    kinds = presets.assign(shapes, preset, layout.model, overrides, matrix=matrix is not None, stored=stored)
    return kinds, weights or {}


def _entries(layout: Layout, preset: presets.Preset) -> list[Entry]:
    types = [
        Entry("general.file_type", int(preset.file_type), U32),
        Entry("general.quantization_version", GGML_QUANT_VERSION, U32),
    ]
    if layout.origin:
        return types
    return [
        Entry("general.architecture", layout.arch, STRING),
        Entry("general.type", "model", STRING),
        Entry("general.name", layout.name, STRING),
        Entry("general.size_label", layout.size_label, STRING),
        *layout.metadata,
        *types,
        *layout.words,
    ]


def _add_keys(path: Path, count: int) -> None:
    """Count keys that were copied behind the writer's own."""
    with path.open("r+b") as file:
        file.seek(KEY_COUNT_AT)
        keys = int.from_bytes(file.read(8), "little") + count
        file.seek(KEY_COUNT_AT)
        file.write(keys.to_bytes(8, "little"))
