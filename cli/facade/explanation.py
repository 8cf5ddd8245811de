"""Why a file has its score: `Detector.load("runs/mine").explain("clip.mp4").write("why")`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from d2st.adapter.explain import Caption, Evidence

__all__ = ["Explanation"]

FRAME_S = 0.5  # how long the film shows each frame
FILM_FPS = 8.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one clip of a file has its score.

    Attributes:
        path: as it was given. kind: image, video or frames.
        start_s, end_s: the window that is explained; both 0 for an image.
        windows: how many the file has; this is the one with the highest logit.
        logit, score, probability, threshold, fake: of this window, as in `Prediction`.
        frame_probabilities: (T,) calibrated P(fake) of its frames.
        timestamps_s: (T,) of its frames, seconds from the start of the file.
        crops: (T,S,S,3) uint8 RGB, what the network was shown.
        boxes: (T,4) px of the source frame. matrices: (T,2,3), from those px to px of the crop.
        evidence: see `d2st.adapter.explain`.
        detector: what was explained, in a few words.
    """

    path: str
    kind: str
    start_s: float
    end_s: float
    windows: int
    logit: float
    score: float
    probability: float
    threshold: float
    fake: bool
    frame_probabilities: tuple[float, ...]
    timestamps_s: tuple[float, ...]
    crops: "np.ndarray"
    boxes: "np.ndarray"
    matrices: "np.ndarray"
    evidence: "Evidence"
    detector: str

    def document(self) -> dict[str, Any]:
        """Everything but the pixels, as JSON values."""
        from d2st.adapter.explain import evidence_document

        named = (
            "path",
            "kind",
            "start_s",
            "end_s",
            "windows",
            "logit",
            "score",
            "probability",
            "threshold",
            "fake",
            "detector",
        )
        return {
            **{name: getattr(self, name) for name in named},
            "timestamps_s": list(self.timestamps_s),
            "frame_probabilities": list(self.frame_probabilities),
            "boxes": self.boxes.tolist(),
            "source_to_crop": self.matrices.tolist(),
            "crop_px": self.crops.shape[1],
            "evidence": evidence_document(self.evidence),
        }

    def png(self) -> bytes:
        """The figure: kinds of evidence by frames."""
        from d2st.adapter.explain import evidence_png

        return evidence_png(self.crops, self.evidence, self._caption())

    def film(self) -> "Iterator[np.ndarray]":
        """The same over time: one picture (H,W,3) uint8 RGB a frame."""
        from d2st.adapter.explain import evidence_film

        return evidence_film(self.crops, self.evidence, self._caption())

    def write(self, folder: Path | str, *, name: str | None = None) -> list[Path]:
        """Write NAME.json, NAME.png and, of a clip of several frames, NAME.mp4; the name is the file's by default. Returns their paths."""
        import json
        from itertools import chain, repeat

        from d2st.cache.files import write_atomic
        from d2st.pipeline.media.encode import write_h264

        folder, name = Path(folder), name or Path(self.path).stem
        folder.mkdir(parents=True, exist_ok=True)
        made = [folder / f"{name}.json", folder / f"{name}.png"]
        write_atomic(made[0], json.dumps(self.document()).encode())
        write_atomic(made[1], self.png())
        if len(self.crops) > 1:
            made.append(folder / f"{name}.mp4")
            held = chain.from_iterable(repeat(picture, round(FRAME_S * FILM_FPS)) for picture in self.film())
            write_h264(made[2], held, fps=FILM_FPS, crf=16)
        return made

    def _caption(self) -> "Caption":
        from d2st.adapter.explain import Caption

        verdict = "fake" if self.fake else "real"
        about = [f"threshold {self.threshold:.2f}", self.detector]
        if self.kind != "image":
            where = f"{self.start_s:.1f}-{self.end_s:.1f} s"
            about.insert(0, f"{where}, the most suspicious of {self.windows} windows" if self.windows > 1 else where)
        name = os.fsencode(Path(self.path).name).decode(errors="backslashreplace")  # a name may hold bytes that are no text
        title = f"{name}: P(fake) {self.probability:.3f}, called {verdict}"
        return Caption(title, "  |  ".join(about), self.frame_probabilities, self.threshold, self.timestamps_s)
