"""Faces that the user knows already: from the manifest's `box` and `landmarks`, or from a sidecar file.

The sidecar of `clip.mp4` is `clip.mp4.faces.json` beside it (of a folder of frames: `folder.faces.json` beside the folder):

    {"faces":  [{"box": [x0, y0, x1, y1], "landmarks": [[x, y], ...], "score": 0.98}],
     "frames": {"0": [{"box": [...]}, {"box": [...]}], "17": []}}

`faces` holds for every frame, `frames` for single ones by their number in the source, where it takes the place of `faces`; at
least one of the two is there. A face has a box, or five landmarks (left eye, right eye, nose, left and right mouth corner as
seen in the picture), or both, in px of the upright picture; score (0..1) is 1 if left out. A frame that neither mentions
shows no face. A sidecar goes before the manifest, since only it can tell frames apart. Anything else in the file is refused:
a misspelt key must not turn into a missing face.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from d2st.cache.errors import ManifestError

from .align import BOX_SCALE, crop_corners, fit_similarity, template_points
from .detections import Detections, make_detections

__all__ = ["given_detections", "sidecar_path"]

FIX = "See the format at the top of d2st.pipeline.faces.given"
Pixel = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
Point = tuple[Pixel, Pixel]


class _Face(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    box: tuple[Pixel, Pixel, Pixel, Pixel] | None = None
    landmarks: tuple[Point, Point, Point, Point, Point] | None = None
    score: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.box is None and self.landmarks is None:
            raise ValueError("a face needs a box or landmarks")
        if self.box is not None and not (self.box[2] > self.box[0] and self.box[3] > self.box[1]):
            raise ValueError("a box is x0, y0, x1, y1 with x1 > x0 and y1 > y0")
        if self.landmarks is not None:
            left, right, _, *mouth = np.array(self.landmarks)
            eyes, down = right - left, sum(mouth) / 2 - (left + right) / 2
            if eyes[0] * down[1] - eyes[1] * down[0] <= 0:
                raise ValueError("landmarks are mirrored or lie on one line (left and right are as seen in the picture)")
        return self


class _Sidecar(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    faces: list[_Face] | None = None
    frames: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)$")], list[_Face]] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.faces is None and self.frames is None:
            raise ValueError("neither faces nor frames is given")
        return self


def sidecar_path(media: Path) -> Path:
    """Where the sidecar of a media file or folder of frames would lie."""
    return media.with_name(media.name + ".faces.json")


def given_detections(
    media: Path, indices: Sequence[int], *, box: Sequence[float] | None = None, landmarks: Sequence[float] | None = None
) -> list[Detections] | None:
    """The faces given for the frames with these source numbers, one `Detections` a frame, or None if none are given.

    box (4 numbers) and landmarks (10 numbers): the manifest's columns, for all frames alike; a sidecar of `media` goes first.
    Raises ManifestError, naming file and place, if the values can't be what they should be.
    """
    sidecar = sidecar_path(media)
    try:
        text = sidecar.read_bytes()
    except FileNotFoundError:
        return None if box is None and landmarks is None else [_from_manifest(media, box, landmarks)] * len(indices)
    except OSError as error:
        raise ManifestError(f"the sidecar {sidecar} can't be read ({error.strerror})", fix=FIX) from error
    try:
        given = _Sidecar.model_validate_json(text)
    except ValidationError as error:
        raise ManifestError(f"the sidecar {sidecar} is wrong at {_first(error)}", fix=FIX) from error
    frames = given.frames or {}
    return [_detections(frames.get(str(index), given.faces or [])) for index in indices]


def _from_manifest(media: Path, box: Sequence[float] | None, landmarks: Sequence[float] | None) -> Detections:
    try:
        points = None if landmarks is None else tuple(zip(landmarks[::2], landmarks[1::2], strict=True))
        face = _Face(box=None if box is None else tuple(box), landmarks=points)
    except ValidationError as error:
        raise ManifestError(f"the manifest's face of {media} is wrong at {_first(error)}") from error
    except ValueError as error:  # an odd count of numbers
        raise ManifestError(f"the manifest's landmarks of {media} are {len(landmarks)} numbers and not 10") from error
    return _detections([face])


def _detections(faces: Sequence[_Face]) -> Detections:
    unknown = np.full((5, 2), np.nan)
    faces = sorted(faces, key=lambda face: -face.score)
    boxes = [_box_around(face.landmarks) if face.box is None else face.box for face in faces]
    return make_detections(boxes, [f.score for f in faces], [unknown if f.landmarks is None else f.landmarks for f in faces])


def _box_around(landmarks: Sequence[Point]) -> tuple[float, ...]:
    """A detector-like box for a face of which only landmarks are known: the crop's square, less the margin around boxes."""
    matrix = fit_similarity(template_points(1), np.array(landmarks))  # from the unit crop to the image
    middle = (np.append(crop_corners(1), np.ones((4, 1)), axis=1) @ matrix.T).mean(axis=0)
    half = float(np.hypot(matrix[0, 0], matrix[1, 0])) / BOX_SCALE / 2
    return (*(middle - half), *(middle + half))


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    place = " > ".join(str(part) for part in first["loc"]) or "its top level"
    return f"{place}: {first['msg']}"
