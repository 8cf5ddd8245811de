"""Names of samples that survive a move: made from the data set's name and the relative path, never from an absolute path or a time."""

from hashlib import blake2b

__all__ = ["sample_id", "video_id"]


def sample_id(dataset: str, path: str) -> str:
    """32 hex digits: BLAKE2b-128 of `dataset`, a NUL and the posix `path` relative to the media root.

    >>> sample_id("demo", "train/real/a.mp4")
    '779348151c2711fbab8635f2017676b4'
    """
    return blake2b(f"{dataset}\0{path}".encode(), digest_size=16).hexdigest()


def video_id(dataset: str, path: str) -> str:
    """Data set and path together, since data sets reuse file names."""
    return f"{dataset}/{path}"
