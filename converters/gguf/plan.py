"""Everything about a GGUF file that is known before a tensor is read: its keys, types, sizes and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_VERSION, GGUF_DEFAULT_ALIGNMENT, GGUFWriter, size_label
from gguf import GGMLQuantizationType as Q

from edgekit.converters.gguf import families, presets, tokenizers
from edgekit.converters.gguf.family import STRING, U32, Entry, Family, Mapped
from edgekit.converters.gguf.vocabulary import Vocabulary
from edgekit.errors import InputError
from edgekit.tensors import TensorSource


@dataclass(frozen=True)
class Placed:
    """One tensor of one file: where it comes from, the type it gets, its bytes and its offset in the data."""

    mapped: Mapped
    kind: Q
    row_bytes: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class Layout:
    """A model as its family and tokenizer see it; the same for every preset."""

    source: TensorSource
    family: Family
    metadata: Sequence[Entry]
    tensors: Sequence[Mapped]
    vocabulary: Vocabulary
    name: str

    @property
    def parameters(self) -> int:
        """Number of weights, computed tensors left out."""
        return sum(int(np.prod(tensor.shape)) for tensor in self.tensors if tensor.sources)

    @property
    def size_label(self) -> str:
        """Such as ``1.5B``; with experts ``8x7B``, where one expert of each stack counts."""
        stacks = [tensor.shape for tensor in self.tensors if "_exps." in tensor.name]
        one = sum(int(np.prod(shape[1:])) for shape in stacks)
        shared = self.parameters - sum(int(np.prod(shape)) for shape in stacks)
        return str(size_label(self.parameters, shared, one, stacks[0][0] if stacks else 0))


@dataclass(frozen=True)
class Plan:
    """One GGUF file: keys, tensors in llama.cpp's order, and the size of the tensors' bytes."""

    layout: Layout
    preset: presets.Preset
    entries: Sequence[Entry]
    tensors: Sequence[Placed]
    data_bytes: int

    def write_header(self, path: Path) -> int:
        """Write keys and tensor infos to a new file; returns where the tensors' bytes begin."""
        writer = GGUFWriter(path, self.layout.family.ARCH)
        for entry in self.entries:
            if entry.key != "general.architecture":
                writer.add_key_value(entry.key, entry.value, entry.kind)
        for tensor in self.tensors:
            writer.add_tensor_info(
                tensor.mapped.name,
                tensor.mapped.shape,
                np.dtype(np.float32),
                tensor.nbytes,
                raw_dtype=tensor.kind,
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        return _padded(path.stat().st_size)


def lay_out(source: TensorSource, folder: Path, name: str) -> Layout:
    """Map a model to GGUF: from configs and headers alone, before any work starts."""
    family = families.find(source.config, folder / "config.json")
    metadata, tensors = family.metadata(source.config), family.tensors(source)
    families.check_consumed(source, set().union(*(t.sources for t in tensors)), family, folder)
    embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
    vocabulary = tokenizers.read(folder, source.config, embedding.shape[0])
    return Layout(source, family, metadata, tensors, vocabulary, name)


def plan(layout: Layout, preset: presets.Preset, overrides: Sequence[presets.Override] = ()) -> Plan:
    """Give each tensor its type and place under a preset."""
    by_name = {tensor.name: tensor for tensor in layout.tensors}
    if len(by_name) != len(layout.tensors):
        raise InputError("two tensors would get the same GGUF name")
    shapes = {name: tensor.shape for name, tensor in by_name.items()}
    kinds = presets.assign(shapes, preset, layout.family.mixture(layout.source.config), overrides)
    placed, offset = [], 0
    for name in presets.order(by_name):
        mapped = by_name[name]
        row = presets.row_bytes(kinds[name], mapped.shape[-1])
        nbytes = row * (int(np.prod(mapped.shape)) // mapped.shape[-1])
        placed.append(Placed(mapped, kinds[name], row, nbytes, offset))
        offset += _padded(nbytes)
    return Plan(layout, preset, _entries(layout, preset), placed, offset)


def _entries(layout: Layout, preset: presets.Preset) -> list[Entry]:
    return [
        Entry("general.architecture", layout.family.ARCH, STRING),
        Entry("general.type", "model", STRING),
        Entry("general.name", layout.name, STRING),
        Entry("general.size_label", layout.size_label, STRING),
        *layout.metadata,
        Entry("general.file_type", int(preset.file_type), U32),
        Entry("general.quantization_version", GGML_QUANT_VERSION, U32),
        *layout.vocabulary.entries(),
    ]


def _padded(nbytes: int) -> int:
    return -(-nbytes // int(GGUF_DEFAULT_ALIGNMENT)) * int(GGUF_DEFAULT_ALIGNMENT)
