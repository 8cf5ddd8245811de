"""Read a folder of images as one video: the files in natural order are its frames.

Only the sampled files are opened. A damaged one among them is left out and counted in `frames_lost`, as a damaged frame of a
video would be; the folder fails only if none of them can be read.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from d2st.cache.errors import MediaError
from d2st.pipeline.extensions import IMAGE_EXTENSIONS
from d2st.pipeline.media.failure import media_error
from d2st.pipeline.media.images import load_image
from d2st.pipeline.media.sampling import sample_indices
from d2st.pipeline.media.types import ASSUMED_FPS, Frames, MediaInfo

__all__ = ["list_frames", "read_folder"]


def list_frames(path: str | Path) -> list[str]:
    """The image file names in a folder, in natural order (2 before 10), hidden files left out. Raises MediaError."""
    try:
        with os.scandir(path) as entries:
            names = [
                entry.name
                for entry in entries
                if os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS
                and not entry.name.startswith(".")
                and entry.is_file()
            ]
    except (FileNotFoundError, ValueError) as error:
        raise media_error("missing", path) from error
    except NotADirectoryError as error:
        raise media_error("not_media", path, "a file, where a folder of frames was expected") from error
    except OSError as error:
        raise media_error("unreadable", path, error) from error
    return sorted(names, key=_natural)


def read_folder(path: str | Path, *, frames: int, sampling: str, files: Sequence[str] | None = None) -> Frames:
    """Read `frames` images of a folder, or of those `files` in it; timestamps assume 25 frames a second. Raises MediaError."""
    names = list_frames(path) if files is None else list(files)
    if not names:
        raise media_error("empty", path, "no image files in this folder")
    images, indices, infos = [], [], []
    failure: MediaError | None = None
    for index in sample_indices(len(names), frames, sampling):
        try:
            picture, info = load_image(os.path.join(path, names[index]))
        except MediaError as error:
            failure = failure or error
            continue
        images.append(picture)
        indices.append(index)
        infos.append(info)
    if not infos:
        raise failure
    first = infos[0]
    lost = min(len(names), frames) - len(infos)
    info = MediaInfo(
        first.decoder, len(names), None, first.width, first.height, first.rotation, first.codec, first.pix_fmt, frames_lost=lost
    )
    return Frames(tuple(images), tuple(indices), tuple(index / ASSUMED_FPS for index in indices), info)


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", name)  # text, number, text, ...: the kinds line up, so lists compare
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name
