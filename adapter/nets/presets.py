"""One dial for the size of a network; each adapter says in its own file what else of it grows."""

from typing import Literal

__all__ = ["Preset", "preset_width"]

Preset = Literal["tiny", "base", "large"]
_SHARES = {"tiny": 1 / 8, "base": 1 / 4, "large": 1 / 2}  # of CLIP's channels; base is the published bottleneck of D2ST


def preset_width(preset: Preset, channels: int) -> int:
    """Channels of a state or an embedding: C/8, C/4 or C/2, rounded to a multiple of 8, at least 16."""
    return max(16, round(channels * _SHARES[preset] / 8) * 8)
