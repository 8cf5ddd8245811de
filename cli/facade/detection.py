"""A trained detector for media files: `Detector.load("runs/mine").predict("clip.mp4")`.

It runs the same decoding, cropping, encoding and scoring code as `d2st cache build` and `d2st eval`; the token maps are even rounded to the
cache's dtype, or quantised by its calibration. So the score of a file that is one clip is the one that the cache would give. Longer videos
come in windows, each as long as the clips that the detector was trained on.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from d2st.cache.errors import ConfigError, D2stError
from d2st.prediction import Doubt, Face, Prediction, Window

if TYPE_CHECKING:
    from d2st.explanation import Explanation
    from d2st.opening import Opened
    from d2st.pipeline.build.clips import EncodedClip
    from d2st.pipeline.build.flow import Clock
    from d2st.scoring import Scored

__all__ = ["Detector", "Doubt", "Face", "Prediction", "Window", "media_kind"]

AUTO: Literal["auto"] = "auto"
TINY = 1e-15  # as near to 0 or 1 as a score is taken for


class Detector:
    """A trained detector with the front end that its cache was built with. Make one with `load`.

    Attributes:
        opened: scorer, front end, and what the detector says of itself.
    """

    def __init__(self, opened: "Opened") -> None:
        from d2st.adapter.evaluate.operating import Operating

        self.opened = opened
        self.operating = Operating(opened.meta.get("operating") or {})

    @classmethod
    def load(
        cls, run: Path | str, *, pretrained: str | None = None, detector_weights: Path | None = None, device: str = "auto"
    ) -> "Detector":
        """Load a run, one of its stages, a checkpoint file, or what `d2st export` made of one (.pt2, .onnx, a hub folder).

        Args:
            run: the path of any of them; a run means its highest stage.
            pretrained: the backbone's weights (tag, file or random:SEED) when they are not where the build had them.
            detector_weights: the face detector's file, for a cache that was built with one.
            device: auto, cpu, cuda or cuda:N.

        Raises:
            RunError: no usable checkpoint there.
            WeightsError: the backbone's or the face detector's weights are missing, or not those of the build.
        """
        from d2st.opening import open_detector

        return cls(open_detector(run, pretrained=pretrained, detector_weights=detector_weights, device=device))

    @property
    def clip_s(self) -> float | None:
        """Seconds of video that a training clip shows; None where the detector does not know."""
        return self.opened.meta.get("clip_s")

    def calibrated(self, kind: str, scores: Iterable[float]) -> list[float]:
        """Raw scores of files of `kind`, such as `frame_scores`, on the scale of `probability` and `threshold`."""
        inside = (min(max(score, TINY), 1 - TINY) for score in scores)
        return [self.operating.probability(kind, log(score / (1 - score))) for score in inside]

    def predict(
        self,
        path: Path | str,
        *,
        all_faces: bool = False,
        window_s: float | Literal["auto"] | None = AUTO,
        fpr: float | None = None,
    ) -> Prediction:
        """Score one image, video or folder of frames; arguments as in `predict_files`.

        Raises:
            MediaError: it can't be used; carries a reason code.
            ConfigError: as `predict_files`.
        """
        found = next(self.predict_files([path], all_faces=all_faces, window_s=window_s, fpr=fpr, workers=1))
        if isinstance(found, D2stError):
            raise found
        return found

    def predict_files(
        self,
        paths: Iterable[Path | str],
        *,
        all_faces: bool = False,
        window_s: float | Literal["auto"] | None = AUTO,
        fpr: float | None = None,
        workers: int | None = None,
        on_window: Callable[[str, Window], None] = lambda path, window: None,
        clocks: "dict[str, Clock] | None" = None,
    ) -> Iterator[Prediction | D2stError]:
        """Score files in order; one that can't be used gives its error in place of a prediction, and the rest goes on.

        Results come while later files are still being read, and memory does not grow with the length of a video.

        Args:
            paths: images, videos, folders of frames.
            all_faces: score each face that could be followed; a file's score is then that of its most suspicious one.
            window_s: a video longer than twice this is scored in windows of this many seconds. "auto" means the length of the clips that
                the detector was trained on; None scores every file as one clip.
            fpr: cut at the lowest threshold whose false positive rate on validation is at most this; by default at the stored one.
            workers: decoding processes; by default one a core.
            on_window: told of each clip as soon as it is scored.
            clocks: gets one clock a part, which runs while that works: decode, faces, clip, adapter.

        Raises:
            ConfigError: `window_s` or `fpr` makes no sense, or the checkpoint has no validation scores to choose by `fpr`.
        """
        from d2st.assembling import assemble
        from d2st.judging import Judge
        from d2st.pipeline.build.clips import ClipClocks
        from d2st.pipeline.build.flow import Clock

        window_s = self.clip_s if window_s == AUTO else window_s
        if window_s is not None and not 0 < window_s < float("inf"):
            raise ConfigError(f"a window lasts a positive number of seconds, got {window_s:g}", fix="Give one such as 4")
        judge = Judge(self.operating, fpr=fpr)
        judge.threshold("video")  # an impossible rate costs no work
        files: list[tuple[str, str]] = []

        def listed() -> Iterator[tuple[str, str]]:
            for path in paths:
                files.append((str(path), media_kind(Path(path))))
                yield files[-1]

        stages, clock = ClipClocks(), Clock()
        if clocks is not None:
            clocks.update(decode=stages.decode, faces=stages.faces, clip=stages.clip, adapter=clock)

        def score(clips: "list[EncodedClip]") -> "list[Scored]":
            with clock.running():
                return self.opened.scorer.score(clips)

        events = self.opened.front_end.encode_clips(
            listed(), window_s=window_s, all_faces=all_faces, workers=workers, clocks=stages
        )
        return assemble(
            events,
            files,
            score=score,
            clip_frames=self.opened.meta["clip_frames"],
            judge=judge,
            on_window=on_window,
        )

    def explain(self, path: Path | str, *, window_s: float | Literal["auto"] | None = AUTO) -> "Explanation":
        """Why one image, video or folder of frames has its score; of a long video, its most suspicious window.

        Raises:
            MediaError: it can't be used; carries a reason code.
            ConfigError: the detector reads no token maps, or is an exported graph.
        """
        from d2st.explaining import explain_files

        found = next(explain_files(self, [path], window_s=window_s, workers=1))
        if isinstance(found, D2stError):
            raise found
        return found


def media_kind(path: Path) -> str:
    """What a path is read as: image, video or frames (a folder). A name that says nothing is judged by its first bytes."""
    from d2st.pipeline.manifest.walk import media_kind as kind_of_name

    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long, and below a folder that may not be read
        return "frames"
    return kind_of_name(path.name) or ("image" if _looks_like_image(path) else "video")


def _looks_like_image(path: Path) -> bool:
    """For names without a known extension: does Pillow know the header?"""
    from PIL import Image, UnidentifiedImageError

    if not os.path.isfile(path):  # a pipe would be waited for, for ever
        return False
    try:
        with Image.open(path):
            return True
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return False
