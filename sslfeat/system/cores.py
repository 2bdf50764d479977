"""Cores and memory available to this process."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def available_cores() -> int:
    """Number of cores available to this process: its CPU affinity, limited by the quota of a container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, min(allowed, math.ceil(quota))) if quota else allowed


def cgroup_quota(root: Path = CGROUP) -> float | None:
    """CPU quota of the control group, in cores; None if there is no limit or no control group."""
    try:
        limit, period = (root / "cpu.max").read_text().split()  # version 2
    except (OSError, ValueError):
        try:
            limit = (root / "cpu/cpu.cfs_quota_us").read_text().strip()  # version 1; -1: no limit
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(limit) / int(period) if limit.isdigit() and int(limit) > 0 else None


def available_memory() -> int:
    """Bytes of memory available to this process: that of the machine, limited by a container."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 << 30
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            free = min(free, int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text()))
    return max(free, 0)


@functools.cache
def processor() -> str:
    """Model name of the processor, or at least its architecture."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}  # of the first core
    model = facts.get("model name") or " ".join(facts.get(f"CPU {part}", "") for part in ("implementer", "part", "variant"))
    return " ".join(model.split()) or platform.machine()


def one_thread_each() -> None:
    """Limit numerical libraries to one thread each; call it before they are loaded.

    Also makes Arrow use the system allocator, because its own does not return unused memory.
    """
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
