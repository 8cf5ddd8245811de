"""The dataset layouts that a scan tries, in this order; the first that finds samples is taken."""

from d2st.pipeline.manifest.layouts.base import FRAMES_FOLDERS, Found, Layout
from d2st.pipeline.manifest.layouts.folders import FOLDERS

__all__ = ["FRAMES_FOLDERS", "LAYOUTS", "Found", "Layout"]

LAYOUTS: tuple[Layout, ...] = (FOLDERS,)
