"""Manifests: which samples there are, what they show, and which split they belong to; one row a sample."""

from d2st.pipeline.manifest.check import Finding, check_files, check_manifest
from d2st.pipeline.manifest.ids import sample_id, video_id
from d2st.pipeline.manifest.io import load_manifest, manifest_root, read_manifest, write_manifest
from d2st.pipeline.manifest.scan import Scan, scan_folder
from d2st.pipeline.manifest.schema import FAKE, KINDS, REAL, SCHEMA, SPLITS
from d2st.pipeline.manifest.summary import counts

__all__ = [
    "FAKE",
    "KINDS",
    "REAL",
    "SCHEMA",
    "SPLITS",
    "Finding",
    "Scan",
    "check_files",
    "check_manifest",
    "counts",
    "load_manifest",
    "manifest_root",
    "read_manifest",
    "sample_id",
    "scan_folder",
    "video_id",
    "write_manifest",
]
