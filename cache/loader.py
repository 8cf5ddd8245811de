"""The training loader: batches of token maps through a small ring of reused buffers, filled by a few threads.

Token sets of the same crops (views: mirrored, brighter) can be mixed in a batch: row r of the v-th view is row r + v * stride.

There are no DataLoader workers, no collation and no cast on the CPU: each of them costs more than reading does. On a GPU the next batch is
copied and decoded while the present one is in use (`upload`).
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from types import TracebackType

import numpy as np
import torch

from d2st.cache.batch import Batch, Decoder, Request
from d2st.cache.buffers import Buffers
from d2st.cache.codec import stored_arrays
from d2st.cache.errors import ConfigError
from d2st.cache.free_memory import choose_memory
from d2st.cache.in_memory import DeviceFrames, KeepingReader, Reader
from d2st.cache.jobs import Job, Slot, begin_job, take
from d2st.cache.order import epoch_order
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store, TokenLevel
from d2st.cache.upload import Uploader
from d2st.cache.views import check_mixable, row_stride

__all__ = ["TokenLoader"]


class TokenLoader:
    """Streams batches of a store. A context manager, which closes its files and frees its memory.

    Args:
        store: an open store with token maps.
        layers: which layers; all cached ones by default.
        device: torch device of the batches.
        threads: reading threads; by default half of the processor's cores, from 2 to 8.
        depth: batches that are read ahead.
        maps: False reads CLS tokens alone.
        in_memory: keep what was read: in the memory of a CUDA device if it fits there, else in RAM.
        frames: how many frames `in_memory` has to expect, over all views; all cached ones by default.
        views: further token sets of the same crops, by name, as `views.open_views` gives them; the store's own is view 0.
        stride: an attribute too: row r of view v is asked for as r + v * stride. By default what the store's rows need by now.

    Raises:
        ConfigError: what `in_memory` would keep does not fit, or the store lacks a layer.
        ConfigError, FingerprintError: a view can't be mixed with the others.
    """

    def __init__(
        self,
        store: Store,
        layers: Sequence[str] | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        depth: int = 3,
        maps: bool = True,
        in_memory: bool = False,
        frames: int | None = None,
        views: Mapping[str, TokenLevel] | None = None,
        stride: int | None = None,
    ) -> None:
        tokens, others = store.tokens, views or {}
        self.layers = tuple(tokens.layers if layers is None else layers)
        self.device = torch.device(device)
        if lacking := [layer for layer in self.layers if layer not in tokens.layers]:
            raise ConfigError(f"the cache has no layer {', '.join(lacking)}", fix=f"It has {', '.join(tokens.layers)}")
        kinds = stored_arrays(tokens.dtype, tokens.grid, tokens.channels) if maps else ("cls",)
        check_mixable(store, others, layers=self.layers)
        self.stride = row_stride([tokens, *others.values()]) if stride is None else stride
        self._sets = (tokens, *others.values())
        self._depth = depth
        self._threads = threads or min(8, max(2, (os.cpu_count() or 2) // 2))
        self._readers: dict[str, Reader] = {
            f"{layer}/{kind}": ArrayReader(
                tokens.array(layer, kind), views=[other.array(layer, kind) for other in others.values()], stride=self.stride
            )
            for layer in self.layers
            for kind in kinds
        }
        self._decode = Decoder(self.layers, maps=maps, calibration=tokens.calibration, device=self.device)
        self._kept: DeviceFrames | None = None
        if in_memory:
            self._keep_in_memory(frames)
        self._uploader = Uploader(self.device) if self.device.type == "cuda" else None
        self._ring = [Slot(Buffers(pinned=self._uploader is not None)) for _ in range(depth + 1)]  # one more: the one in use
        self._decoded = Buffers()
        self._streaming = False

    def epoch(
        self, rows: np.ndarray, batch_size: int, *, seed: int, epoch: int, rank: int = 0, ranks: int = 1, start_batch: int = 0
    ) -> Iterator[Batch]:
        """A whole epoch of clips, shuffled; `Batch.tag` holds the positions (B,) in `rows`.

        Args:
            rows: (N,T) a clip each, as in `Request`.
            seed, epoch, rank, ranks: as in `order.epoch_order`: every rank gets equally many batches.
            start_batch: how many batches of this rank are done already. The last batch of an epoch may be smaller.
        """
        order = epoch_order(len(rows), seed=seed, epoch=epoch, rank=rank, ranks=ranks, start=start_batch * batch_size)
        parts = (order[begin : begin + batch_size] for begin in range(0, len(order), batch_size))
        return self.stream(Request(rows[part], part) for part in parts)

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Yield one batch for each request, in order, reading ahead. One stream at a time; leaving it ends its threads.

        Raises:
            StoreError: a row is missing or damaged; batches before it were yielded.
        """
        if self._streaming:
            raise RuntimeError("this loader is streaming already: end that stream first, or make another loader")
        self._streaming = True
        jobs: deque[Job] = deque()
        source, slots = iter(requests), cycle(self._ring)
        reading = ThreadPoolExecutor(self._threads, thread_name_prefix="d2st-read")
        copying = ThreadPoolExecutor(1, thread_name_prefix="d2st-copy")
        try:
            while True:
                if self._uploader is not None:
                    self._uploader.release()
                while len(jobs) < self._depth and (request := next(source, None)) is not None:
                    jobs.append(self._begin(reading, request, next(slots)))
                if not jobs:
                    return
                yield (
                    self._on_host(jobs.popleft()) if self._uploader is None else self._on_device(self._uploader, copying, jobs)
                )
        finally:
            reading.shutdown(wait=True, cancel_futures=True)
            copying.shutdown(wait=True, cancel_futures=True)
            if self._uploader is not None:
                self._uploader.finish()
            self._streaming = False

    def close(self) -> None:
        """Close the files and free the memory; the loader may not be used again."""
        for reader in self._readers.values():
            reader.close()
        self._kept = None
        self._ring, self._decoded = [], Buffers()

    def __enter__(self) -> "TokenLoader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _keep_in_memory(self, frames: int | None) -> None:
        rows = len(self._sets) * self.stride
        if frames is None:
            ledgers = [tokens.levels[0].rows() for tokens in self._sets]
            frames = sum(int(ledger["frames"].filter(ledger["reason"].is_null()).sum()) for ledger in ledgers)
        needed = frames * sum(reader.frame_bytes for reader in self._readers.values())
        if choose_memory(needed, self.device, what=f"{frames:,} frames of {len(self.layers)} layers") == "device":
            self._kept = DeviceFrames(self._readers, rows=rows, frames=frames, device=self.device)
        else:
            self._readers = {name: KeepingReader(reader, rows=rows, frames=frames) for name, reader in self._readers.items()}

    def _begin(self, pool: ThreadPoolExecutor, request: Request, slot: Slot) -> Job:
        rows = request.rows.reshape(-1)  # (B*T,)
        if self._kept is not None:
            rows = self._kept.missing(rows)
        return begin_job(pool, self._threads, request, rows, self._readers, slot)

    def _on_host(self, job: Job) -> Batch:
        job.wait()
        return self._decode(job.request, job.host, torch.from_numpy(job.request.rows >= 0), self._decoded)

    def _on_device(self, uploader: Uploader, thread: ThreadPoolExecutor, jobs: deque[Job]) -> Batch:
        job = jobs.popleft()
        for each in (job, *list(jobs)[:1]):  # this one, unless it is under way, and the next
            if each.upload is None:
                each.upload = uploader.submit(thread, lambda buffers, each=each: self._copy(each, buffers))
        assert job.upload is not None
        upload = job.upload.result()
        return uploader.deliver(upload, [upload.made.mask, *upload.made.tokens.values(), *upload.made.cls.values()])

    def _copy(self, job: Job, buffers: Buffers) -> Batch:
        """On the copy stream, in its thread."""
        job.wait()
        rows = job.request.rows.reshape(-1)
        arrays = take(buffers, self._readers, len(rows))
        mask, pinned = (each.take("mask", len(rows), (), torch.bool) for each in (buffers, job.slot.buffers))
        pinned.copy_(torch.from_numpy(rows >= 0))
        mask.copy_(pinned, non_blocking=True)
        if self._kept is not None:
            self._kept.gather(rows, job.rows, job.host, arrays)
        else:
            for name, array in arrays.items():
                array.copy_(job.host[name], non_blocking=True)
        job.slot.copied = torch.cuda.current_stream(self.device).record_event()
        return self._decode(job.request, arrays, mask.view(job.request.rows.shape), buffers)
