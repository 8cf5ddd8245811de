"""Which checkpoint an evaluation is of, by its bytes alone.

Apart from what loads checkpoints, so that reports can compare digests without torch.
"""

import hashlib
from pathlib import Path

__all__ = ["checkpoint_digest"]


def checkpoint_digest(path: Path) -> str:
    """blake2b-128 of a checkpoint's bytes, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
