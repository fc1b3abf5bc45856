"""The state beside the output: what is durable, of which input, made how. Written after the data it speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from edgekit.errors import InputError
from edgekit.files import MALFORMED, read_bounded
from edgekit.pipeline.disk import Disk

VERSION: Final = 1


class InputMark(msgspec.Struct, forbid_unknown_fields=True):
    """An input that was begun: how many records up to its last one, and their digest."""

    name: str
    records: int
    digest: str


class FileMark(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The durable length of a file, and the digest of its last bytes."""

    bytes: int = 0
    tail: str = ""


class State(msgspec.Struct, forbid_unknown_fields=True):
    """One per output. ``digest`` covers the first ``done`` records' ids and texts."""

    version: int
    settings: dict[str, str]
    epoch: int
    batching: str = ""
    """Which records the model computes together, in its words."""
    done: int = 0
    digest: str = ""
    inputs: list[InputMark] = []
    out: FileMark = FileMark()
    review: FileMark = FileMark()
    epoch_start: int = 0
    """Where in the output the records of the epoch that is under way begin."""
    errors: dict[str, int] = {}
    reviewed: int = 0
    tokens: int = 0
    calibrated: bool = True
    seconds: float = 0.0
    finished: bool = False


def state_path(out: Path) -> Path:
    """Beside the output, under its name."""
    return out.with_name(f"{out.name}.edgekit-state.json")


def read_state(out: Path) -> State | None:
    """The state of an output, None where there is none; ``InputError`` where it can't be understood."""
    path = state_path(out)
    if not path.exists():
        return None
    again = "run with --restart to begin anew, which replaces the output"
    try:
        data = read_bounded(path, 16 << 20)
        version = msgspec.json.decode(data, type=_Versioned).version
        if version != VERSION:
            raise InputError(
                "made by another version of edgekit",
                path=path,
                found=version,
                expected=VERSION,
                next_step=again,
            )
        return msgspec.json.decode(data, type=State)
    except MALFORMED as error:
        raise InputError("the state is damaged", path=path, found=str(error), next_step=again) from error


class _Versioned(msgspec.Struct):
    version: int


def write_state(disk: Disk, out: Path, state: State) -> None:
    """Replace the state in one step, durably."""
    disk.write_whole(state_path(out), msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")
