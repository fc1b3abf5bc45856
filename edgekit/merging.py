"""The merged checkpoint: base and adapters as one model in safetensors, streamed; what other tools and converters take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgekit import room
from edgekit.atomic import atomic_folder, check_free
from edgekit.errors import InputError
from edgekit.overlay import overlay
from edgekit.progress import Progress

if TYPE_CHECKING:
    from edgekit.converters.lora import Merged

DTYPES: Final = ("F32", "F16", "BF16")
SHARD_BYTES: Final = 5 * 10**9


@dataclass(frozen=True)
class MergedCheckpoint:
    """What was written: bytes of the weights, their files, and how many tensors the adapters changed."""

    folder: Path
    parameters: int
    size: int
    shards: int
    changed: int
    seconds: float


@contextmanager
def _opened(
    base: Path, adapters: Sequence[tuple[Path, float]]
) -> Iterator[tuple[Merged, Path, Sequence[str]]]:
    """The merge, where the tokenizer's files are, and notes; everything is checked, nothing read."""
    from edgekit.converters.adapter import Adapter
    from edgekit.converters.lora import Merged
    from edgekit.converters.text_model import TextModel, open_model

    if base.is_file():
        raise InputError(
            "a merge takes a checkpoint", path=base, found="a file",
            expected="a folder with config.json and safetensors",
            next_step="edgekit build merges into a .gguf file: --quant F16 keeps it unquantized",
        )  # fmt: skip
    with ExitStack() as stack:
        source = open_model(base)
        stack.callback(source.close)
        opened = []
        for folder, weight in adapters:
            adapter = Adapter(folder)
            stack.callback(adapter.close)
            opened.append((adapter, weight))
        merged, words = Merged(source, opened), base
        if merged.tokenizer:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgekit-")))
            words = overlay(base, merged.tokenizer, folder)
        notes = [*(source.notes if isinstance(source, TextModel) else []), *merged.notes]
        yield merged, words, notes


def merge(
    base: Path,
    adapters: Sequence[tuple[Path, float]],
    out: Path,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> MergedCheckpoint:
    """Write base and adapters to the folder ``out`` as one checkpoint that transformers loads; all of it, or nothing.

    Tensors keep the base's dtype unless ``dtype`` (F32, F16, BF16) is given; memory holds some rows for each thread. The
    same inputs give the same bytes. Raises the errors of ``edgekit.errors``; a folder that exists is replaced with ``force``.
    """
    from edgekit.converters import save
    from edgekit.profiles.cpu import usable_cores

    progress, began = progress or Progress(), time.perf_counter()
    check_free(out, force=force)
    with _opened(base, adapters) as (merged, words, notes):
        for note in notes:
            progress.note(note)
        shards = save.plan(merged, dtype, shard_bytes)
        room.check(out.parent, save.nbytes(shards))
        parameters = sum(merged.info(name).size for name in merged.names())
        progress.stage("merging" if adapters else "writing", parameters)
        with atomic_folder(out, force=force) as folder:
            try:
                save.save(
                    merged, words, folder, dtype=dtype, shard_bytes=shard_bytes,
                    threads=threads or usable_cores(), report=progress.advance,
                )  # fmt: skip
            except OSError as error:
                raise room.disk_error(error, out) from error
        changed, seconds = len(merged.changed), time.perf_counter() - began
        return MergedCheckpoint(out, parameters, save.nbytes(shards), len(shards), changed, seconds)
