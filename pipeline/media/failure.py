"""Turn what goes wrong with a file into a MediaError that names the file and carries a reason code.

Decoders answer every kind of damage with the same "invalid data", so the reason for a file that can't be opened at all is read
from its first bytes.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from d2st.cache.errors import MediaError
from d2st.pipeline.reasons import REASONS

__all__ = ["check_file", "lacks_end", "media_error", "unopened_reason"]

DETAIL_CHARS = 200
IMAGE_TAILS = {b"\xff\xd8\xff": b"\xff\xd9", b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82"}
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
FLV, RIFF = b"FLV\x01", b"RIFF"
OTHER_MAGIC = (b"GIF8", RIFF, FLV, EBML, b"0&\xb2u\x8ef\xcf\x11", b"II*\x00", b"MM\x00*")
ISO_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide")


def media_error(reason: str, path: str | Path, detail: object = "") -> MediaError:
    """Build the error: file, what the reason code means, and the decoder's own words in one line of at most 200 characters."""
    words = " ".join(str(getattr(detail, "strerror", None) or detail).split())
    if len(words) > DETAIL_CHARS:
        words = words[: DETAIL_CHARS - 3] + "..."
    return MediaError(reason, f"{path}: {REASONS[reason]}" + (f" ({words})" if words else ""))


def check_file(path: str | Path) -> None:
    """Raise MediaError("missing" | "unreadable" | "empty" | "not_media") unless `path` is a readable, ordinary file with bytes."""
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            with open(path, "rb"):  # permissions are known only by trying
                pass
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL in the name
        raise media_error("missing", path) from error
    except OSError as error:
        raise media_error("unreadable", path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise media_error("not_media", path, "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file")
    if status.st_size == 0:
        raise media_error("empty", path)


def unopened_reason(path: str | Path) -> str:
    """The reason code for a file that no decoder can open: "truncated", "decode_failed" (damaged), or "not_media"."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(16)
        for magic, tail in IMAGE_TAILS.items():
            if head.startswith(magic):
                file.seek(max(0, size - 64))
                return "decode_failed" if tail in file.read() else "truncated"
        if head[4:8] in ISO_FIRST_BOXES:
            whole = any(kind == b"moov" and end <= size for kind, end in _boxes(file, size))
            return "decode_failed" if whole else "truncated"
    if not head.startswith(OTHER_MAGIC):
        return "not_media"
    return "truncated" if lacks_end(path) else "decode_failed"


def lacks_end(path: str | Path) -> bool:
    """Whether a file is shorter than it says: a box of an MP4 or QuickTime file, the segment of a Matroska or WebM file, a chunk of an AVI
    file, the last tag of an FLV file. False for other files, and where no size is given (streams)."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(8)
        if head[4:] in ISO_FIRST_BOXES:
            return any(end > size for _, end in _boxes(file, size))
        if head.startswith(RIFF):
            return any(end > size for end in _riff_chunks(file, size))
        if head.startswith(FLV):  # each tag has its length in front and behind (Adobe's specification of FLV 10.1, E.3 and E.4)
            file.seek(size - 4)
            length = int.from_bytes(file.read(4), "big")
            file.seek(max(0, size - 4 - length))
            return length != int.from_bytes(file.read(4)[1:], "big") + 11
        if not head.startswith(EBML):
            return False
        file.seek(len(EBML))
        file.seek(_ebml_size(file) or 0, os.SEEK_CUR)
        claimed = _ebml_size(file) if file.read(4) == SEGMENT else None
        return claimed is not None and file.tell() + claimed > size


def _ebml_size(file: BinaryIO) -> int | None:
    """Read the size of an EBML element (RFC 8794, 4); None for "unknown", and for none at all."""
    first = file.read(1)
    more = 8 - first[0].bit_length() if first and first[0] else 8
    if more == 8:
        return None
    bits = 7 * (more + 1)
    size = int.from_bytes(first + file.read(more), "big") & (1 << bits) - 1
    return None if size == (1 << bits) - 1 else size


def _riff_chunks(file: BinaryIO, size: int) -> Iterator[int]:
    """Where the top-level chunks of an AVI file say that they end (a long one has several: OpenDML 1.02, 2); those that know no size are
    passed over."""
    start = 0
    while start + 12 <= size:
        file.seek(start)
        header = file.read(12)
        length = int.from_bytes(header[4:8], "little")
        if header[:4] != RIFF or header[8:] not in (b"AVI ", b"AVIX") or length in (0, 0xFFFFFFFF):
            return
        start += 8 + length
        yield start
        start += length % 2


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """The top-level boxes of an ISO base media file (ISO/IEC 14496-12, 4.2): their kinds, and where they say that they end."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:
            length = size - start
        start += max(length, 8)
        yield header[4:8], start
