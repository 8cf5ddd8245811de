"""How much memory a step takes at its peak, and how much there is: what decides how many trials live and are computed at once."""

import ctypes
from pathlib import Path

import torch

from d2st.adapter.train.trainer import Trainer
from d2st.cache.free_memory import free_ram

__all__ = ["Peak", "free_bytes", "is_out_of_memory", "kept_bytes", "used_bytes"]

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Peak:
    """What is taken at the peak, beyond what was taken when it was made.

    On the CPU by the resident memory of this process, on Linux; elsewhere nothing is known. The allocator's free pages are given back
    first: what was taken out of them would not be seen.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif CLEAR.exists():
            if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:  # glibc's
                trim(0)
            CLEAR.write_text("5")  # the high-water mark begins anew
        self._before = used_bytes(device)

    def bytes(self) -> int | None:
        """Bytes, or None where the system does not say."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        return max(0, _status("VmHWM") - self._before) if CLEAR.exists() else None


def used_bytes(device: torch.device) -> int:
    """What tensors on a GPU take now; on the CPU the resident memory of this process, 0 where the system does not say."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _status("VmRSS")


def free_bytes(device: torch.device) -> int:
    """Memory that computations on a device may still take."""
    if device.type != "cuda":
        return free_ram()
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def kept_bytes(trainer: Trainer) -> int:
    """What a trial keeps between its steps: weights, gradients, both moments of AdamW, averages where it has them."""
    copies = 4 + (trainer.ema is not None)
    return copies * sum(parameter.numel() * parameter.element_size() for parameter in trainer.parameters)


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA's own error, or what the allocator of the CPU raises."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _status(field: str) -> int:
    if not STATUS.exists():
        return 0
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
