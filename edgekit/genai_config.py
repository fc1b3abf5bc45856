"""genai_config.json: what the ONNX export says of its model, as onnxruntime-genai reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from edgekit.errors import BundleError
from edgekit.files import MALFORMED, read_bounded

FILE: Final = "genai_config.json"


class _Inputs(msgspec.Struct):
    past_key_names: str = ""
    past_value_names: str = ""


class _Outputs(msgspec.Struct):
    logits: str = "logits"
    present_key_names: str = ""
    present_value_names: str = ""


class _Session(msgspec.Struct):
    provider_options: list[dict[str, Any]] = []


class Decoder(msgspec.Struct):
    """The graph's file, its sizes, and how its inputs and outputs are called."""

    filename: str
    num_hidden_layers: int
    num_key_value_heads: int
    head_size: int
    hidden_size: int
    num_attention_heads: int = 0
    inputs: _Inputs = msgspec.field(default_factory=_Inputs)
    outputs: _Outputs = msgspec.field(default_factory=_Outputs)
    session_options: _Session = msgspec.field(default_factory=_Session)

    @property
    def providers(self) -> list[str]:
        """Execution providers that the graph was made for; none: the CPU's."""
        return [name for options in self.session_options.provider_options for name in options]


class _Model(msgspec.Struct):
    context_length: int
    vocab_size: int
    decoder: Decoder
    type: str = ""
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None


class _Search(msgspec.Struct):
    past_present_share_buffer: bool = False


class GenaiConfig(msgspec.Struct):
    """The parts that running the model takes; everything else is left to onnxruntime-genai."""

    model: _Model
    search: _Search = msgspec.field(default_factory=_Search)

    @property
    def eos_ids(self) -> list[int]:
        """Every token that ends an answer."""
        found = self.model.eos_token_id
        return [] if found is None else [found] if isinstance(found, int) else found


def read_config(folder: Path) -> GenaiConfig:
    """Decode and check a folder's genai_config.json; ``BundleError`` names what is wrong."""
    path = folder / FILE
    if not path.is_file():
        raise BundleError("no ONNX model here", path=folder, expected=f"{FILE} beside the graph")
    try:
        config = msgspec.json.decode(read_bounded(path, limit=1 << 20), type=GenaiConfig)
    except MALFORMED as error:
        raise BundleError("the model's configuration is unsound", path=path, found=str(error)) from error
    decoder, model = config.model.decoder, config.model
    if decoder.filename != Path(decoder.filename).name or not decoder.filename.endswith(".onnx"):
        raise BundleError("no plain name of a graph", path=path, found=decoder.filename[:100])
    sizes = (
        decoder.num_hidden_layers, decoder.num_key_value_heads, decoder.head_size, decoder.hidden_size,
        model.context_length, model.vocab_size,
    )  # fmt: skip
    if not all(0 < size < 1 << 24 for size in sizes):
        raise BundleError("the model has impossible sizes", path=path, found=", ".join(map(str, sizes)))
    return config
