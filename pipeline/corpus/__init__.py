"""The embedded default data: a small, seeded corpus of synthetic talking faces, real and manipulated, as real media files.

traits -> sculpt -> film      a person, the lit head, the frames (with motion, scene: performance, room, lamp, camera)
forge (strength)              the manipulations, and how strong they are
plan -> files -> build        which samples, one file each, all of them
"""

from d2st.pipeline.corpus.build import CorpusSummary, make_corpus
from d2st.pipeline.corpus.files import read_masks, render_sample, unseen_clips
from d2st.pipeline.corpus.plan import SEEN_METHODS, UNSEEN_METHODS, Sample, plan_corpus

__all__ = [
    "SEEN_METHODS",
    "UNSEEN_METHODS",
    "CorpusSummary",
    "Sample",
    "make_corpus",
    "plan_corpus",
    "read_masks",
    "render_sample",
    "unseen_clips",
]
