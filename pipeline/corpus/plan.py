"""What the corpus holds: identities to splits, takes to clips and pictures, manipulations to takes.

A fake is made from the very take of which the corpus also holds the unmanipulated file (as in FaceForensics++), with the
same light, motion, camera and encoder settings: scene, length or brightness can't tell a detector the label.
The plan is a pure function of the seed and the number of identities, and no identity (donors included) leaves its split.
"""

from dataclasses import dataclass

import numpy as np

from d2st.cache.errors import ConfigError

__all__ = [
    "CORPUS_VERSION",
    "IMAGE_METHODS",
    "SEEN_METHODS",
    "SPLITS",
    "UNSEEN_METHODS",
    "VIDEO_METHODS",
    "Sample",
    "plan_corpus",
]

CORPUS_VERSION = 1
SPLITS = ("train", "val", "test")
SEEN_METHODS = ("swap", "flicker", "lipsync")
UNSEEN_METHODS = ("upsample", "smooth")  # in the test split alone
VIDEO_METHODS = SEEN_METHODS + UNSEEN_METHODS
IMAGE_METHODS = ("swap", "upsample", "smooth")  # flicker and lip-sync need time
_SHARES = (22, 5, 9)  # identities of 36 to train, val, test
_FEWEST_IDENTITIES = 6  # two a split: a swap needs a donor

# samples an identity: takes of real video, fakes of each video method, real pictures, fakes of each picture method
_RATES: dict[str, tuple[float, float, float, float]] = {
    "train": (3, 1.2, 4, 3),
    "val": (3, 1, 3, 3),
    "test": (4, 1.5, 3, 1.5),
}


@dataclass(frozen=True)
class Sample:
    """One file of the corpus. `take` numbers the takes of an identity; a fake shares its take with a real sample."""

    split: str
    method: str  # "real" or one of VIDEO_METHODS
    kind: str  # "video" or "image"
    identity: int
    take: int
    donor: int | None = None  # swap: whose inner face

    @property
    def stem(self) -> str:
        donor = "" if self.donor is None else f"id{self.donor:03d}_"
        return f"id{self.identity:03d}_{donor}{self.take}"

    @property
    def path(self) -> str:
        """Below the corpus root, posix."""
        folder = "real" if self.method == "real" else f"fake/{self.method}"
        return f"{self.split}/{folder}/{self.stem}{'.mp4' if self.kind == 'video' else '.jpg'}"

    @property
    def mask_path(self) -> str | None:
        """Where the manipulated region of a fake is kept; outside the split folders, and no picture format."""
        return None if self.method == "real" else f"masks/{self.split}/{self.method}/{self.stem}.npz"


def plan_corpus(seed: int, identities: int) -> list[Sample]:
    """Every sample, in the order of identities. Raises ConfigError for fewer than 6 identities."""
    samples: list[Sample] = []
    for split, members in _split_identities(seed, identities).items():
        real_videos, fake_videos, real_images, fake_images = _RATES[split]
        for place, identity in enumerate(members):
            rng = np.random.default_rng([seed, 11, identity])
            others = [other for other in members if other != identity]
            for kind, real, rate, first in (
                ("video", int(real_videos), fake_videos, 0),
                ("image", int(real_images), fake_images, int(real_videos)),
            ):
                samples += [Sample(split, "real", kind, identity, first + k) for k in range(real)]
                for turn, method in enumerate(_methods(split, kind)):
                    count = int((place + 1) * rate) - int(place * rate)
                    for k in range(count):
                        donor = int(rng.choice(others)) if method == "swap" else None
                        samples.append(Sample(split, method, kind, identity, first + (place + turn + k) % real, donor))
    return sorted(samples, key=lambda sample: (sample.identity, sample.path))


def _methods(split: str, kind: str) -> tuple[str, ...]:
    of_kind = VIDEO_METHODS if kind == "video" else IMAGE_METHODS
    return tuple(method for method in of_kind if split == "test" or method not in UNSEEN_METHODS)


def _split_identities(seed: int, identities: int) -> dict[str, list[int]]:
    if identities < _FEWEST_IDENTITIES:
        raise ConfigError(f"{identities} identities are too few for three splits", fix=f"Ask for {_FEWEST_IDENTITIES} or more")
    order = [int(i) for i in np.random.default_rng([seed, 10]).permutation(identities)]
    val = max(2, round(identities * _SHARES[1] / sum(_SHARES)))
    test = max(2, round(identities * _SHARES[2] / sum(_SHARES)))
    train = identities - val - test
    return {"train": sorted(order[:train]), "val": sorted(order[train : train + val]), "test": sorted(order[train + val :])}
