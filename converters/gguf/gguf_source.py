"""A GGUF model as the base of a build: its rows as float32, its keys as they are, its modules by checkpoint names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Q

from edgekit.converters.dtypes import Bytes, scratch
from edgekit.converters.gguf import ggml, mixture, presets
from edgekit.errors import InputError, UnsupportedModelError
from edgekit.gguf_header import GgufArray, GgufTensor
from edgekit.gguf_shards import read_shards
from edgekit.openfile import OpenFile
from edgekit.tensors import ALL, Float32, TensorInfo, span, turned

ROTATED = frozenset({"llama", "granite", "smollm3"})
"""Architectures whose q and k rows GGUF holds as the interleaved pairs that llama.cpp rotates."""
PLAIN = frozenset({"qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "phi3"})
"""Architectures whose linear layers GGUF holds as the checkpoint has them."""
OWN_RULES = frozenset({"glm5-next", "bailingmoe3"})
"""llama.cpp quantizes these by rules of their own."""

_MODULES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_qkv": "self_attn.qkv_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_SOUND = frozenset({Q.F32, Q.F16, Q.BF16, Q.Q8_0})


class GgufSource:
    """A GGUF model's tensors as a ``TensorSource``; with ``merging`` under the names that adapters know."""

    def __init__(self, path: Path, *, merging: bool = False) -> None:
        self.path = path
        self.ggml = ggml.load()
        parts = read_shards(path)
        self.header = parts[0][1]
        self.arch = self._architecture()
        self.files: list[OpenFile] = []
        self._places: dict[str, tuple[OpenFile, GgufTensor]] = {}
        try:
            for part, header in parts:
                self.files.append(OpenFile(part, "the GGUF file"))
                self._places |= {tensor.name: (self.files[-1], tensor) for tensor in header.tensors}
            self._check_types()
        except BaseException:
            self.close()
            raise
        self.model = presets.Model(
            self.count("block_count"),
            self.count("attention.head_count"),
            self.count("attention.head_count_kv", self.count("attention.head_count")),
            self.count("expert_count", 0),
            self.arch,
        )
        self._gguf_names = {name: name for name in self._places}
        if merging:
            self._gguf_names = {self._checkpoint_name(name): name for name in self._places}
            if len(self._gguf_names) < len(self._places):
                raise InputError("two tensors stand for one of the checkpoint's", path=path)
        self.config: Mapping[str, Any] = self._config()

    @property
    def data_bytes(self) -> int:
        """Bytes of all its tensors as they are stored."""
        return sum(tensor.nbytes for _, tensor in self._places.values())

    def _architecture(self) -> str:
        keys = self.header.keys
        arch, kind = keys.get("general.architecture"), keys.get("general.type", "model")
        if kind != "model" or not isinstance(arch, str):
            raise InputError("not a GGUF model", path=self.path, found=f"{kind}, {arch}", expected="a model")
        if arch in OWN_RULES:
            raise UnsupportedModelError(
                "llama.cpp quantizes this architecture by rules of its own",
                path=self.path,
                found=arch,
                next_step="quantize it with llama-quantize",
            )
        return arch

    def _check_types(self) -> None:
        if "token_embd.weight" not in self._places:
            raise InputError("a GGUF file without a model's weights", path=self.path, expected="tensors")
        for name, (_, tensor) in self._places.items():
            if mixture.is_quantized(name, _shape(tensor)) and not self.ggml.widens(Q[tensor.kind]):
                raise UnsupportedModelError(
                    f"tensor {name!r} can't be turned into numbers again", path=self.path, found=tensor.kind
                )

    def count(self, key: str, default: int | None = None) -> int:
        """A count of the architecture's keys, of the first layer where each layer has one."""
        value = self.header.keys.get(f"{self.arch}.{key}", default)
        if isinstance(value, GgufArray):
            value = value.first[0] if value.first else None
        if type(value) is not int or not 0 <= value < 1 << 31:
            raise InputError(
                f"{self.arch}.{key} is unsound", path=self.path, found=value, expected="a whole number"
            )
        return value

    def _config(self) -> dict[str, Any]:
        """What the rest of a build asks of config.json."""
        size, heads = self.count("embedding_length"), self.model.heads
        return {
            "model_type": self.arch,
            "tie_word_embeddings": "output.weight" not in self._places,
            "num_hidden_layers": self.model.layers,
            "num_attention_heads": max(1, heads),
            "num_key_value_heads": self.model.kv_heads,
            "hidden_size": size,
            "head_dim": self.count("attention.key_length", size // max(1, heads)),
            "intermediate_size": self.count("feed_forward_length", 4 * size),
            "vocab_size": _shape(self._places["token_embd.weight"][1])[0],
            "max_position_embeddings": self.count("context_length"),
        }

    def _checkpoint_name(self, name: str) -> str:
        if self.arch not in ROTATED | PLAIN:
            raise UnsupportedModelError(
                "adapters aren't merged into a GGUF model of this architecture",
                path=self.path,
                found=self.arch,
                expected=", ".join(sorted(ROTATED | PLAIN)),
                next_step="build from the checkpoint: GGUF may hold its weights in another layout",
            )
        match = _LAYER.fullmatch(name)
        if not match or match[2] not in _MODULES:
            return _TOP.get(name, name)
        module = _MODULES[match[2]]
        if self.arch == "phi3" and match[2] == "ffn_up":
            module = "mlp.gate_up_proj"
        return f"model.layers.{match[1]}.{module}.{match[3]}"

    def unit(self, name: str) -> int:
        """Rows of a head where GGUF holds them in another order than the checkpoint, else 1."""
        match = _LAYER.fullmatch(self.gguf_name(name))
        merging = self._gguf_names.get(name) != name
        if not merging or not match or match[2] not in {"attn_q", "attn_k"} or self.arch not in ROTATED:
            return 1
        return int(self.config["head_dim"])

    def gguf_name(self, name: str) -> str:
        """GGUF's name of a tensor; the head that a merge unties has one too."""
        return self._gguf_names.get(name, "output.weight")

    def stored(self, name: str) -> Q | None:
        """The type that a tensor has in the file; None for one that a merge adds."""
        return Q[self._places[self._gguf_names[name]][1].kind] if name in self._gguf_names else None

    def names(self) -> Sequence[str]:
        return tuple(self._gguf_names)

    def info(self, name: str) -> TensorInfo:
        tensor = self._places[self._gguf_names[name]][1]
        return TensorInfo(tensor.kind, _shape(tensor))

    def raw(self, name: str, rows: slice = ALL) -> Bytes:
        """The bytes of some rows as they are stored, in this thread's scratch."""
        file, tensor = self._places[self._gguf_names[name]]
        offset, nbytes = self._range(name, rows)
        data = scratch(nbytes)
        file.read_into(tensor.offset + offset, data.data)
        return data

    def read(self, name: str, rows: slice = ALL, out: Float32 | None = None) -> Float32:
        info, unit = self.info(name), self.unit(name)
        start, stop = span(rows, info.rows)
        if out is None:
            out = np.empty(info.part(stop - start), np.float32)
        first, last = start // unit * unit, -(-stop // unit) * unit
        whole = out if (first, last) == (start, stop) else np.empty(info.part(last - first), np.float32)
        self.ggml.widen(Q[info.dtype], self.raw(name, slice(first, last)), whole)
        if unit > 1:
            heads = whole.reshape(-1, unit // 2, 2, *whole.shape[1:])
            whole = np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(whole.shape)
        if whole is not out:
            out[...] = whole[start - first : stop - first]
        return out

    def read_columns(self, name: str, columns: slice = ALL, out: Float32 | None = None) -> Float32:
        return turned(self, name, columns, out)

    def prefetch(self, name: str, rows: slice = ALL) -> None:
        file, tensor = self._places[self._gguf_names[name]]
        offset, nbytes = self._range(name, rows)
        file.prefetch(tensor.offset + offset, nbytes)

    def _range(self, name: str, rows: slice) -> tuple[int, int]:
        tensor, info = self._places[self._gguf_names[name]][1], self.info(name)
        start, stop = span(rows, info.rows)
        # Of a vector, rows are elements; if it is stored in blocks, it is read whole.
        return start * tensor.nbytes // info.rows, (stop - start) * tensor.nbytes // info.rows

    def keys(self, without: Sequence[str]) -> tuple[int, bytes]:
        """All keys but some (and those about splitting) as the file has them: their number, and their bytes."""
        left_out = ("split.", "general.alignment", *without)
        kept = [spot for key, spot in self.header.spans.items() if not key.startswith(left_out)]
        pieces = []
        for begin, end in kept:
            piece = bytearray(end - begin)
            self.files[0].read_into(begin, memoryview(piece))
            pieces.append(bytes(piece))
        return len(kept), b"".join(pieces)

    def notes(self) -> list[str]:
        """What a person should know about this base."""
        kinds = {
            tensor.kind
            for name, (_, tensor) in self._places.items()
            if mixture.is_quantized(name, _shape(tensor)) and Q[tensor.kind] not in _SOUND
        }
        notes = [
            "the tokenizer comes from the GGUF base as it is: there is no tokenizer.json to prove it against"
        ]
        if kinds:
            notes.append(
                f"the base is quantized already ({', '.join(sorted(kinds))}): quantizing it again adds to its error; "
                "better start from F16, BF16 or Q8_0"
            )
        return notes

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()


def _shape(tensor: GgufTensor) -> tuple[int, ...]:
    """numpy's shape: rows first."""
    return tuple(reversed(tensor.dimensions))
