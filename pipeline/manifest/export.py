"""A manifest as the JSON list of DeepfakeBench, for its own code and for who compares with it; its schema: `layouts.deepfakebench`.

Frame folders give their images. DeepfakeBench reads frames, so videos and single images have no place in it and are counted.
"""

from pathlib import Path
from typing import Any

import polars as pl

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts.deepfakebench import METHODS
from d2st.pipeline.manifest.schema import REAL
from d2st.pipeline.media.folder import list_frames

__all__ = ["to_deepfakebench"]


def to_deepfakebench(manifest: pl.DataFrame, root: Path) -> tuple[dict[str, Any], int]:
    """The list, and how many samples had no place in it.

    Data set -> label -> split -> [compression ->] video -> label and frames. A label is `<data set>_Real` or `<method>_Fake`, for
    FaceForensics++ DeepfakeBench's own (FF-real, FF-DF ...). A data set has the level of compressions where all of its samples name
    one. Videos are called by their path below the data set, so that no two share a name.

    Raises:
        ManifestError: there is no frame folder in the manifest.
        MediaError: a frame folder is not there.
    """
    frames = manifest.filter(pl.col("kind") == "frames").sort("sample_id")
    if frames.is_empty():
        raise ManifestError(
            f"none of the {manifest.height} samples is a folder of frames, and DeepfakeBench reads nothing else",
            fix="Extract the frames, a folder a video, and scan these",
        )
    made: dict[str, Any] = {}
    for (dataset,), rows in frames.group_by("dataset", maintain_order=True):
        leveled = rows["compression"].null_count() == 0
        for row in rows.iter_rows(named=True):
            label = _label(str(dataset), row["method"], real=row["label"] == REAL)
            place = made.setdefault(str(dataset), {}).setdefault(label, {"train": {}, "val": {}, "test": {}})[row["split"]]
            if leveled:
                place = place.setdefault(row["compression"], {})
            names = row["frame_files"] or list_frames(root / row["path"])
            name = own = row["video_id"].removeprefix(f"{dataset}/").replace("/", "_")
            number = 1
            while name in place:  # a/b_c and a_b/c, or several folders of one video
                number += 1
                name = f"{own}_{number}"
            place[name] = {
                "label": label,
                "frames": [f"{row['path']}/{name}" for name in names],
            }
    return made, manifest.height - frames.height


def _label(dataset: str, method: str, *, real: bool) -> str:
    own = {"real": "FF-real"} | {name: label for label, name in METHODS.items()} if dataset.startswith("FaceForensics") else {}
    return own.get(method) or (f"{dataset}_Real" if real else f"{method}_Fake")
