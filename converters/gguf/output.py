"""The files of one model while they are filled: headers first, then rows in their places, from any thread."""

from __future__ import annotations

import os
from pathlib import Path

from edgekit.converters.gguf.plan import Placed, Plan
from edgekit.errors import InputError


class Output:
    """One model's files: their sizes are reserved at once, so a full disk is known at the start."""

    def __init__(self, plan: Plan, path: Path) -> None:
        self.plan, self.paths = plan, plan.paths(path)
        self._starts: list[int] = []
        self._descriptors: list[int] = []
        try:
            for shard, one in enumerate(self.paths):
                self._open(shard, one)
        except BaseException:
            self.close()
            raise

    def _open(self, shard: int, path: Path) -> None:
        try:
            self._starts.append(self.plan.write_header(path, shard))
            self._descriptors.append(os.open(path, os.O_RDWR))
            _reserve(self._descriptors[-1], self._starts[-1] + self.plan.shards[shard])
        except OSError as error:
            raise _disk_error(path, error) from error

    def write(self, tensor: Placed, row: int, data: memoryview) -> None:
        """Put quantized rows in their place; safe from several threads."""
        offset, done = self._starts[tensor.shard] + tensor.offset + row * tensor.row_bytes, 0
        descriptor = self._descriptors[tensor.shard]
        try:
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], offset + done)
        except OSError as error:
            raise _disk_error(self.paths[tensor.shard], error) from error

    def close(self) -> None:
        """Close the files; they are left to the caller."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _reserve(descriptor: int, size: int) -> None:
    """Allocate the whole file where the system can, else only set its size."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    os.ftruncate(descriptor, size)


def _disk_error(path: Path, error: OSError) -> InputError:
    return InputError(
        "writing failed",
        path=path,
        found=error.strerror,
        next_step="free space on the disk, or choose another one",
    )
