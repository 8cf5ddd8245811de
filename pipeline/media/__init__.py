"""Media files in, RGB frames out: what decodes, and what happens when nothing can.

decord reads what it can be trusted with, PyAV reads everything else from the first frame on, Pillow reads images
(`read_media`); a long video comes in windows, each as soon as it is complete (`read_windows`). `DecodePool` does both in supervised child
processes, where a file may hang or crash the decoder.
"""

from d2st.pipeline.media.read import read_media
from d2st.pipeline.media.sampling import sample_indices
from d2st.pipeline.media.tasks import Reading
from d2st.pipeline.media.types import Frames, Job, MediaEnd, MediaInfo, MediaWindow
from d2st.pipeline.media.windows import read_windows
from d2st.pipeline.media.workers import WINDOWS_READER, DecodePool, default_workers

__all__ = [
    "WINDOWS_READER",
    "DecodePool",
    "Frames",
    "Job",
    "MediaEnd",
    "MediaInfo",
    "MediaWindow",
    "Reading",
    "default_workers",
    "read_media",
    "read_windows",
    "sample_indices",
]
