"""Read the sampled frames of any image, video or folder of frames, with the reader that can be trusted with it.

decord where `probe` and decord's own answers leave no doubt; PyAV in sequence for the rest; Pillow for images. Which one it was
stands in `MediaInfo.decoder`. This runs in the calling process: a file that hangs or crashes a decoder is `DecodePool`'s matter.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from d2st.cache.errors import D2stError, UnknownNameError
from d2st.pipeline.media.decord_reader import load_decord, read_decord
from d2st.pipeline.media.failure import lacks_end, media_error
from d2st.pipeline.media.folder import read_folder
from d2st.pipeline.media.images import read_image
from d2st.pipeline.media.probe import Probe, probe_video
from d2st.pipeline.media.pyav_reader import read_pyav
from d2st.pipeline.media.types import ASSUMED_FPS, KINDS, Frames

__all__ = ["MISSING_S", "read_media", "read_probed"]

MISSING_S = 1.0  # a file that ends earlier than it claims by less counts as read


def read_media(
    path: str | Path,
    kind: str,
    *,
    frames: int,
    sampling: str,
    files: Sequence[str] | None = None,
    on_duration: Callable[[float], None] | None = None,
) -> Frames:
    """Read `frames` frames (`sample_indices`) of a "video" or a folder of "frames"; an "image" is always its first frame.

    Fewer come back where the file holds fewer. `files` names the frames of a folder, where not all of them count. `on_duration` hears
    the seconds that a video claims to last, before it is decoded.
    Raises MediaError with a reason code and the file's name; nothing else for any content of the file.
    """
    try:
        if kind == "image":
            return read_image(path)
        if kind == "frames":
            return read_folder(path, frames=frames, sampling=sampling, files=files)
        if kind == "video":
            return read_probed(path, probe_video(path, on_duration=on_duration), frames=frames, sampling=sampling)
    except D2stError:
        raise
    except MemoryError as error:
        raise media_error("too_large", path, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise anything on damaged input; the reason code keeps the rest of a build going
        raise media_error("decode_failed", path, f"{type(error).__name__}: {error}") from error
    raise UnknownNameError("kind of media", kind, list(KINDS))


def read_probed(path: str | Path, probe: Probe, *, frames: int, sampling: str) -> Frames:
    """What `read_media` does with a video once it is probed. Raises MediaError, and whatever a decoder raises."""
    if probe.is_image:  # an image under a video's name: a video of one frame
        return read_image(path)
    found = _read_trusted(path, probe, frames=frames, sampling=sampling)
    lost = max(found.info.frames_lost, _frames_cut_off(path, probe))
    return replace(found, info=replace(found.info, frames_lost=lost))


def _read_trusted(path: str | Path, probe: Probe, *, frames: int, sampling: str) -> Frames:
    if probe.for_decord and load_decord() is not None:
        try:
            return read_decord(path, probe, frames=frames, sampling=sampling)
        except MemoryError:
            raise
        except Exception:  # Untrusted, DECORDError, RuntimeError: PyAV has the last word, and MediaInfo says it was PyAV
            pass
    return read_pyav(path, probe, frames=frames, sampling=sampling)


def _frames_cut_off(path: str | Path, probe: Probe) -> int:
    """How many frames a file lacks whose end is missing, by what its header claims; for an MP4 `read_pyav` has the index."""
    if probe.container.startswith("mov,"):
        return 0
    missing_s = probe.duration_s - probe.span_s
    by_time = round(missing_s * (probe.fps or ASSUMED_FPS)) if missing_s > MISSING_S else 0
    missing = probe.claimed - probe.packets if probe.claimed else by_time
    return missing if missing > 0 and lacks_end(path) else 0
