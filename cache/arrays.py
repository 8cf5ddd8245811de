"""The Zarr arrays of a store: `(frames, ...)`, one frame a chunk, `SHARD_FRAMES` frames a shard, no compression, crc32c throughout.

Uncompressed on purpose: token maps compress by 1.03-1.09x, and every codec costs more reading time than it saves (README, "The cache").
384 frames are 32 clips of 12: 116 MB of B/16 maps a shard, 201 MB of L/14.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2st.cache.errors import StoreError
from d2st.cache.files import write_atomic

__all__ = ["SHARD_FRAMES", "ArrayMeta", "ensure_array", "ensure_group", "read_array_meta", "read_attributes", "shard_path"]

SHARD_FRAMES = 384

ArrayMeta = tuple[tuple[int, ...], str]  # shape of one frame, numpy dtype name


def shard_path(array: Path, shard: int, *, frame_dims: int) -> Path:
    """Where Zarr's default chunk-key encoding puts shard number `shard`: `<array>/c/<shard>/0/.../0`."""
    return array.joinpath("c", str(shard), *["0"] * frame_dims)


def ensure_array(path: Path, *, frame_shape: Sequence[int], dtype: str, shards: int, attributes: dict[str, Any]) -> None:
    """Create the array at `path` (frames of shape (H,W,C) or (C,)), or let it grow to `shards` shards; what it holds stays untouched.

    Raises:
        StoreError: an array of another frame shape or dtype is there.
    """
    metadata = path / "zarr.json"
    length = shards * SHARD_FRAMES
    if not metadata.exists():
        write_atomic(metadata, _new_metadata(length, tuple(frame_shape), dtype, attributes))
        return
    stored = json.loads(metadata.read_bytes())
    if tuple(stored["shape"][1:]) != tuple(frame_shape) or stored["data_type"] != dtype:
        raise StoreError(
            f"{path} holds {stored['data_type']} frames of shape {tuple(stored['shape'][1:])}, not {dtype} of {tuple(frame_shape)}",
            fix="Use another --cache folder",
        )
    if stored["shape"][0] < length:
        stored["shape"][0] = length
        write_atomic(metadata, json.dumps(stored, indent=2).encode())


def _new_metadata(length: int, frame_shape: tuple[int, ...], dtype: str, attributes: dict[str, Any]) -> bytes:
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.storage import MemoryStore

    memory: dict[str, Any] = {}  # zarr writes the metadata, we write the file: atomically
    zarr.create_array(
        MemoryStore(memory),
        shape=(length, *frame_shape),
        dtype=dtype,
        chunks=(1, *frame_shape),
        shards=(SHARD_FRAMES, *frame_shape),
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=0,
        dimension_names=("frame", "y", "x", "channel") if len(frame_shape) == 3 else ("frame", "channel"),
        attributes=attributes,
    )
    return bytes(memory["zarr.json"].to_bytes())


def ensure_group(path: Path, attributes: dict[str, Any]) -> None:
    """Create a Zarr group with these attributes unless one is there."""
    if not (path / "zarr.json").exists():
        document = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
        write_atomic(path / "zarr.json", json.dumps(document, indent=2, sort_keys=True).encode())


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of the Zarr group or array at `path`. Raises StoreError when it is missing or no valid metadata."""
    try:
        return json.loads((path / "zarr.json").read_bytes())["attributes"]
    except FileNotFoundError as error:
        raise StoreError(f"{path} is not part of a d2st store: it has no zarr.json") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: {error}", fix="Build the store again, or restore this file") from error


def read_array_meta(path: Path) -> ArrayMeta:
    """Frame shape and dtype of an array that the direct reader understands.

    Raises:
        StoreError: the array is missing, or was written with other codecs than ours.
    """
    read_attributes(path)
    stored = json.loads((path / "zarr.json").read_bytes())
    try:
        sharding = stored["codecs"][0]
        inner = [codec["name"] for codec in sharding["configuration"]["codecs"]]
        shape = tuple(stored["shape"][1:])
        readable = (
            sharding["name"] == "sharding_indexed"
            and inner == ["bytes", "crc32c"]
            and tuple(sharding["configuration"]["chunk_shape"]) == (1, *shape)
            and stored["chunk_grid"]["configuration"]["chunk_shape"][0] == SHARD_FRAMES
            and sharding["configuration"].get("index_location", "end") == "end"
        )
    except (KeyError, IndexError, TypeError) as error:
        raise StoreError(f"{path}/zarr.json is damaged: no {error}") from error
    if not readable:
        raise StoreError(f"{path} is a Zarr array, but not one that d2st wrote", fix="Build it with `d2st cache build`")
    return shape, stored["data_type"]
