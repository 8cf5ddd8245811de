"""Small files that certify themselves: `d2st-crc32c=xxxxxxxx` stands somewhere in the file, and the eight digits are its own CRC-32C.

The checksum is that of the whole file with zeros in place of the digits, so every flipped bit is found, those in the checksum too. Any
format that can hold an ASCII string as it is can be sealed: JSON attributes, the key-value metadata of Parquet, the header of safetensors.
No second file is needed, which would have to be committed together with the first.
"""

import re

from d2st.cache.checksum import crc32c
from d2st.cache.errors import StoreError

__all__ = ["PLACEHOLDER", "check_seal", "is_whole", "seal"]

_MARK = b"d2st-crc32c="
_ZEROS = b"00000000"
PLACEHOLDER = (_MARK + _ZEROS).decode()
_SEAL = re.compile(re.escape(_MARK) + rb"([0-9a-f]{8})")


def seal(data: bytes) -> bytes:
    """`data`, which holds `PLACEHOLDER` exactly once, with its checksum filled in."""
    if data.count(PLACEHOLDER.encode()) != 1:
        raise ValueError(f"the placeholder of the seal stands {data.count(PLACEHOLDER.encode())} times in the file")
    return data.replace(PLACEHOLDER.encode(), _MARK + b"%08x" % crc32c(data))


def is_whole(data: bytes) -> bool:
    """Whether `data` carries one seal and matches it."""
    found = list(_SEAL.finditer(data))
    if len(found) != 1:
        return False
    begin, end = found[0].span(1)
    return crc32c(data[end:], crc32c(_ZEROS, crc32c(data[:begin]))) == int(found[0][1], 16)


def check_seal(data: bytes, *, where: str) -> None:
    """Raise StoreError unless `data`, the content of the file `where`, matches its seal."""
    if not is_whole(data):
        raise StoreError(
            f"{where} is damaged: it fails its own checksum", fix="Run `d2st cache repair` on the store, or restore the file"
        )
