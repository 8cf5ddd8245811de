"""Videos whose frames carry their own number: eight blocks, black or white, for the bits of the index."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

BLOCK = 16
BITS = 8


def coded_frame(index: int, height: int = 48, width: int = 128) -> np.ndarray:
    """(H, W, 3) uint8: the top BLOCK rows hold the bits of `index`, most significant first; below, a bar that moves."""
    frame = np.full((height, width, 3), 96, np.uint8)
    for bit in range(BITS):
        frame[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (index >> (BITS - 1 - bit) & 1)
    frame[BLOCK + 8 :, (3 * index) % (width - 12) : (3 * index) % (width - 12) + 12] = (200, 60, 30)
    return frame


def frame_index(image: np.ndarray) -> int:
    """The number burnt into a frame; fails on blocks that are neither black nor white (grey or green garbage)."""
    index = 0
    for bit in range(BITS):
        level = image[4 : BLOCK - 4, bit * BLOCK + 4 : (bit + 1) * BLOCK - 4].astype(float).mean(axis=(0, 1))
        assert (level < 70).all() or (level > 185).all(), f"block {bit} is {level}"
        index = 2 * index + int(level[1] > 128)
    return index


def write_video(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    fps: int = 25,
    container: str | None = None,
    pts: Callable[[int], int] | None = None,
    b_frames: int | None = None,
) -> Path:
    """Write any video; `pts` maps a frame's number to its time in 1/fps units (for variable frame rates)."""
    if options is None:
        options = {"x264-params": "keyint=12:bframes=3:b-adapt=0:threads=1", "crf": "12"} if codec == "libx264" else {}
    with av.open(str(path), "w", format=container) as output:
        stream = None
        for number, frame in enumerate(frames):
            if stream is None:
                stream = output.add_stream(codec, rate=fps)
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.options = options
                stream.thread_count = 1
                if b_frames is not None:
                    stream.codec_context.max_b_frames = b_frames
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.time_base = Fraction(1, fps)
            picture.pts = pts(number) if pts else number
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    return path


def remux(source: Path, target: Path, *, shift: int = 0) -> Path:
    """Copy the packets of a video, its times moved by `shift` frames: negative times become an edit list in MP4."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as output:
        stream = output.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(reader.streams.video[0]):
            if packet.size:
                step = round(1 / 25 / packet.time_base)
                packet.pts += shift * step
                packet.dts += shift * step
                packet.stream = stream
                output.mux(packet)
    return target


@pytest.fixture(scope="session")
def coded() -> SimpleNamespace:
    """The helpers above: coded.frame, coded.frames(count), coded.index, coded.write, coded.remux."""
    return SimpleNamespace(
        frame=coded_frame,
        frames=lambda count, **size: [coded_frame(index, **size) for index in range(count)],
        index=frame_index,
        write=write_video,
        remux=remux,
    )


@pytest.fixture(scope="session")
def h264(coded: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good .mp4 of 40 coded frames at 25 fps, with B-frames and a key frame every 12."""
    return coded.write(tmp_path_factory.mktemp("good") / "good.mp4", coded.frames(40))
