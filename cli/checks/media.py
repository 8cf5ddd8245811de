"""Decoders: a tiny video and a picture, really written and read back."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from d2st.cli.checks.check import REINSTALL, Check, attempt

__all__ = ["checks"]


def checks() -> Iterator[Check]:
    with TemporaryDirectory(prefix="d2st-doctor-") as folder:
        video = Path(folder) / "tiny.mp4"
        yield attempt(
            "h264 encode", lambda: _encode(video), status="warning", fix="Only d2st demo needs it: " + REINSTALL.format("av")
        )
        if video.exists():
            yield attempt("h264 decode, av", lambda: _decode_av(video), fix=REINSTALL.format("av"))
            yield attempt(
                "h264 decode, decord",
                lambda: _decode_decord(video),
                status="warning",
                fix="PyAV decodes instead, one frame after the other. To have both: pip install decord (decord2 on macOS and ARM)",
            )
        yield attempt("jpeg", _jpeg, fix=REINSTALL.format("pillow"))


def _encode(video: Path) -> str:
    import numpy as np

    from d2st.pipeline.media.encode import write_h264

    grey = [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(8)]
    return f"libx264, {write_h264(video, grey, fps=25)} frames"


def _decode_av(video: Path) -> str:
    import av

    with av.open(str(video)) as container:
        count = sum(1 for _ in container.decode(video=0))
    if count != 8:
        raise RuntimeError(f"{count} of 8 frames came back")
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


def _decode_decord(video: Path) -> str:
    import decord

    reader = decord.VideoReader(str(video), num_threads=1)
    means = [int(frame.mean()) for frame in reader.get_batch([0, 7]).asnumpy()]
    if abs(means[0]) > 8 or abs(means[1] - 140) > 8:
        raise RuntimeError(f"wrong pictures came back (mean grey {means}, not [0, 140])")
    return f"decord {decord.__version__}"


def _jpeg() -> str:
    from io import BytesIO

    import PIL
    from PIL import Image

    data = BytesIO()
    Image.new("RGB", (64, 48), (200, 100, 50)).save(data, "JPEG")
    with Image.open(data) as image:
        image.load()
    return f"Pillow {PIL.__version__}"
