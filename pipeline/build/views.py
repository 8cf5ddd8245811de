"""Views of face crops: mirrored, brighter or darker. Each is encoded into a token set of its own: pixel augmentation for cached features.

They are real views, seen by CLIP: a mirrored token map is not the map of the mirrored crop, since CLIP's patches and positions tell left
from right. A view is a pure function of the crop, the sample's id and what the token set's config says under "view", so any shard can be
encoded again to the same bytes. A sample has one brightness for all of its frames: nothing flickers.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from d2st.cache.errors import ConfigError, UsageError
from d2st.cache.views import VIEW

__all__ = ["View", "parse_view", "view_of"]

_HELP = "Use flip, or brightness=R with 0 < R < 1, such as --view flip --view brightness=0.2"


@dataclass(frozen=True)
class View:
    """What is done to a crop before it is encoded.

    Attributes:
        flip: mirrored, left to right.
        brightness: R: pixels times a factor that is uniform in [1 - R, 1 + R] over the samples; 0 leaves them.
        name: of the view; another name draws other factors.
    """

    flip: bool = False
    brightness: float = 0.0
    name: str = ""

    def declared(self) -> dict[str, Any]:
        """What the pixels depend on, as JSON values for the fingerprint."""
        drawn = {"brightness": self.brightness, "name": self.name} if self.brightness else {}
        return {"flip": self.flip, **drawn}

    def factor(self, sample: str) -> float:
        """By what the pixels of a sample are multiplied."""
        digest = hashlib.blake2b(f"{self.name}\0{sample}".encode(), digest_size=8).digest()
        return 1.0 + self.brightness * (2.0 * int.from_bytes(digest, "big") / 2.0**64 - 1.0)

    def apply(self, crops: np.ndarray, samples: Sequence[str]) -> np.ndarray:
        """The view of crops (n,S,S,3) uint8, of which each belongs to a sample (n,): uint8, rounded, cut off at 0 and 255."""
        if self.flip:
            crops = np.ascontiguousarray(crops[:, :, ::-1])
        if not self.brightness:
            return crops
        shades = np.arange(256)
        tables = {sample: np.clip(np.rint(shades * self.factor(sample)), 0, 255).astype(np.uint8) for sample in set(samples)}
        seen = np.empty_like(crops)
        for crop, sample, out in zip(crops, samples, seen, strict=True):
            np.take(tables[sample], crop, out=out)
        return seen


def parse_view(options: Sequence[str], *, name: str) -> View | None:
    """The view that `--view` options describe together; None where there are none. Raises ConfigError for anything else.

    Args:
        options: "flip", "brightness=R".
        name: as in `View`.
    """
    flip, brightness = False, 0.0
    for option in options:
        what, _, value = option.partition("=")
        if what in ("flip", "brightness") and [other.partition("=")[0] for other in options].count(what) > 1:
            raise UsageError(f"--view {what} is given twice", fix="Give it once")
        if option == "flip":
            flip = True
        elif what == "brightness":
            brightness = _ratio(option, value)
        else:
            raise UsageError(f"--view {option} is not known", fix=_HELP)
    return View(flip, brightness, name if brightness else "") if options else None


def view_of(config: Mapping[str, Any]) -> View | None:
    """The view that a token set's config declares. Raises ConfigError for one that this d2st does not know."""
    declared = config.get(VIEW)
    if declared is None:
        return None
    view = View(bool(declared.get("flip")), declared.get("brightness", 0.0), declared.get("name", ""))
    if view.declared() != declared:
        raise ConfigError(f"the view {declared} is not known", fix="Use the d2st that encoded it")
    return view


def _ratio(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ConfigError(f"--view {option} makes no sense", fix=_HELP)
    return value
