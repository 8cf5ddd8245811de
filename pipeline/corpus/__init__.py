"""The embedded default data: a small, seeded corpus of synthetic talking faces, real and manipulated, as real media files."""

from d2st.pipeline.corpus.build import CorpusSummary, make_corpus, read_masks, render_sample
from d2st.pipeline.corpus.plan import SEEN_METHODS, UNSEEN_METHODS, Sample, plan_corpus

__all__ = ["SEEN_METHODS", "UNSEEN_METHODS", "CorpusSummary", "Sample", "make_corpus", "plan_corpus", "read_masks", "render_sample"]
