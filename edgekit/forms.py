"""The formats that artifacts come in, told by the ending of their first file, and what files belong to one."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, get_args

Form = Literal["gguf", "onnx", "gptq", "awq"]
FORMS: Final = get_args(Form)
ENDINGS: Final[dict[str, str]] = {
    "gguf": ".gguf",
    "onnx": ".onnx",
    "gptq": ".safetensors",
    "awq": ".safetensors",
}
"""How an artifact of a format ends."""
FOLDERS: Final = frozenset({"onnx", "gptq", "awq"})
"""Formats that are folders, under their own name in a bundle."""


def is_gguf(place: Path) -> bool:
    """Whether llama.cpp runs it; the others are folders of several files, an artifact the first of them."""
    return place.suffix not in (".onnx", ".safetensors")


def is_onnx(place: Path) -> bool:
    """Whether an artifact is an ONNX graph, beside which its weights and words lie."""
    return place.suffix == ".onnx"


def files_of(place: Path) -> list[Path]:
    """All files of an artifact, the first one first."""
    if is_gguf(place):
        from edgekit.gguf_shards import read_shards

        return [part for part, _ in read_shards(place)]
    if is_onnx(place):
        return _onnx_files(place)
    from edgekit.packed_folder import read_packed

    return read_packed(place).files


def context_of(place: Path) -> int:
    """Tokens that the model of a folder format takes at most."""
    if is_onnx(place):
        from edgekit.genai_config import read_config

        return read_config(place.parent).model.context_length
    from edgekit.packed_folder import read_packed

    return read_packed(place).context


def _onnx_files(graph: Path) -> list[Path]:
    """The graph, its weights, and what else a runtime reads of its folder."""
    from edgekit.genai_config import FILE
    from edgekit.onnx_header import places, read_tensors

    words = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    names = [graph.name, *places(read_tensors(graph)), FILE, *words]
    return [path for name in dict.fromkeys(names) if (path := graph.parent / name).is_file()]
