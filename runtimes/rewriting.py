"""A model whose weights are changed in memory and put back: what one tensor's rounding does, without loading again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import RuntimeUnavailableError
from edgekit.runtimes import _ggmltensor, _llamalib
from edgekit.runtimes._ggmltensor import Tensor
from edgekit.runtimes.activations import plain_name
from edgekit.runtimes.engine import Run
from edgekit.runtimes.llamacpp import LlamaCppEngine, LlamaCppOptions

Bytes = NDArray[np.uint8]


class Rewritable:
    """A model in memory, on the CPU; closed with ``close``."""

    def __init__(self, path: Path, options: LlamaCppOptions) -> None:
        self._layout = _ggmltensor.layout()
        self._places: dict[str, dict[int, int]] = {}
        self._failure: BaseException | None = None
        # Kept for as long as the engine may call it.
        self._callback = _llamalib.load().ggml_backend_sched_eval_callback(self._heard)
        self._found = False
        self.options = replace(options, writable=True, on_node=self._callback)
        self.engine = LlamaCppEngine(path, self.options)

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def find(self) -> None:
        """Run a token through, to learn where the weights are."""
        self.engine.clear()
        self.engine.decode([Run(0, [0], range(1))])
        self.engine.clear()
        self._found = True
        if self._failure is not None:
            raise self._failure

    def _heard(self, address: int, ask: bool, _data: object) -> bool:
        """Look at the sources of every node when asked about it; no node has to be shown."""
        if ask and not self._found and self._failure is None:
            try:
                for source in Tensor.from_address(address).src:
                    if source:
                        self._note(source)
            except BaseException as error:  # noqa: BLE001 - C calls this: raised once decode has returned
                self._failure = error
        return False

    def _note(self, address: int) -> None:
        tensor = Tensor.from_address(address)
        name = plain_name(tensor.name.decode("utf-8", "replace"))
        if name.endswith(".weight") and tensor.data and not tensor.op and self._layout.is_host(tensor):
            nbytes = self._layout.library.ggml_nbytes(address)
            self._places.setdefault(name, {})[tensor.data] = nbytes

    @contextmanager
    def changed(self, values: Mapping[str, Bytes]) -> Iterator[None]:
        """Put other bytes in place of some weights'; they are as before afterwards."""
        kept: list[tuple[Bytes, Bytes]] = []
        try:
            for name, data in values.items():
                for place in self._memory(name, data.size):
                    kept.append((place, place.copy()))
                    place[...] = data
            yield
        finally:
            for place, before in kept:
                place[...] = before

    def _memory(self, name: str, nbytes: int) -> Sequence[Bytes]:
        places = self._places.get(name, {})
        if not places or any(size != nbytes for size in places.values()):
            raise RuntimeUnavailableError(
                f"llama.cpp doesn't show where it keeps {name}",
                found=f"{sorted(places.values())} bytes",
                expected=f"{nbytes:,} bytes in this process's memory",
                next_step="choose a quantization by name, such as -q Q4_K_M",
            )
        return [np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(at)) for at in places]
