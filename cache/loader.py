"""The training loader: batches of token maps through a small ring of reused buffers, filled by a few threads.

There are no DataLoader workers, no collation and no cast on the CPU: each of them costs more than reading does. Freshly allocated memory is
page-faulted in, half of the cost of a read; hence the ring.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store

__all__ = ["Batch", "Request", "TokenLoader"]

_TORCH = {"float16": torch.float16, "float32": torch.float32, "uint16": torch.bfloat16}  # bfloat16 is stored as its bits


@dataclass(frozen=True)
class Request:
    """What one batch holds.

    Attributes:
        rows: (B,T) int64, rows of the flat arrays; -1 is padding, and padding is always a suffix of a clip.
        tag: anything; comes back with the batch.
    """

    rows: np.ndarray
    tag: Any = None


@dataclass(frozen=True)
class Batch:
    """One batch on the device. Its tensors are valid until the next batch is asked for.

    Attributes:
        tokens: (B,T,H,W,C) for each layer, in the stored dtype; empty when the loader reads no maps.
        cls: (B,T,C) for each layer.
        mask: (B,T) bool, False for padding, whose values are zero.
    """

    tokens: dict[str, torch.Tensor]
    cls: dict[str, torch.Tensor]
    mask: torch.Tensor
    tag: Any


@dataclass
class _Slot:
    """One place of the ring: a buffer for each array, grown to the largest batch seen."""

    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    copied: "torch.cuda.Event | None" = None


class TokenLoader:
    """Streams batches of a store.

    Args:
        store: an open store with token maps.
        layers: which layers; all cached ones by default.
        device: torch device of the batches.
        threads: reading threads.
        depth: batches that are read ahead.
        maps: False reads CLS tokens alone.
    """

    def __init__(
        self,
        store: Store,
        layers: Sequence[str] | None = None,
        *,
        device: str = "cpu",
        threads: int = 2,
        depth: int = 3,
        maps: bool = True,
    ) -> None:
        self.layers = tuple(layers if layers is not None else store.tokens.layers)
        self.device = torch.device(device)
        kinds = ("maps", "cls") if maps else ("cls",)
        self._readers = {
            f"{layer}/{kind}": ArrayReader(store.tokens.level.path / layer / kind) for layer in self.layers for kind in kinds
        }
        self._maps = maps
        self._threads = threads
        self._ring = [_Slot() for _ in range(depth + 1)]  # one more: the batch in use
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Yield one batch for each request, in order, reading ahead. One stream at a time.

        Raises:
            StoreError: a row is missing or damaged; batches before it were yielded.
        """
        pending: deque[tuple[Request, _Slot, list[Future[None]]]] = deque()
        source = iter(requests)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="d2st-read") as pool:
            try:
                turn = 0
                exhausted = False
                while True:
                    while not exhausted and len(pending) < len(self._ring) - 1:
                        request = next(source, None)
                        if request is None:
                            exhausted = True
                            break
                        slot = self._ring[turn % len(self._ring)]
                        turn += 1
                        pending.append((request, slot, self._submit(pool, request, slot)))
                    if not pending:
                        return
                    request, slot, reads = pending.popleft()
                    for read in reads:
                        read.result()
                    yield self._batch(request, slot)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, request: Request, slot: _Slot) -> list[Future[None]]:
        if slot.copied is not None:  # the device may still be reading these buffers
            slot.copied.synchronize()
            slot.copied = None
        frames = request.rows.size
        reads = []
        for name, reader in self._readers.items():
            buffer = slot.buffers.get(name)
            if buffer is None or len(buffer) < frames:
                buffer = torch.empty(
                    (frames, *reader.frame_shape), dtype=_TORCH[reader.dtype.name], pin_memory=self._copies is not None
                )
                slot.buffers[name] = buffer
            out = _as_numpy(buffer[:frames])  # (B*T, ...)
            flat = request.rows.reshape(-1)
            parts = self._threads if name.endswith("/maps") else 1
            for part in np.array_split(np.arange(frames), min(parts, max(1, frames))):
                reads.append(
                    pool.submit(_fill, reader, flat[part], out[part[0] : part[-1] + 1]) if len(part) else pool.submit(int)
                )
        return reads

    def _batch(self, request: Request, slot: _Slot) -> Batch:
        shape = request.rows.shape
        host = {name: slot.buffers[name][: request.rows.size].unflatten(0, shape) for name in self._readers}  # (B,T,...)
        mask = torch.from_numpy(request.rows >= 0)
        if self._copies is not None:
            with torch.cuda.stream(self._copies):
                host = {name: tensor.to(self.device, non_blocking=True) for name, tensor in host.items()}
                mask = mask.to(self.device)
                slot.copied = torch.cuda.Event()
                slot.copied.record()
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self._copies)
            for tensor in (*host.values(), mask):
                tensor.record_stream(current)
        maps = {layer: host[f"{layer}/maps"] for layer in self.layers} if self._maps else {}
        return Batch(maps, {layer: host[f"{layer}/cls"] for layer in self.layers}, mask, request.tag)


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's memory; bfloat16, which numpy lacks, as its uint16 bits."""
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _fill(reader: ArrayReader, rows: np.ndarray, out: np.ndarray) -> None:
    """Read the rows that exist, zero the padding."""
    valid = rows >= 0
    if valid.all():
        reader.read(rows, out)
        return
    for position in np.flatnonzero(~valid):
        out[position] = 0
    breaks = np.flatnonzero(np.diff(valid.astype(np.int8))) + 1
    for begin, end in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        if valid[begin]:
            reader.read(rows[begin:end], out[begin:end])
