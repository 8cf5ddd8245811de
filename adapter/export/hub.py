"""A folder that a model hub takes as it is: the checkpoint, what it is in JSON, and its card.

Nothing is converted: model.safetensors is the checkpoint byte for byte, so what comes back from a hub is what was evaluated. config.json
names its digest, and a folder whose parts belong to different revisions is refused when it is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2st.cache.errors import ConfigError
from d2st.cache.files import write_atomic

__all__ = ["CARD", "CONFIG", "MODEL", "write_hub"]

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
OURS = {MODEL, CONFIG, CARD}
HIDDEN = {"operating"}  # long lists of scores, which the checkpoint has


def write_hub(
    folder: Path, *, checkpoint: Path, digest: str, meta: Mapping[str, Any], card: str, versions: Mapping[str, str]
) -> None:
    """Fill `folder`, which is made; an earlier export in it is replaced. The card is written last.

    Args:
        digest: `checkpoint_digest` of the checkpoint.
        meta: what it says of itself.

    Raises:
        ConfigError: the folder holds files of somebody else.
    """
    if folder.exists() and (
        not folder.is_dir() or any(path.name not in OURS | {".git", ".gitattributes", ".cache"} for path in folder.iterdir())
    ):
        raise ConfigError(f"{folder} holds other files", fix="Name a new folder with --out")
    shown = {key: value for key, value in meta.items() if key not in HIDDEN | {"calibration"}}
    config = {"library_name": "d2st", "model_type": "d2st", "checkpoint": digest, "versions": dict(versions), "detector": shown}
    write_atomic(folder / MODEL, checkpoint.read_bytes())
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
    write_atomic(folder / CARD, card.encode())
