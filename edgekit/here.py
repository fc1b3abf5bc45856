"""This machine as the core knows it: the probes joined with what the runtimes say, each asked once."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.caches import recall, remember

if TYPE_CHECKING:
    from edgekit.profiles.machine import Machine
    from edgekit.profiles.structs import Hardware

BANDWIDTHS = "bandwidth.json"
MEASURED = 3


def machine() -> Machine:
    """What probes ask here."""
    from edgekit.profiles.machine import Live
    from edgekit.profiles.questions import questions

    return Live(questions({"runtimes": _runtimes, "bandwidth": _bandwidth}))


@cache
def hardware(*, bandwidth: bool = False) -> Hardware:
    """This machine, probed once in a process; with ``bandwidth`` also measured, at most once in a user's cache."""
    from edgekit.profiles.hardware import probe

    return probe(machine(), bandwidth=bandwidth)


def recorded(path: Path) -> Hardware:
    """A machine from its recording, as ``edgekit profile --record`` writes it."""
    from edgekit.profiles.hardware import probe
    from edgekit.profiles.machine import Recorded

    return probe(Recorded.open(path))


def _runtimes(rest: str) -> list[dict[str, Any]]:
    from edgekit.runtimes.installed import installed

    return installed(cuda_memory=rest == "cuda-memory")


def _bandwidth(rest: str) -> list[float]:
    """Bytes a second that so many threads read, of main memory and of caches.

    Each is the best of three measurements, of which a machine at work spoils some.

    They are remembered by processor, memory and threads; the fourth time nothing is measured.
    """
    from edgekit.profiles import bandwidth, questions

    threads = int(rest or 1)
    memory = questions.memory()
    key = f"{_processor()}, {memory['total'] >> 20} MiB, {threads} threads"
    kept = recall(BANDWIDTHS)
    kept = kept if isinstance(kept, dict) else {}
    before = kept.get(key)
    found = [one for one in before if _is_pair(one)] if isinstance(before, list) else []
    if len(found) < MEASURED:
        found.append([round(one) for one in bandwidth.measure(threads, memory["available"])])
        remember(BANDWIDTHS, kept | {key: found})
    return [float(max(column)) for column in zip(*found, strict=True)]


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(one) is int and one > 0 for one in value)


def _processor() -> str:
    """Its name, by which a measurement is remembered."""
    from edgekit.profiles import linux, macos, windows
    from edgekit.profiles.machine import Live, Unavailable
    from edgekit.profiles.questions import questions

    here = Live(questions({}))
    platform: Any = {"Darwin": macos, "Windows": windows}.get(here.system, linux)
    try:
        return str(platform.cpu_name(here))
    except (Unavailable, OSError, ValueError):
        return here.arch
