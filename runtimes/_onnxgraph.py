"""A graph of onnxruntime-genai's builder in plain onnxruntime: keys and values in buffers of ours, bound once."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import (
    BundleError,
    HardwareError,
    InputError,
    RuntimeUnavailableError,
    UnsupportedModelError,
)
from edgekit.genai_config import GenaiConfig
from edgekit.onnx_header import places, read_tensors
from edgekit.runtimes.engine import Logits

INSTALL: Final = "pip install 'edgekit[onnx]'"
BUFFER: Final = 1 << 24
"""Logits of one call at most: 64 MB, for the graph computes those of every token."""
CHUNK: Final = 512
"""Tokens of a prompt in one call at most."""
_TYPES: Final = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def onnxruntime() -> Any:
    """The package; ``RuntimeUnavailableError`` with what to install where it is missing or doesn't load."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise RuntimeUnavailableError(
            "onnxruntime is missing", found=str(error), next_step=INSTALL
        ) from error
    return onnxruntime


@dataclass
class _Step:
    """One sequence's next token: what is bound, what keeps it alive, and where it goes in and comes out."""

    binding: Any
    kept: list[Any]
    token: NDArray[np.int64]
    position: NDArray[np.int64]
    mask: NDArray[np.int64]
    """Of the whole context, ones as far as the sequence goes: binding one of another length takes longer than the rest."""
    row: NDArray[Any]
    filled: int = 0

    def place(self, token: int, length: int) -> None:
        """What goes in next, behind ``length`` tokens."""
        self.token[0, 0], self.position[0, 0] = token, length
        if length == self.filled:
            self.mask[0, length] = 1
        else:
            self.mask[0, : length + 1], self.mask[0, length + 1 :] = 1, 0
        self.filled = length + 1


