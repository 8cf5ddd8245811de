"""Several processes of one training run, as `torchrun` starts them: who this one is, where it computes, and what part is its own.

Each rank holds the same weights and takes its slice of every batch, and gradients are summed: a step is what it is in one process. What
they say to each other is in `exchange`. Without torchrun there is one rank, and nothing of torch.distributed is touched.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from d2st.cache.device import pick_device
from d2st.cache.errors import ConfigError

__all__ = ["Ranks", "joined", "own_part", "part_bounds", "pick_rank_device"]

TIMEOUT = timedelta(minutes=30)  # a rank that is silent for longer is taken for dead; the first one measures alone at times
LINGER_S = 1.0  # torchrun ends all as soon as one ends; the first rank must have spoken by then


@dataclass(frozen=True)
class Ranks:
    """This process is number `rank` of `size`, and number `local` on its machine."""

    rank: int = 0
    size: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """The rank that writes files, prints and emits events."""
        return self.rank == 0


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end; inside another such block it is that one's."""
    if "RANK" not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
        yield Ranks()
        return
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if dist.is_initialized():
        yield ranks
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    try:
        yield ranks
    except (SystemExit, KeyboardInterrupt):
        if not ranks.first:
            time.sleep(LINGER_S)
        raise
    dist.destroy_process_group()


def pick_rank_device(ranks: Ranks, wanted: str) -> str:
    """A device for each rank: `pick_device` of one process; of several the GPU with the local number, or "cpu".

    Raises:
        ConfigError: one GPU was named for all ranks, or there are fewer GPUs than ranks on this machine.
    """
    if ranks.size == 1 or wanted == "cpu":
        return pick_device(wanted)
    if wanted not in ("auto", "cuda"):
        raise ConfigError(
            f"{ranks.size} processes can't share the device {wanted!r}", fix="Leave out --device, or use cuda or cpu"
        )
    if pick_device(wanted) == "cpu":
        return "cpu"
    if ranks.local >= torch.cuda.device_count():
        raise ConfigError(
            f"process {ranks.local + 1} on this machine has no GPU of its own, there are {torch.cuda.device_count()}",
            fix="Start as many processes as there are GPUs: torchrun --nproc-per-node gpu",
        )
    torch.cuda.set_device(ranks.local)
    return f"cuda:{ranks.local}"


def own_part(ranks: Ranks, count: int) -> slice:
    """This rank's slice of `count` things, as `numpy.array_split` cuts them."""
    begins = part_bounds(ranks, count)
    return slice(begins[ranks.rank], begins[ranks.rank + 1])


def part_bounds(ranks: Ranks, count: int) -> list[int]:
    """Where the ranks' slices of `count` things begin, and the end: `size` + 1 numbers."""
    each, more = divmod(count, ranks.size)
    return [rank * each + min(rank, more) for rank in range(ranks.size + 1)]
