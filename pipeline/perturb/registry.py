"""The perturbations by name, each at five severities. A new one is a function and an entry here.

The scales are those of published benchmarks wherever these have one for the purpose, so that curves can be held beside others:

- DeeperForensics-1.0 (Jiang, Li, Wu, Qian and Loy, CVPR 2020), as its code has them: noise by its variances 0.001 to 0.05, here on RGB in
  place of YCbCr; H.264 by its CRFs; resize by the factors of what it calls JPEG compression, which makes pictures smaller and larger again
  (here by area means and bicubic interpolation).
- ImageNet-C (Hendrycks and Dietterich, ICLR 2019): blur, whose deviations of 1 to 6 px on 224 px we apply as shares of the crop's side.
- JPEG is ours: from quality 90, which cameras write, past the 70 to 80 of social networks, down to 10. ImageNet-C starts at 25.

They change face crops, where those benchmarks change whole pictures before faces are found: a file that is re-encoded and then cropped
has been scaled in between, and its face may be found elsewhere or not at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from d2st.cache.errors import UnknownNameError, UsageError
from d2st.pipeline.perturb.pictures import blur, jpeg, noise, resize
from d2st.pipeline.perturb.video import h264

__all__ = ["ALL", "SEVERITIES", "Perturbation", "parse_perturbations", "perturbation_names"]

ALL = "all"
SEVERITIES = (1, 2, 3, 4, 5)
Change = Callable[[np.ndarray, float, str], np.ndarray]


@dataclass(frozen=True)
class Perturbation:
    """One way to spoil crops.

    Attributes:
        name: in the registry.
        parameter: what `values` are, with their unit.
        values: of severities 1 to 5.
        source: whose scale it is.
        change: of crops (T,S,S,3) uint8, a value and the sample's id; gives crops of the same shape.
    """

    name: str
    parameter: str
    values: tuple[float, float, float, float, float]
    source: str
    change: Change

    def apply(self, crops: np.ndarray, sample: str, *, severity: int) -> np.ndarray:
        """The crops (T,S,S,3) uint8 of the sample with this id at severity 1 to 5, of the same shape; the same for the same arguments."""
        return self.change(crops, self.values[SEVERITIES.index(severity)], sample)


_DEEPERFORENSICS, _IMAGENET_C = "DeeperForensics-1.0 (CVPR 2020)", "ImageNet-C (ICLR 2019)"
PERTURBATIONS = {
    made.name: made
    for made in (
        Perturbation("jpeg", "quality", (90, 70, 50, 30, 10), "d2st's own", lambda crops, value, _: jpeg(crops, value)),
        Perturbation(
            "blur",
            "sigma, % of the side",
            (0.45, 0.89, 1.34, 1.79, 2.68),  # 1, 2, 3, 4 and 6 of 224 px
            _IMAGENET_C,
            lambda crops, value, _: blur(crops, value / 100),
        ),
        Perturbation(
            "noise",
            "sigma, of 255",
            (8.1, 11.4, 18.0, 25.5, 57.0),  # 255 * sqrt(0.001, 0.002, 0.005, 0.01, 0.05)
            _DEEPERFORENSICS,
            lambda crops, value, sample: noise(crops, value, sample=sample),
        ),
        Perturbation(
            "resize", "times smaller", (2, 3, 4, 5, 6), _DEEPERFORENSICS, lambda crops, value, _: resize(crops, value)
        ),
        Perturbation("h264", "CRF", (30, 32, 35, 38, 40), _DEEPERFORENSICS, lambda crops, value, _: h264(crops, value)),
    )
}


def perturbation_names() -> list[str]:
    """The names that `parse_perturbations` knows, sorted."""
    return sorted(PERTURBATIONS)


def parse_perturbations(text: str) -> list[Perturbation]:
    """The perturbations that a comma-separated list names, in its order, each once; "all" is all of them.

    Raises:
        UnknownNameError: a name is not registered; lists those that are.
        UsageError: there is no name at all.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--perturb names nothing", fix=f"Use {ALL}, or some of {', '.join(PERTURBATIONS)}")
    if names == [ALL]:
        return list(PERTURBATIONS.values())
    for name in names:
        if name not in PERTURBATIONS:
            raise UnknownNameError("perturbation", name, [ALL, *PERTURBATIONS])
    return [PERTURBATIONS[name] for name in names]
