"""The dataset layouts that a scan tries, in this order; the first that recognises what the user named is taken."""

from d2st.pipeline.manifest.layouts.base import FRAMES_FOLDERS, Found, Layout, Place
from d2st.pipeline.manifest.layouts.celebdf import CELEB_DF
from d2st.pipeline.manifest.layouts.deepfakebench import DEEPFAKEBENCH
from d2st.pipeline.manifest.layouts.dfdc import DFDC, DFDC_PREVIEW
from d2st.pipeline.manifest.layouts.ffpp import FFPP
from d2st.pipeline.manifest.layouts.folders import FOLDERS
from d2st.pipeline.manifest.layouts.listed import TABLE
from d2st.pipeline.manifest.layouts.wild import WILD

__all__ = ["FRAMES_FOLDERS", "LAYOUTS", "Found", "Layout", "Place"]

LAYOUTS: tuple[Layout, ...] = (DEEPFAKEBENCH, TABLE, FFPP, CELEB_DF, DFDC_PREVIEW, DFDC, WILD, FOLDERS)
