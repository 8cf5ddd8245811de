"""How much memory is free, and whether something fits."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from d2st.cache.errors import ConfigError

__all__ = ["choose_memory", "free_ram"]

RAM_SHARE = 0.9  # of what is free, at most
GPU_SHARE = 0.7  # the network, its gradients and activations need the rest


def choose_memory(needed_bytes: int, device: torch.device, *, what: str) -> str:
    """Where `needed_bytes` go: "device" or "ram". Raises ConfigError, which names `what` they are, when they fit in neither."""
    places = []
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if needed_bytes <= GPU_SHARE * free:
            return "device"
        places.append(f"{free / 1e9:.1f} GB are free on {device} (a share of {GPU_SHARE:.0%} may be taken)")
    free = free_ram()
    if needed_bytes <= RAM_SHARE * free:
        return "ram"
    places.append(f"{free / 1e9:.1f} GB of RAM are free (a share of {RAM_SHARE:.0%} may be taken)")
    raise ConfigError(
        f"keeping {what} in memory takes {needed_bytes / 1e9:.1f} GB, but {' and '.join(places)}",
        fix="Train on fewer layers or samples, build an int8 cache (half of the bytes), or leave --in-memory out",
    )


def free_ram() -> int:
    """Bytes that this process may still take: what the system has to spare, or its control group leaves, whichever is less."""
    return min([_system_free(), *_group_free()])


def _system_free() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # macOS does not say; half of it all is a guess


def _group_free(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What each control group around this process leaves, page cache not counted (version 2 and version 1 files)."""
    lines = process.read_text().splitlines() if process.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base = root / controllers
        names = ("memory.max", "memory.current") if not controllers else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        for group in [base / path.strip("/"), *(base / path.strip("/")).parents]:
            limit, usage = group / names[0], group / names[1]
            if limit.is_file() and usage.is_file() and (most := limit.read_text().strip()) != "max":
                yield int(most) - int(usage.read_text()) + _page_cache(group / "memory.stat")


def _page_cache(stat: Path) -> int:
    fields = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    return int(fields.get("inactive_file", 0)) + int(fields.get("active_file", 0))
