"""What containers and jobs may use: Linux's control groups, both versions, the tightest of all ancestors.

https://docs.kernel.org/admin-guide/cgroup-v2.html and cgroup-v1/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgekit.profiles.machine import Machine, Unavailable, number, span

UNLIMITED: Final = 1 << 60
"""Version 1 says "no limit" by a number near 2**63."""


@dataclass(frozen=True)
class Group:
    """A controller's folder of this process and those above it, innermost first, and whose layout they have."""

    version: int
    folders: tuple[str, ...]


def groups(machine: Machine) -> dict[str, Group]:
    """Where this process's limits are: by controller (cpu, cpuset, memory)."""
    mounts = list(_mounts(machine))
    found: dict[str, Group] = {}
    for line in machine.read("/proc/self/cgroup").splitlines():
        number_, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        for kind, names, root, place in mounts:
            if number_ == "0" and not controllers and kind == "cgroup2":
                group = Group(2, _chain(root, place, path))
                for name in ("cpu", "cpuset", "memory"):
                    found.setdefault(name, group)
            elif kind == "cgroup" and controllers:
                for name in set(controllers.split(",")) & names & {"cpu", "cpuset", "memory"}:
                    found[name] = Group(1, _chain(root, place, path))
    return found


def _mounts(machine: Machine) -> Iterator[tuple[str, set[str], str, str]]:
    """(cgroup or cgroup2, controllers, root inside the hierarchy, mount point) of every mounted hierarchy."""
    for line in machine.read("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, kinds = head.split(), tail.split()
        if len(fields) >= 5 and len(kinds) >= 3 and kinds[0] in ("cgroup", "cgroup2"):
            yield kinds[0], set(kinds[2].split(",")), fields[3], fields[4]


def _chain(root: str, place: str, path: str) -> tuple[str, ...]:
    """The group's folder as this process sees it, and all above it up to the mount point."""
    inside = path[len(root.rstrip("/")) :] if path == root or path.startswith(root.rstrip("/") + "/") else ""
    parts = [part for part in inside.split("/") if part and part != ".."]
    return tuple("/".join([place, *parts[:count]]) for count in range(len(parts), -1, -1))


def cpu_quota(machine: Machine, group: Group) -> float | None:
    """CPUs' worth of time, the least of all groups; None without a limit."""
    found = []
    for folder in group.folders:
        if group.version == 2:
            quota = _words(machine, f"{folder}/cpu.max")
            limit, period = (quota + ["100000"])[:2] if quota else ("max", "1")
        else:
            limit = (_words(machine, f"{folder}/cpu.cfs_quota_us") or ["-1"])[0]
            period = (_words(machine, f"{folder}/cpu.cfs_period_us") or ["100000"])[0]
        if limit == "max" or limit.startswith("-"):
            continue
        if not limit.isdigit() or not period.isdigit() or int(period) == 0:
            raise Unavailable(f"{folder} holds a CPU limit of {limit[:20]!r} in {period[:20]!r}")
        found.append(int(limit) / int(period))
    return min(found, default=None)


def cpuset(machine: Machine, group: Group) -> list[int] | None:
    """The CPUs that the group may run on; None where it doesn't say."""
    names = ("cpuset.cpus.effective", "cpuset.cpus") if group.version == 2 else (
        "cpuset.effective_cpus", "cpuset.cpus")  # fmt: skip
    for folder in group.folders:
        for name in names:
            if words := _words(machine, f"{folder}/{name}"):
                return span(words[0])
    return None


def memory_limit(machine: Machine, group: Group) -> tuple[int, int] | None:
    """(limit, what may still be taken) in bytes where the least is left; None without a limit."""
    found = []
    for folder in group.folders:
        names = ("memory.max", "memory.high") if group.version == 2 else ("memory.limit_in_bytes",)
        limits = []
        for name in names:
            words = _words(machine, f"{folder}/{name}")
            if words and words[0] != "max":
                limits.append(number(machine, f"{folder}/{name}"))
        limits = [limit for limit in limits if limit < UNLIMITED]
        if limits:
            found.append((min(limits), max(0, min(limits) - _used(machine, folder, group.version))))
    if not found:
        return None
    return min(limit for limit, _ in found), min(left for _, left in found)


def _used(machine: Machine, folder: str, version: int) -> int:
    """Bytes that the kernel wouldn't give back: pages of files that nobody used lately don't count."""
    total = number(machine, f"{folder}/memory.{'current' if version == 2 else 'usage_in_bytes'}")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    for line in machine.read(f"{folder}/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return max(0, total - int(value))
    return total


def _words(machine: Machine, path: str) -> list[str]:
    """A file's words; none where it isn't there: the root group has no limits, and not every kernel every file."""
    try:
        return machine.read(path).split()
    except FileNotFoundError:
        return []
