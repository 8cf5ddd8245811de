"""The checksums of the store: CRC-32C (Castagnoli, RFC 3720) of chunks, shard indexes and seals, CRC-64/NVME of whole shard files.

Whole files need another polynomial than their chunks: data followed by its own CRC-32C always has the same CRC-32C, so a file of such
chunks has one that says nothing of the data.

`awscrt` computes it at 60 GB/s on one thread (data in the cache, 2 CPU cores of the README) and lets other threads run meanwhile;
google_crc32c reaches 30 and holds the interpreter lock, so that a second reading thread gains nothing.
"""

import numpy as np
from awscrt.checksums import crc32c as _crc32c
from awscrt.checksums import crc64nvme as _crc64

__all__ = ["crc32c", "crc64"]


def crc32c(data: bytes | bytearray | memoryview | np.ndarray, previous: int = 0) -> int:
    """CRC-32C of `data`, without a copy; with `previous`, of what that stood for and `data` after it.

    Args:
        data: any contiguous buffer; an array counts as its bytes in memory.

    Raises:
        ValueError: `data` is not C-contiguous.
    """
    return _crc32c(data, previous)


def crc64(data: bytes | bytearray | memoryview | np.ndarray, previous: int = 0) -> int:
    """CRC-64/NVME of `data` (NVM Command Set specification 1.0); arguments as for `crc32c`."""
    return _crc64(data, previous)