class OnnxGraph:
    """One model with room for the keys and values of ``n_seq`` sequences of ``n_ctx`` tokens."""

    def __init__(self, folder: Path, config: GenaiConfig, threads: int, n_seq: int, n_ctx: int) -> None:
        self._ort = onnxruntime()
        self._path = folder / config.model.decoder.filename
        self._config = config
        self._session = self._opened(threads)
        inputs = {one.name: one.type for one in self._session.get_inputs()}
        self._names = self._check(inputs)
        self._positions = "position_ids" in inputs
        decoder = config.model.decoder
        kind = _TYPES[inputs[self._names[0][0]]]
        self.n_vocab: int = config.model.vocab_size
        self.chunk = max(1, min(CHUNK, BUFFER // self.n_vocab))
        # One place more: a sequence that only fills a gap between others writes where nothing is kept.
        shape = (n_seq, decoder.num_key_value_heads, n_ctx + 1, decoder.head_size)
        try:
            self._cache: list[NDArray[Any]] = [np.zeros(shape, kind) for _ in self._names]
        except MemoryError as error:
            raise HardwareError(
                f"no room for {n_seq} sequence(s) of {n_ctx} tokens", path=self._path,
                next_step="ask for a smaller n_ctx or fewer sequences",
            ) from error  # fmt: skip
        self._ones: NDArray[np.int64] = np.ones((1, n_ctx + 1), np.int64)
        self._logits_kind = _TYPES[self._output_type()]
        self._bindings: dict[tuple[int, int], tuple[Any, list[Any]]] = {}
        self._steps: dict[int, _Step] = {}
        self._buffers: dict[tuple[int, int], tuple[Any, NDArray[Any]]] = {}

    def _opened(self, threads: int) -> Any:
        """The session over the very bytes that were looked at; weights are mapped until they are taken over."""
        tensors = read_tensors(self._path)
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        names = places(tensors)
        with ExitStack() as stack:
            maps = []
            for name in names:
                file = stack.enter_context((self._path.parent / name).open("rb"))
                maps.append(stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
            options.add_external_initializers_from_files_in_memory(names, maps, [len(one) for one in maps])
            graph = self._path.read_bytes()
            try:
                return self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise BundleError(
                    "onnxruntime can't load this model", path=self._path, found=str(error)[:500],
                    next_step="build it again, or run `edgekit verify` on the bundle that it came in",
                ) from error  # fmt: skip

    def _check(self, inputs: dict[str, str]) -> list[tuple[str, str]]:
        """The names of keys and values, in and out; a graph that keeps anything else isn't run."""
        decoder, search = self._config.model.decoder, self._config.search
        named = [
            (getattr(decoder.inputs, f"past_{kind}_names"), getattr(decoder.outputs, f"present_{kind}_names"))
            for kind in ("key", "value")
        ]
        try:
            names = [(past % i, now % i) for i in range(decoder.num_hidden_layers) for past, now in named]
        except TypeError:
            names = []
        known = {"input_ids", "attention_mask", "position_ids", *(past for past, _ in names)}
        missing = {"input_ids", "attention_mask", *(past for past, _ in names)} - inputs.keys()
        if not names or missing or inputs.keys() - known or not search.past_present_share_buffer:
            strange = sorted(inputs.keys() - known) or sorted(missing) or ["a cache that isn't kept in place"]
            raise UnsupportedModelError(
                "a graph that edgekit doesn't run", path=self._path, found=", ".join(strange[:3]),
                expected="keys and values in buffers, as GroupQueryAttention keeps them",
                next_step="onnxruntime-genai may run the folder as it is",
            )  # fmt: skip
        if inputs[names[0][0]] not in _TYPES:
            raise UnsupportedModelError(
                "keys and values of a type that edgekit doesn't keep",
                path=self._path,
                found=inputs[names[0][0]],
            )
        return names

    def _output_type(self) -> str:
        name = self._config.model.decoder.outputs.logits
        found = next((one.type for one in self._session.get_outputs() if one.name == name), "")
        if found not in _TYPES:
            raise UnsupportedModelError("a graph without logits", path=self._path, found=found or None)
        return str(found)

    def run(self, first: int, ids: NDArray[np.int64], lengths: Sequence[int]) -> Logits:
        """Append ``ids`` ``(rows, tokens)`` to sequences ``first`` on, which hold ``lengths``; logits of every token.

        The result ``(rows, tokens, n_vocab)`` is valid until the next call. Several rows take one token each.
        """
        rows, count = ids.shape
        binding, _ = self._binding(first, rows)
        held = [length + count for length in lengths]
        total = max(held)
        if rows == 1:
            mask = self._ones[:, :total]
        else:
            mask = (np.arange(total) < np.array(held)[:, None]).astype(np.int64)
        value = self._ort.OrtValue.ortvalue_from_numpy
        kept = [value(ids), value(mask)]
        binding.bind_ortvalue_input("input_ids", kept[0])
        binding.bind_ortvalue_input("attention_mask", kept[1])
        if self._positions:
            kept.append(value(np.array(lengths, np.int64)[:, None] + np.arange(count)))
            binding.bind_ortvalue_input("position_ids", kept[2])
        out, logits = self._buffer(rows, count)
        binding.bind_ortvalue_output(self._config.model.decoder.outputs.logits, out)
        try:
            self._session.run_with_iobinding(binding)
        except RuntimeError as error:
            raise self._failed(error) from error
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def step(self, seq: int, token: int, length: int) -> Logits:
        """See ``rows.Graph``: all that doesn't change from token to token is bound once."""
        one = self._steps.get(seq) or self._step(seq)
        one.place(token, length)
        try:
            self._session.run_with_iobinding(one.binding)
        except RuntimeError as error:
            raise self._failed(error) from error
        return one.row if self._logits_kind is np.float32 else one.row.astype(np.float32)

    def _step(self, seq: int) -> _Step:
        binding, kept = self._bound(seq, 1)
        token, position = np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64)
        # No place more than the context: the graph's table of rotations may have no row for it.
        mask, logits = np.zeros_like(self._ones[:, :-1]), np.empty((1, 1, self.n_vocab), self._logits_kind)
        value = self._ort.OrtValue.ortvalue_from_numpy
        given = {"input_ids": token, "attention_mask": mask} | (
            {"position_ids": position} if self._positions else {}
        )
        for name, array in given.items():
            kept.append(value(array))
            binding.bind_ortvalue_input(name, kept[-1])
        kept.append(value(logits))
        binding.bind_ortvalue_output(self._config.model.decoder.outputs.logits, kept[-1])
        self._steps[seq] = one = _Step(binding, kept, token, position, mask, logits[0])
        return one

    def _failed(self, error: RuntimeError) -> InputError:
        return InputError("onnxruntime could not compute the tokens", path=self._path, found=str(error)[:500])

    def _binding(self, first: int, rows: int) -> tuple[Any, list[Any]]:
        """What is bound for consecutive sequences, kept for the next time."""
        found = self._bindings.get((first, rows))
        if found is None:
            found = self._bindings[first, rows] = self._bound(first, rows)
        return found

    def _bound(self, first: int, rows: int) -> tuple[Any, list[Any]]:
        """Keys and values of consecutive sequences, bound as what goes in and, in the same place, comes out."""
        binding, kept = self._session.io_binding(), []
        for (past, now), array in zip(self._names, self._cache, strict=True):
            value = self._ort.OrtValue.ortvalue_from_numpy(array[first : first + rows])
            binding.bind_ortvalue_input(past, value)
            binding.bind_ortvalue_output(now, value)
            kept.append(value)
        return binding, kept

    def _buffer(self, rows: int, count: int) -> tuple[Any, NDArray[Any]]:
        """Where logits go: one piece of memory for all shapes of a call that came before."""
        found = self._buffers.get((rows, count))
        if found is None:
            if len(self._buffers) >= 64:
                self._buffers.clear()
            array = np.empty((rows, count, self.n_vocab), self._logits_kind)
            found = self._buffers[rows, count] = self._ort.OrtValue.ortvalue_from_numpy(array), array
        return found

    def copy(self, source: int, target: int, length: int) -> None:
        """Keys and values of the first ``length`` tokens."""
        for array in self._cache:
            array[target, :, :length] = array[source, :, :length]
