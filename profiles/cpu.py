"""How many cores this process may use for arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

_QUOTAS = (Path("/sys/fs/cgroup/cpu.max"), Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"))


def usable_cores() -> int:
    """Physical cores, fewer where the affinity mask or a container's CPU quota says so; at least 1."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else physical
    return max(1, min(physical, allowed, quota(_QUOTAS) or physical))


def quota(files: tuple[Path, Path]) -> int | None:
    """Whole cores of a cgroup's CPU limit (v2's cpu.max, else v1's cfs quota), or None without one."""
    v2, v1 = files
    try:
        if v2.exists():
            limit, period = v2.read_text().split()[:2]
            return None if limit == "max" else max(1, int(limit) // int(period))
        limit_v1 = int(v1.read_text())
        period_v1 = int(v1.with_name("cpu.cfs_period_us").read_text())
        return None if limit_v1 <= 0 else max(1, limit_v1 // period_v1)
    except (OSError, ValueError, ZeroDivisionError):
        return None
