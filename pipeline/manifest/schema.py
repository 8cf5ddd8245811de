"""The columns of a manifest: one row a sample, one fixed schema, the same for every data set.

Enums instead of strings for `kind` and `split`, so that a wrong word is refused when the frame is made and not three stages later.
"""

import polars as pl

__all__ = ["FAKE", "KINDS", "REAL", "REQUIRED", "SCHEMA", "SPLITS", "Kind", "Split"]

REAL, FAKE = 0, 1
KINDS = ("image", "video", "frames")
SPLITS = ("train", "val", "test")
Kind = pl.Enum(KINDS)
Split = pl.Enum(SPLITS)

SCHEMA = pl.Schema(
    {
        "sample_id": pl.String(),  # 32 hex digits, from dataset and path alone: see ids.py
        "path": pl.String(),  # posix, relative to the media root
        "kind": Kind,  # frames: `path` is a folder of images, the frames of one video
        "label": pl.Int8(),  # 0 real, 1 fake
        "dataset": pl.String(),
        "method": pl.String(),  # the manipulation; "real" for real samples, "unknown" where nothing tells
        "split": Split,
        "video_id": pl.String(),  # globally unique: the group of video-level metrics
        "identity": pl.List(pl.String()),  # globally unique: who a sample shows or was made from
        "compression": pl.String(),
        "frames": pl.Int32(),
        "fps": pl.Float64(),
        "width": pl.Int32(),  # px, as shown (after rotation)
        "height": pl.Int32(),
        "box": pl.List(pl.Float32()),  # face as x0, y0, x1, y1 in px
        "landmarks": pl.List(
            pl.Float32()
        ),  # x, y in px of left eye, right eye, nose, left and right mouth corner, as seen in the picture
        "frame_files": pl.List(pl.String()),  # kind frames: these files of the folder alone, in this order; null: all of them
        "duplicate_of": pl.String(),  # sample_id of the first byte-identical file
    }
)

REQUIRED = ("sample_id", "path", "kind", "label", "dataset", "method", "split", "video_id", "identity")
