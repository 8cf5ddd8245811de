"""Open a video with PyAV and walk its packets, whatever the damage.

The file is opened here and handed to FFmpeg as bytes without a name, and FFmpeg may use only the container formats listed: the
content alone decides what a file is, and a playlist under a video's name can't make FFmpeg open other files or addresses.
Which stream is "the video" is FFmpeg's own choice, the one that decord makes too; cover art does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import av
from av.stream import Disposition

from d2st.pipeline.media.failure import check_file, media_error, unopened_reason

__all__ = ["IMAGE_CONTAINERS", "count_indexed", "open_video", "packets"]

# one name of each FFmpeg demuxer; the audio ones are here to tell "no video stream" from "not media"
VIDEO_CONTAINERS = (
    "mov,matroska,avi,asf,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,flv,gif,apng,ogg,mjpeg,m4v,vc1,rm,mxf,nut,dv,wtv"
)
AUDIO_CONTAINERS = "mp3,aac,wav,w64,flac,amr,aiff,au,ac3,caf"
IMAGE_CONTAINERS = frozenset(
    {"jpeg_pipe", "png_pipe", "bmp_pipe", "webp_pipe", "tiff_pipe", "j2k_pipe", "ppm_pipe", "pgm_pipe"}
)
WHITELIST = ",".join([VIDEO_CONTAINERS, AUDIO_CONTAINERS, *sorted(IMAGE_CONTAINERS)])
MAX_READ_ERRORS = 100


class _Content:
    """A file without its name, from whose suffix FFmpeg would draw conclusions."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


@contextmanager
def open_video(path: str | Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """Open `path` and its main video stream, decoding in one thread. Raises MediaError if there is none."""
    check_file(path)
    with open(path, "rb") as file:
        try:
            container = av.open(_Content(file), "r", options={"format_whitelist": WHITELIST}, metadata_errors="replace")
        except MemoryError:
            raise
        except av.error.ArgumentError as error:  # a format that is not in the list
            raise media_error("not_media", path, error) from error
        except Exception as error:
            raise media_error(unopened_reason(path), path, error) from error
        with container:
            stream = container.streams.best("video")
            if stream is None or stream.disposition & Disposition.attached_pic:
                raise media_error("no_video_stream", path)
            if stream.codec_context is None:
                raise media_error("decode_failed", path, "FFmpeg has no decoder for its video codec")
            stream.codec_context.thread_count = 1
            yield container, stream


def packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """Yield the packets of `stream` that hold data; a read error ends the file only if no packet follows it."""
    errors = 0
    while True:
        try:
            for packet in container.demux(stream):
                if packet.size or packet.dts is not None:  # else PyAV's own end-of-stream mark
                    errors = 0
                    yield packet
            return
        except MemoryError:
            raise
        except Exception:  # damage makes PyAV raise not only FFmpegError but UnicodeDecodeError, AttributeError, ...
            errors += 1
            if errors > MAX_READ_ERRORS:
                return


def count_indexed(container: av.container.InputContainer, stream: av.VideoStream) -> int:
    """How many packets an MP4 or QuickTime index lists (after its edit list); 0 for containers that index only some, or none."""
    if not container.format.name.startswith("mov,"):
        return 0
    return len(getattr(stream, "index_entries", ()))  # older PyAV does not show it
