"""One pass over the cache for many trials: what any of them asks for is read, decoded and moved to the device once.

Trials that want the same frames of a batch get the very tensors of it. Where they differ (frames a clip, reversal, jitter) the union of a
clip's frames is read, and each gathers its own on the device: a copy in memory against a read from a disk.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2st.adapter.rows import PADDING
from d2st.cache import Batch, Request, Store, TokenLoader
from d2st.cache.buffers import Buffers
from d2st.cache.errors import ConfigError, StoreError
from d2st.cache.views import open_views, row_stride

__all__ = ["Gatherer", "Need", "SharedReads", "TrialSource", "merge", "restrict"]


@dataclass(frozen=True)
class Need:
    """What a trial reads: layers in the order of depth, maps or CLS tokens alone, and views of the crops."""

    layers: tuple[str, ...]
    maps: bool
    views: tuple[str, ...]


class SharedReads:
    """The open loaders of a population, one for each distinct need of a lane.

    Args:
        frames: how many frames `in_memory` has to expect. Where it is True the loaders of the same views are one, which only ever
            reads more layers: what it keeps must not be read again.
    """

    def __init__(self, store: Store, *, device: str, in_memory: bool, frames: int = 0) -> None:
        self._store, self._device, self._in_memory = store, device, in_memory
        self.frames = frames
        self._loaders: dict[Need, TokenLoader] = {}
        self._used: set[Need] = set()
        self._strides: dict[tuple[str, ...], int] = {}

    def loader(self, needs: Iterable[Need]) -> TokenLoader:
        """A loader of all that is needed, all of the same views. Raises StoreError if `in_memory` does not fit: no trial's fault."""
        needs = [*needs]
        views = needs[0].views
        kept = [need for need in self._loaders if self._in_memory and need.views == views]
        named = {layer for need in (*needs, *kept) for layer in need.layers}
        layers = tuple(layer for layer in self._store.tokens.layers if layer in named)
        wanted = Need(layers, any(need.maps for need in (*needs, *kept)), views)
        self._used.add(wanted)
        if wanted not in self._loaders:
            for need in kept:
                self._loaders.pop(need).close()
            self._loaders[wanted] = self._open(wanted)
        return self._loaders[wanted]

    def _open(self, wanted: Need) -> TokenLoader:
        try:
            return TokenLoader(
                self._store,
                wanted.layers,
                device=self._device,
                maps=wanted.maps,
                in_memory=self._in_memory,
                frames=self.frames or None,
                views=open_views(self._store, wanted.views),
                stride=self.stride(wanted.views),
            )
        except ConfigError as error:
            raise StoreError(error.message, fix=error.fix) from error

    def close_unused(self) -> None:
        """Close the loaders that nobody asked for since the last call."""
        for need in [need for need in self._loaders if need not in self._used and not self._in_memory]:
            self._loaders.pop(need).close()
        self._used.clear()

    def close(self) -> None:
        """Close all."""
        for loader in self._loaders.values():
            loader.close()
        self._loaders.clear()

    def stride(self, views: tuple[str, ...]) -> int:
        """Rows between the views of a frame; settled once, because a build may add shards while trials run."""
        if views not in self._strides:
            self._strides[views] = row_stride([self._store.tokens, *open_views(self._store, views).values()])
        return self._strides[views]


class TrialSource:
    """A `BatchSource` of what one trial reads, through the population's loaders."""

    def __init__(self, reads: SharedReads, need: Need) -> None:
        self._reads, self.need = reads, need
        self.stride = reads.stride(need.views)

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """As `TokenLoader.stream`."""
        batches = self._reads.loader([self.need]).stream(requests)
        try:
            for batch in batches:
                yield restrict(batch, self.need)
        finally:
            batches.close()

    def close(self) -> None:
        """Nothing: the loaders are the population's."""


def restrict(batch: Batch, need: Need) -> Batch:
    """The part of a batch that a trial reads, in the order in which it would read it alone."""
    tokens = {layer: batch.tokens[layer] for layer in need.layers} if need.maps else {}
    return Batch(tokens, {layer: batch.cls[layer] for layer in need.layers}, batch.mask, batch.tag)


def merge(requests: Sequence[Request]) -> tuple[Request, list[np.ndarray | None]]:
    """One request that holds the frames of all.

    Args:
        requests: of the same B clips, rows (B, T_k) each.

    Returns:
        The request, of rows (B, U), and for each given one the places (B, T_k) of its frames among the B * U, `PADDING` where it has
        none; or None where its rows are those of the union as they are.
    """
    first = requests[0].rows
    if all(np.array_equal(each.rows, first) for each in requests[1:]):
        return requests[0], [None] * len(requests)
    beyond = 1 + max(int(each.rows.max()) for each in requests)
    found = np.sort(np.concatenate([each.rows for each in requests], axis=1), axis=1)  # (B, sum T_k)
    found[:, 1:][found[:, 1:] == found[:, :-1]] = PADDING  # each frame once
    found = np.sort(np.where(found == PADDING, beyond, found), axis=1)
    union = found[:, : int((found < beyond).sum(1).max())]  # (B, U), what is beyond at the end of each clip
    offset = np.arange(len(union))[:, None] * (beyond + 1)
    order = (union + offset).ravel()
    rows = np.where(union == beyond, PADDING, union)
    places = [
        None
        if np.array_equal(each.rows, rows)
        else np.where(each.rows == PADDING, PADDING, np.searchsorted(order, each.rows + offset))
        for each in requests
    ]
    return Request(rows, requests[0].tag), places


class Gatherer:
    """Trials' own batches out of a union, in memory that is used again. What one asks for like the one before it is gathered once."""

    def __init__(self, device: torch.device) -> None:
        self._buffers = Buffers(device=device)
        self._batch: Batch | None = None
        self._places: np.ndarray | None = None
        self._made: dict[str, Tensor] = {}

    def take(self, batch: Batch, places: np.ndarray | None, need: Need) -> Batch:
        """A trial's batch, valid until other places or another batch are asked for.

        Args:
            batch: a batch of what `merge` made. places: (B, T) of the trial's frames in it, as `merge` gave them.
        """
        mine = restrict(batch, need)
        if places is None:
            return mine
        if batch is not self._batch or self._places is None or not np.array_equal(places, self._places):
            self._batch, self._places, self._made = batch, places, {}
        padded = places == PADDING
        self._made.setdefault("mask", torch.from_numpy(~padded).to(batch.mask.device))
        index = torch.from_numpy(np.where(padded, 0, places).ravel()).to(batch.mask.device)
        for kind, maps in (("maps", mine.tokens), ("cls", mine.cls)):
            for layer, values in maps.items():
                if (name := f"{layer}/{kind}") not in self._made:
                    self._made[name] = self._gather(name, values, index, padded)
                maps[layer] = self._made[name]
        return Batch(mine.tokens, mine.cls, self._made["mask"], batch.tag)

    def _gather(self, name: str, values: Tensor, index: Tensor, padded: np.ndarray) -> Tensor:
        flat = values.flatten(0, 1)  # (B * U, ...)
        out = self._buffers.take(name, len(index), flat.shape[1:], flat.dtype)
        torch.index_select(flat, 0, index, out=out)
        if padded.any():
            out[torch.from_numpy(padded.ravel()).to(out.device)] = 0
        return out.view(*padded.shape, *flat.shape[1:])  # (B, T, ...)
