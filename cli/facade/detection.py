"""A trained detector for media files: `Detector.load("runs/mine").predict("clip.mp4")`.

It runs the same decoding, cropping, encoding and scoring code as `d2st cache build` and `d2st eval`; the token maps are even rounded to the
cache's dtype, or quantised by its calibration. So a file's score is the one that the cache would give.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import D2stError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from d2st.adapter.nets import Detector as Network
    from d2st.cache.codec import Calibration
    from d2st.cache.loader import Batch, Request
    from d2st.pipeline.build.restore import EncodedFile, FrontEnd

__all__ = ["Detector", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """What a detector says of one file.

    Attributes:
        path: as it was given.
        kind: image, video or frames (a folder of images).
        score: P(fake), 0..1; `logit` is its log-odds.
        frame_scores: P(fake) of each frame, at `timestamps_s` seconds (0 for an image).
        info: how the file was decoded and cropped (JSON values).
    """

    path: str
    kind: str
    score: float
    logit: float
    frame_scores: tuple[float, ...]
    timestamps_s: tuple[float, ...]
    info: dict[str, Any]


class Detector:
    """A checkpoint with the front end that its cache was built with. Make one with `load`.

    Args:
        network: the trained adapter and head.
        front_end: media file to token maps.
        clip_frames: T that the network looks at; 1 scores frames one by one and averages their logits.
    """

    def __init__(self, network: "Network", front_end: "FrontEnd", *, clip_frames: int) -> None:
        self._network = network
        self._front_end = front_end
        self._clip_frames = clip_frames

    @classmethod
    def load(
        cls, run: Path | str, *, pretrained: str | None = None, detector_weights: Path | None = None, device: str = "auto"
    ) -> "Detector":
        """Load a run, one of its stages, or a checkpoint file.

        Args:
            run: the path of any of them; a run means its highest stage.
            pretrained: the backbone's weights (tag, file or random:SEED) when they are not where the build had them.
            detector_weights: the face detector's file, for a cache that was built with one.
            device: auto, cpu, cuda or cuda:N.

        Raises:
            RunError: no usable checkpoint there.
            WeightsError: the backbone's or the face detector's weights are missing, or not those of the build.
        """
        from d2st.adapter.train import load_detector
        from d2st.cache.device import pick_device
        from d2st.pipeline.build.restore import restore_front_end

        device = pick_device(device)
        network, meta = load_detector(run, device=device)
        front_end = restore_front_end(
            meta["config"],
            pretrained=pretrained or meta["notes"]["pretrained"],
            detector_weights=detector_weights,
            calibration=meta["calibration"],
            device=device,
        )
        return cls(network, front_end, clip_frames=meta["clip_frames"])

    def predict(self, path: Path | str) -> Prediction:
        """Score one image, video or folder of frames. Raises MediaError, with a reason code, when it can't be used."""
        found = next(self.predict_files([path]))
        if isinstance(found, D2stError):
            raise found
        return found

    def predict_files(self, paths: Iterable[Path | str], *, workers: int | None = None) -> Iterator[Prediction | D2stError]:
        """Score files in order; one that can't be used gives its error in place of a prediction, and the rest goes on."""
        files = [(str(path), _kind(Path(path))) for path in paths]
        for (path, kind), encoded in zip(files, self._front_end.encode_files(files, workers=workers), strict=True):
            yield encoded if isinstance(encoded, D2stError) else self._score(path, kind, encoded)

    def _score(self, path: str, kind: str, encoded: "EncodedFile") -> Prediction:
        import polars as pl

        from d2st.adapter.evaluate.score import score_samples

        count = len(encoded.crops)
        sample = pl.DataFrame(
            {
                **dict.fromkeys(("dataset", "method", "label", "split", "identity")),
                "sample_id": path,
                "video_id": path,
                "kind": kind,
                "start": 0,
                "frames_cached": count,
            }
        )
        source = _InMemory(encoded, self._front_end.encoder.calibration)
        found = score_samples(self._network, source, sample, clip_frames=self._clip_frames).row(0, named=True)
        scores = tuple(found["frame_scores"])
        times = encoded.info["timestamps_s"] if len(scores) == count else _chosen(encoded.info["timestamps_s"], len(scores))
        return Prediction(path, kind, found["score"], found["logit"], scores, tuple(times), encoded.info)


class _InMemory:
    """One file's token maps behind the interface of `cache.TokenLoader`."""

    def __init__(self, encoded: "EncodedFile", calibration: "Calibration") -> None:
        from d2st.cache.codec import as_tensor, decode

        arrays = encoded.tokens.arrays
        layers = [name.removesuffix("/cls") for name in arrays if name.endswith("/cls")]
        self._maps = {
            layer: decode(arrays[f"{layer}/maps"], arrays.get(f"{layer}/scales"), calibration.get(layer)) for layer in layers
        }
        self._cls = {layer: as_tensor(arrays[f"{layer}/cls"]) for layer in layers}

    def stream(self, requests: "Iterable[Request]") -> "Iterator[Batch]":
        import torch

        from d2st.cache.loader import Batch

        for request in requests:
            mask = torch.from_numpy(request.rows >= 0)  # (B,T)
            maps = {layer: _take(values, request.rows) for layer, values in self._maps.items()}
            yield Batch(maps, {layer: _take(values, request.rows) for layer, values in self._cls.items()}, mask, request.tag)


def _take(values: "Tensor", rows: "np.ndarray") -> "Tensor":
    """values (N,...) at rows (B,T): (B,T,...), zero at padding (-1)."""
    import torch

    taken = values[torch.from_numpy(rows)]
    taken[torch.from_numpy(rows < 0)] = 0
    return taken


def _chosen(times: list[float], count: int) -> list[float]:
    """The times of the frames that a clip of `count` takes of all."""
    from d2st.adapter.rows import clip_rows

    return [times[row] for row in clip_rows(0, len(times), count)]


def _kind(path: Path) -> str:
    """What a path is read as. Raises MediaError for a name that says nothing and is no file or folder."""
    from d2st.pipeline.manifest.walk import media_kind

    if path.is_dir():
        return "frames"
    return media_kind(path.name) or ("image" if _looks_like_image(path) else "video")


def _looks_like_image(path: Path) -> bool:
    """For names without a known extension: does Pillow know the header?"""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            return True
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return False
