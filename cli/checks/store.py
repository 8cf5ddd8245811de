"""The cache: checksums and a tiny Zarr array, written and read back."""

from collections.abc import Iterator
from tempfile import TemporaryDirectory
from time import perf_counter

from d2st.cli.checks.check import REINSTALL, Check, attempt

__all__ = ["checks"]


def checks() -> Iterator[Check]:
    yield attempt("crc32c", _crc32c, fix=REINSTALL.format("awscrt"))
    yield attempt("zarr store", _zarr, fix=REINSTALL.format("zarr numcodecs google-crc32c"))


def _crc32c() -> str:
    from d2st.cache.checksum import crc32c

    if crc32c(b"123456789") != 0xE3069283:  # RFC 3720
        raise RuntimeError("it computes wrong checksums")
    block = b"d2st" * (1 << 18)
    start = perf_counter()
    crc32c(block)
    return f"{len(block) / (perf_counter() - start) / 1e9:.3g} GB/s"


def _zarr() -> str:
    import numpy as np
    import zarr
    from zarr.codecs import BytesCodec, Crc32cCodec

    values = np.arange(4 * 3 * 3 * 8, dtype=np.float16).reshape(4, 3, 3, 8)
    with TemporaryDirectory(prefix="d2st-doctor-") as folder:
        array = zarr.create_array(
            f"{folder}/tiny.zarr",
            shape=values.shape,
            chunks=(1, 3, 3, 8),
            shards=(4, 3, 3, 8),
            dtype=values.dtype,
            serializer=BytesCodec(),
            compressors=[Crc32cCodec()],
        )
        array[:] = values
        if not np.array_equal(zarr.open_array(f"{folder}/tiny.zarr", mode="r")[:], values):
            raise RuntimeError("other values came back than were written")
    return f"zarr {zarr.__version__}, written and read back with checksums"
