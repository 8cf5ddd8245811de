"""Judge a key frame by its bytes alone: can decoding start there, and how large is the picture?

decord starts at any packet that the container marks as key. Where that is only a recovery point (periodic intra refresh, I
frames that are not IDR) it returns unfinished pictures, and where the size changes it scales to the first one; both in silence.
"""

from collections.abc import Iterator

__all__ = ["is_entry_point", "size_signature"]

H264_IDR, H264_SPS = 5, 7
HEVC_SPS = 33
VP8_SIZE = slice(3, 10)  # start code 9d 01 2a, width, height (RFC 6386, 9.1)
VP9_SIZE = slice(1, 9)  # sync code, colour, width, height up to a nibble (VP9 bitstream specification, 6.2)


def is_entry_point(codec: str, packet) -> bool:
    """Whether decoding can start at this key frame without anything before it. Certain for H.264; True for other codecs."""
    return codec != "h264" or any(kind == H264_IDR for kind, _ in _nal_units(codec, packet))


def size_signature(codec: str, packet) -> bytes:
    """Header bytes that differ between key frames of different size; b"" where they say nothing. Only equality means something."""
    if codec == "vp8":
        return bytes(memoryview(packet)[VP8_SIZE])
    if codec == "vp9":
        return bytes(memoryview(packet)[VP9_SIZE])
    if codec in ("h264", "hevc"):
        wanted = H264_SPS if codec == "h264" else HEVC_SPS
        return next((bytes(unit) for kind, unit in _nal_units(codec, packet) if kind == wanted), b"")
    return b""


def _nal_units(codec: str, packet) -> Iterator[tuple[int, memoryview]]:
    """(type, bytes) of each NAL unit, prefixed by four bytes of length as in MP4 and MKV (ISO/IEC 14496-15, 5.3.3)."""
    data = memoryview(packet)
    start = 0
    while start + 5 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        unit = data[start + 4 : start + 4 + length]
        if not unit:
            return
        yield (unit[0] & 0x1F if codec == "h264" else unit[0] >> 1 & 0x3F), unit
        start += 4 + length
