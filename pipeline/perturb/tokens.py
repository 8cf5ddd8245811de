"""Token maps of changed crops behind the interface of `cache.TokenLoader`: read, changed, encoded and decoded on the way to the detector.

Nothing is stored. Whatever asks for rows of the cache gets the maps that the cache would hold had its crops been changed: rounded to its
dtype, or quantised by its calibration. With no change they are the cached maps bit for bit, so a curve starts where `d2st eval` stands.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
import polars as pl
import torch

from d2st.cache.batch import Batch, Decoder, Request
from d2st.cache.buffers import Buffers
from d2st.cache.codec import as_tensor
from d2st.cache.reader import ArrayReader
from d2st.cache.store import Store
from d2st.pipeline.build.threads import crop_threads
from d2st.pipeline.build.views import view_of
from d2st.pipeline.clip import Encoder

__all__ = ["PerturbedTokens"]

AHEAD = 2  # requests whose crops are in memory: the one at hand, and the next, which is prepared beside it


class PerturbedTokens:
    """Streams batches of a store whose crops are changed first. A context manager, which closes its files.

    Args:
        store: open with the token set that the encoder is of.
        encoder: as `encoder_like` gives it; for int8 its calibration is set to the store's.
        samples: what may be asked for: `sample_id`, `start` and `frames_cached`, as `Store.samples` gives them.
        change: (crops (T,S,S,3) uint8 of all cached frames of a sample, its id) -> the same shape; called in threads, once a sample as
            long as its rows are asked for together. None changes nothing.
        maps: False gives CLS tokens alone, as `TokenLoader` does.

    The batches are on the encoder's device. Crops of two batches are in memory at once, however many samples there are.
    """

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        samples: pl.DataFrame,
        change: Callable[[np.ndarray, str], np.ndarray] | None = None,
        *,
        maps: bool = True,
    ) -> None:
        placed = samples.sort("start")
        self._names: list[str] = placed["sample_id"].to_list()
        self._starts, self._frames = placed["start"].to_numpy(), placed["frames_cached"].to_numpy()  # (N,)
        self._change, self._view = change, view_of(store.tokens.config)
        self._encoder, self._calibration = encoder, store.tokens.calibration
        self._device = torch.device(encoder.backbone.device)
        self._decode = Decoder(encoder.layers, maps=maps, calibration=self._calibration, device=self._device)
        self._buffers = Buffers(device=self._device)
        self._crops = ArrayReader(store.crops.array("frames"))

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """Yield one batch for each request, in order, preparing the next; every row must belong to one of the samples.

        Raises:
            StoreError: crops are missing or damaged.
            WeightsError: as `Encoder.encode` does.
        """
        if self._calibration:
            self._encoder.calibration = self._calibration
        source, waiting = iter(requests), deque[tuple[Request, np.ndarray]]()
        crops: dict[int, Future[np.ndarray]] = {}
        threads = ThreadPoolExecutor(crop_threads(self._encoder.backbone.device), "d2st-perturb")
        try:
            while True:
                while len(waiting) < AHEAD and (request := next(source, None)) is not None:
                    waiting.append((request, self._owners(request.rows)))
                    crops |= {o: threads.submit(self._prepare, o) for o in _distinct(waiting[-1][1]) if o not in crops}
                if not waiting:
                    return
                request, owners = waiting.popleft()
                yield self._batch(request, owners, crops)
                wanted = set().union(*(_distinct(others) for _, others in waiting))
                crops = {owner: future for owner, future in crops.items() if owner in wanted}
        finally:
            threads.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Close the files."""
        self._crops.close()

    def __enter__(self) -> "PerturbedTokens":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def _owners(self, rows: np.ndarray) -> np.ndarray:
        """Which sample each row (B,T) belongs to, (B,T); -1 for padding. Raises ValueError for a row of none of them."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        inside = (owners >= 0) & (rows < self._starts[owners] + self._frames[owners])
        if not (inside | (rows < 0)).all():
            raise ValueError(f"rows {rows[~inside & (rows >= 0)][:3]} belong to none of the samples")
        return np.where(rows < 0, -1, owners)

    def _prepare(self, owner: int) -> np.ndarray:
        """The changed crops (T,S,S,3) of a sample; in a thread."""
        name, start, count = self._names[owner], self._starts[owner], self._frames[owner]
        crops = np.empty((count, *self._crops.frame_shape), np.uint8)
        self._crops.read(np.arange(start, start + count), crops)
        if self._change is not None:
            crops = self._change(crops, name)
        return crops if self._view is None else self._view.apply(crops, [name] * len(crops))

    def _batch(self, request: Request, owners: np.ndarray, crops: Mapping[int, Future[np.ndarray]]) -> Batch:
        kept = np.flatnonzero(owners >= 0)  # places in (B*T,)
        rows, flat = request.rows.reshape(-1)[kept], owners.reshape(-1)[kept]
        images = np.stack([crops[o].result()[row - self._starts[o]] for row, o in zip(rows, flat.tolist(), strict=True)])
        made = self._encoder.encode(images).arrays  # (n, ...) each
        places = torch.from_numpy(kept).to(self._device)
        arrays = {}
        for name, values in made.items():
            stored = as_tensor(values).to(self._device)
            arrays[name] = torch.zeros((request.rows.size, *stored.shape[1:]), dtype=stored.dtype, device=self._device)
            arrays[name][places] = stored  # (B*T, ...), zero at padding
        mask = torch.from_numpy(request.rows >= 0).to(self._device)  # (B,T)
        return self._decode(request, arrays, mask, self._buffers)


def _distinct(owners: np.ndarray) -> set[int]:
    return set(owners[owners >= 0].tolist())
