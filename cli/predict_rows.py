"""The columns of the table that `d2st predict --out` fills, and a result as one row of it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2st.cache.errors import D2stError
    from d2st.prediction import Prediction

__all__ = ["COLUMNS", "SETTINGS", "as_row"]

COLUMNS = {
    "path": "String",
    "size_bytes": "Int64",
    "mtime_ns": "Int64",
    "kind": "String",
    "fake": "Boolean",
    "probability": "Float64",  # calibrated P(fake)
    "threshold": "Float64",  # of the probability
    "score": "Float64",  # raw P(fake), as `d2st eval` measures it
    "logit": "Float64",
    "frames": "Int64",  # that the score rests on
    "windows": "Int64",
    "windows_above": "Int64",  # the threshold
    "faces": "Int64",
    "duration_s": "Float64",
    "doubts": "String",  # codes, joined by spaces
    "words": "String",  # the doubts in words, or what is wrong with the file
    "reason": "String",  # code; null for a file that was scored
    "checkpoint": "String",
    "all_faces": "Boolean",
    "window_s": "Float64",
    "fpr": "Float64",
}
SETTINGS = ("checkpoint", "all_faces", "window_s", "fpr")


def as_row(found: "Prediction | D2stError") -> dict[str, Any]:
    """What a result says, all but `SETTINGS`; None for what it does not know."""
    blank = dict.fromkeys(name for name in COLUMNS if name not in SETTINGS and name not in ("path", "size_bytes", "mtime_ns"))
    if isinstance(found, Exception):
        return blank | {"reason": getattr(found, "reason", "unusable"), "words": found.message}
    scored = [window for window in found.windows if window.probability is not None]
    return blank | {
        "kind": found.kind,
        "fake": found.fake,
        "probability": found.probability,
        "threshold": found.threshold,
        "score": found.score,
        "logit": found.logit,
        "frames": len(found.frame_scores),
        "windows": len(scored),
        "windows_above": sum(window.probability > found.threshold for window in scored),
        "faces": len(found.faces),
        "duration_s": found.duration_s,
        "doubts": " ".join(doubt.code for doubt in found.doubts),
        "words": "; ".join(doubt.words for doubt in found.doubts),
    }
