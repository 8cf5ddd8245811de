"""What an export is compared on: real face crops, from files that the user names or from the cache that the run was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2st.adapter.export.parity import Clip
    from d2st.cache.store import Store
    from d2st.pipeline.build.restore import FrontEnd
    from d2st.pipeline.clip import Encoder, Tokens

__all__ = ["clips_of_cache", "clips_of_files", "made_up_clips", "open_cache"]

SAMPLES = 6


def open_cache(checkpoint: Path, meta: dict[str, Any]) -> "Store | None":
    """The cache that the run remembers, if it is still there and still the same."""
    from d2st.adapter.evaluate.run import open_matching
    from d2st.adapter.train.rundir import read_json
    from d2st.cache.errors import StoreError

    record = checkpoint.parent / "fingerprint.json"
    remembered = read_json(record).get("cache_path") if record.is_file() else None
    if not remembered or not (checkpoint.parent / remembered).is_dir():
        return None
    try:
        return open_matching(checkpoint.parent / remembered, config=meta["config"], layers=meta["layers"])
    except StoreError:  # built anew with other options: as good as gone
        return None


def clips_of_files(front_end: "FrontEnd", files: Sequence[Path], *, layers: Sequence[str], clip_frames: int) -> "list[Clip]":
    """One clip of each file's main face. Raises the error of a file that can't be used."""
    from d2st.adapter.export.parity import Clip
    from d2st.cache.errors import D2stError
    from d2st.detection import media_kind
    from d2st.pipeline.build.clips import ClipEvent
    from d2st.scoring import chosen_frames

    made = []
    for event in front_end.encode_clips([(str(path), media_kind(path)) for path in files], workers=1):
        found = event.clip if isinstance(event, ClipEvent) else event.error
        if isinstance(found, D2stError):
            raise found
        if found is not None:
            rows = chosen_frames(len(found.crops), clip_frames)
            made.append(Clip(found.crops[rows], *_decoded(found.tokens, rows, front_end.encoder.calibration, layers)))
    return made


def clips_of_cache(store: "Store", encoder: "Encoder | None", *, layers: Sequence[str], clip_frames: int) -> "list[Clip]":
    """Clips of up to six samples of the cache, of the test split where there is one; encoded again if `encoder` is given."""
    import polars as pl

    from d2st.adapter.rows import clip_rows
    from d2st.cache import Request, TokenLoader

    samples = store.samples()
    test = samples.filter(pl.col("split") == "test")
    chosen = (samples if test.is_empty() else test).sort("kind", "label", "sample_id")
    chosen = chosen.gather_every(max(1, len(chosen) // SAMPLES)).head(SAMPLES).sort("start")
    rows = [clip_rows(start, cached, cached if clip_frames == 1 else clip_frames) for start, cached in _places(chosen)]
    if encoder is not None:
        return [_encoded(crops, encoder, layers) for crops in _crops(store, rows)]
    import numpy as np

    from d2st.adapter.export.parity import Clip

    with TokenLoader(store, layers=list(layers)) as loader:
        requests = (Request(rows=np.array([of]), tag=None) for of in rows)
        return [
            Clip(None, {k: v[0].clone() for k, v in batch.tokens.items()}, {k: v[0].clone() for k, v in batch.cls.items()})
            for batch in loader.stream(requests)
        ]


def made_up_clips(encoder: "Encoder | None", meta: dict[str, Any], *, layers: Sequence[str], clip_frames: int) -> "list[Clip]":
    """Two clips of noise, for a checkpoint without a cache and no file at hand."""
    import numpy as np
    import torch

    from d2st.adapter.export.parity import Clip

    frames, size = max(clip_frames, 6), meta["config"]["crops"]["size"]
    if encoder is not None:
        noise = np.random.default_rng(0).integers(0, 256, (2, frames, size, size, 3), dtype=np.uint8)
        return [_encoded(crops, encoder, layers) for crops in noise]
    drawn = torch.Generator().manual_seed(0)
    shape = (frames, *meta["grid"], meta["channels"])
    return [
        Clip(
            None,
            {layer: torch.randn(shape, generator=drawn) for layer in layers},
            {layer: torch.randn(shape[0], shape[-1], generator=drawn) for layer in layers},
        )
        for _ in range(2)
    ]


def _places(samples: Any) -> list[tuple[int, int]]:
    return list(samples.select("start", "frames_cached").iter_rows())


def _crops(store: "Store", rows: list[list[int]]) -> "list[Any]":
    """Face crops (T,S,S,3) uint8 at the rows of each clip."""
    import numpy as np

    from d2st.cache.reader import ArrayReader

    made = []
    with ArrayReader(store.crops.array("frames")) as reader:
        for of in rows:
            made.append(np.empty((len(of), *reader.frame_shape), reader.dtype))
            reader.read(of, made[-1])
    return made


def _encoded(crops: Any, encoder: "Encoder", layers: Sequence[str]) -> "Clip":
    from d2st.adapter.export.parity import Clip

    return Clip(crops, *_decoded(encoder.encode(crops), list(range(len(crops))), encoder.calibration, layers))


def _decoded(
    tokens: "Tokens", rows: list[int], calibration: Any, layers: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Maps (T,H,W,C) and CLS tokens (T,C) of the frames `rows` by layer, as the cache's reader gives them."""
    from d2st.cache.codec import as_tensor, decode

    maps, cls = {}, {}
    for layer in layers:
        scales = tokens.arrays.get(f"{layer}/scales")
        part = None if scales is None else scales[rows]
        maps[layer] = decode(tokens.arrays[f"{layer}/maps"][rows], part, calibration.get(layer))
        cls[layer] = as_tensor(tokens.arrays[f"{layer}/cls"][rows])
    return maps, cls
