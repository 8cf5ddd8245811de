"""The Zarr arrays of a store: `(frames, ...)`, one frame a chunk, `SHARD_FRAMES` frames a shard, no compression, crc32c throughout.

Uncompressed on purpose: token maps compress by 1.03-1.09x, and every codec costs more reading time than it saves (README, "The cache").
384 frames are 32 clips of 12: 116 MB of B/16 maps a shard, 201 MB of L/14.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from d2st.cache.errors import StoreError
from d2st.cache.files import create_exclusive, write_atomic
from d2st.cache.seal import PLACEHOLDER, check_seal, seal

__all__ = [
    "SHARD_FRAMES",
    "ArrayMeta",
    "array_metadata",
    "ensure_array",
    "ensure_group",
    "group_metadata",
    "read_array_meta",
    "read_attributes",
    "shard_path",
]

SHARD_FRAMES = 384

ArrayMeta = tuple[tuple[int, ...], str]  # shape of one frame, numpy dtype name


def shard_path(array: Path, shard: int, *, frame_dims: int) -> Path:
    """Where Zarr's default chunk-key encoding puts shard number `shard`: `<array>/c/<shard>/0/.../0`."""
    return array.joinpath("c", str(shard), *["0"] * frame_dims)


def ensure_array(path: Path, *, frame_shape: Sequence[int], dtype: str, shards: int, attributes: dict[str, Any]) -> None:
    """Create the array at `path` (frames of shape (H,W,C) or (C,)), or let it grow to `shards` shards; what it holds stays untouched.

    Raises:
        StoreError: an array of another frame shape or dtype is there, or its metadata is damaged.
    """
    metadata = path / "zarr.json"
    if not metadata.exists():
        create_exclusive(metadata, array_metadata(frame_shape, dtype, shards, attributes))
    shape, stored = read_array_meta(path)
    if shape != tuple(frame_shape) or stored != dtype:
        raise StoreError(
            f"{path} holds {stored} frames of shape {shape}, not {dtype} of {tuple(frame_shape)}",
            fix="Use another --cache folder",
        )
    if json.loads(metadata.read_bytes())["shape"][0] < shards * SHARD_FRAMES:
        write_atomic(metadata, array_metadata(frame_shape, dtype, shards, attributes))


def array_metadata(frame_shape: Sequence[int], dtype: str, shards: int, attributes: dict[str, Any]) -> bytes:
    """The zarr.json of an array of `shards` shards; equal arguments give equal bytes."""
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.storage import MemoryStore

    shape = tuple(frame_shape)
    memory: dict[str, Any] = {}  # zarr writes the metadata, we write the file: atomically
    zarr.create_array(
        MemoryStore(memory),
        shape=(shards * SHARD_FRAMES, *shape),
        dtype=dtype,
        chunks=(1, *shape),
        shards=(SHARD_FRAMES, *shape),
        compressors=[Crc32cCodec()],
        filters=None,
        fill_value=0,
        dimension_names={1: ("frame", "channel"), 2: ("frame", "y", "x"), 3: ("frame", "y", "x", "channel")}[len(shape)],
        attributes={**attributes, "d2st_seal": PLACEHOLDER},
    )
    return seal(bytes(memory["zarr.json"].to_bytes()))


def ensure_group(path: Path, attributes: dict[str, Any]) -> None:
    """Create a Zarr group with these attributes unless one is there."""
    if not (path / "zarr.json").exists():
        create_exclusive(path / "zarr.json", group_metadata(attributes))


def group_metadata(attributes: dict[str, Any]) -> bytes:
    """The zarr.json of a group; equal attributes give equal bytes."""
    document = {"attributes": {**attributes, "d2st_seal": PLACEHOLDER}, "zarr_format": 3, "node_type": "group"}
    return seal(json.dumps(document, indent=2, sort_keys=True).encode())


def read_attributes(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """The attributes of the Zarr group or array at `path`.

    A seal is checked where there is one; `sealed` demands one (stores of format 1 have none).

    Raises:
        StoreError: it is missing or damaged.
    """
    return _read_metadata(path, sealed=sealed)["attributes"]


def _read_metadata(path: Path, *, sealed: bool) -> dict[str, Any]:
    try:
        data = (path / "zarr.json").read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path} is not part of a d2st store: its zarr.json can't be read ({error.strerror or error})",
            fix="If it was lost, run `d2st cache repair` on the store",
        ) from error
    try:
        document = json.loads(data)
        if sealed or "d2st_seal" in document["attributes"]:
            check_seal(data, where=f"{path}/zarr.json")
        return document
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{path}/zarr.json is damaged: {error}", fix="Run `d2st cache repair` on the store, or restore this file"
        ) from error


def read_array_meta(path: Path) -> ArrayMeta:
    """Frame shape and dtype of an array that the direct reader understands.

    Raises:
        StoreError: the array is missing, or was written with other codecs than ours.
    """
    stored = _read_metadata(path, sealed=False)
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
