"""Second phase of a build: crops to token maps. No media are touched, so another backbone or layer is a re-encode from here."""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import polars as pl
from safetensors.numpy import save

from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.files import write_atomic
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import Level
from d2st.cache.moments import Moments, merge, moments_of
from d2st.cache.reader import ArrayReader
from d2st.cache.shard import FileDigest, ShardWriter, crc32c
from d2st.cache.store import moments_path
from d2st.pipeline.clip import Encoder

__all__ = ["build_tokens"]

READ_FRAMES = 64  # a multiple of every sensible micro-batch, so that only a shard's last one is padded


def build_tokens(crops: Level, tokens: Level, plan: pl.DataFrame, *, encoder: Encoder, on_frames: Callable[[int], None]) -> int:
    """Encode and commit every shard that the crops level has and the tokens level lacks; returns how many.

    Args:
        plan: tells which samples' frames enter the channel statistics.
        on_frames: called with the number of frames just encoded.
    """
    shards = sorted(crops.committed() - tokens.committed())
    if not shards:
        return 0
    grid, channels = encoder.backbone.grid, encoder.backbone.channels
    name = "uint16" if encoder.dtype == "bfloat16" else encoder.dtype
    attributes = {"d2st_dtype": encoder.dtype} if name != encoder.dtype else {}
    for layer in encoder.layers:
        for kind, shape in (("maps", (*grid, channels)), ("cls", (channels,))):
            ensure_array(
                tokens.path / layer / kind, frame_shape=shape, dtype=name, shards=max(shards) + 1, attributes=attributes
            )
    counted = set(plan.filter("counted")["sample_id"])
    rows = {shard: group for (shard,), group in crops.rows().join(plan, on="sample_id").group_by("shard")}
    reader = ArrayReader(crops.path / "frames") if (crops.path / "frames" / "zarr.json").exists() else None
    for shard in shards:
        cached = rows[shard].filter(pl.col("reason").is_null()).sort("start")
        weights = np.repeat(cached["sample_id"].is_in(counted).to_numpy(), cached["frames"].to_numpy())  # (n,) bool
        _encode_shard(tokens, shard, cached.select(LEDGER_SCHEMA.names()), weights, reader, encoder, on_frames)
    return len(shards)


def _encode_shard(
    level: Level,
    shard: int,
    rows: pl.DataFrame,
    counted: np.ndarray,
    reader: ArrayReader | None,
    encoder: Encoder,
    on_frames: Callable[[int], None],
) -> None:
    count = len(counted)
    step = -(-READ_FRAMES // encoder.micro_batch) * encoder.micro_batch
    moments: dict[str, Moments] = {}
    writers: dict[str, ShardWriter | None] = {}
    with ExitStack() as stack:
        if reader is not None and count:
            for layer in encoder.layers:
                for kind, dims in (("maps", 3), ("cls", 1)):
                    file = level.shard_file(f"{layer}/{kind}", shard, frame_dims=dims)
                    writers[f"{layer}/{kind}"] = stack.enter_context(ShardWriter(file, slots=SHARD_FRAMES))
            for begin in range(0, count, step):
                end = min(begin + step, count)
                images = np.empty((end - begin, *reader.frame_shape), np.uint8)
                reader.read(np.arange(begin, end) + shard * SHARD_FRAMES, images)
                encoded = encoder.encode(images)
                for layer in encoder.layers:
                    for kind, values in (("maps", encoded.maps[layer]), ("cls", encoded.cls[layer])):
                        writers[f"{layer}/{kind}"].append(values)
                        seen = moments_of(_as_float(values[counted[begin:end]]))
                        name = layer if kind == "maps" else f"{layer}/cls"
                        moments[name] = merge(moments[name], seen) if name in moments else seen
                on_frames(end - begin)
    level.commit(shard, rows, writers, _write_moments(level, shard, moments))


def _as_float(values: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) as float32; anything else as it is."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def _write_moments(level: Level, shard: int, moments: dict[str, Moments]) -> dict[str, FileDigest]:
    tensors = {}
    for name, value in moments.items():
        tensors |= {f"{name}.count": np.array([value.count]), f"{name}.mean": value.mean, f"{name}.m2": value.m2}
    data = save(tensors)
    path = moments_path(level, shard)
    write_atomic(path, data)
    return {path.relative_to(level.store).as_posix(): FileDigest(len(data), crc32c(data))}
