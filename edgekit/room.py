"""Room on the disk that bundles go to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edgekit.errors import InputError
from edgekit.files import real


def check(out: Path, nbytes: int) -> None:
    """The size is known beforehand: refuse a disk that can't hold it before working for minutes."""
    place = real(out)
    while not place.exists():
        place = place.parent
    needed = nbytes + (64 << 20)
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(
            "not enough room for the bundles",
            path=out,
            found=f"{free / 1e9:.2f} GB free",
            expected=f"{needed / 1e9:.2f} GB",
            next_step="free space, or choose another folder with -o",
        )


def disk_error(error: OSError, out: Path) -> InputError:
    """What the system refused while a bundle was written."""
    return InputError(
        "writing the bundle failed",
        path=error.filename or out,
        found=os.strerror(error.errno) if error.errno else str(error),
        next_step="free space on the disk, or choose another folder with -o",
    )
