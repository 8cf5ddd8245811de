"""Media files in, RGB frames out: what decodes, and what happens when nothing can.

decord reads what it can be trusted with, PyAV reads everything else from the first frame on, Pillow reads images
(`read_media`); `DecodePool` does the same in supervised child processes, where a file may hang or crash the decoder.
"""

from d2st.pipeline.media.read import read_media
from d2st.pipeline.media.sampling import sample_indices
from d2st.pipeline.media.types import Frames, Job, MediaInfo
from d2st.pipeline.media.workers import DecodePool, default_workers

__all__ = ["DecodePool", "Frames", "Job", "MediaInfo", "default_workers", "read_media", "sample_indices"]
