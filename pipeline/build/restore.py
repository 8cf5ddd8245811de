"""The way from media to token maps, rebuilt from a store's or a checkpoint's declared config, for files outside of the store."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from d2st.cache.codec import Calibration
from d2st.cache.errors import ConfigError, D2stError, MediaError, WeightsError
from d2st.cache.fingerprint import check_same
from d2st.cache.views import VIEW
from d2st.pipeline.build.crop import CropSettings, crop_frames
from d2st.pipeline.build.run import declared_tokens
from d2st.pipeline.clip import Encoder, Tokens, load_backbone
from d2st.pipeline.faces import FaceDetector, build_detector, given_detections
from d2st.pipeline.media import DecodePool, Job

__all__ = ["EncodedFile", "FrontEnd", "restore_front_end"]


@dataclass(frozen=True)
class EncodedFile:
    """One file's crops (T,S,S,3) uint8, their token maps, and what is to be remembered of it."""

    crops: np.ndarray
    tokens: Tokens
    info: dict[str, Any]


@dataclass(frozen=True)
class FrontEnd:
    """Everything between a media file and its token maps, with the settings of the build."""

    detector: FaceDetector
    settings: CropSettings
    encoder: Encoder

    def encode_files(
        self, files: Iterable[tuple[str, str]], *, workers: int | None = None
    ) -> Iterator[EncodedFile | D2stError]:
        """Encode (path, kind) pairs in order; a file that can't be used gives its error in place of a result."""
        jobs = [
            Job(str(number), path, kind, self.settings.frames, self.settings.sampling)
            for number, (path, kind) in enumerate(files)
        ]
        with DecodePool(workers) as pool:
            for job, frames in pool.map(jobs):
                if isinstance(frames, MediaError):
                    yield frames
                    continue
                try:
                    given = given_detections(Path(job.path), frames.indices)
                    crops, info = crop_frames(frames, self.detector, self.settings, given)
                except D2stError as error:
                    yield error
                    continue
                yield EncodedFile(crops, self.encoder.encode(crops), info)


def restore_front_end(
    config: dict[str, Any],
    *,
    pretrained: str,
    detector_weights: Path | None = None,
    calibration: Calibration | None = None,
    device: str = "cpu",
) -> FrontEnd:
    """Rebuild the front end that the config of a tokens level declares.

    Args:
        config: as `declared_tokens` gives it.
        pretrained: where the backbone's weights are: an open_clip tag, a file, or random:SEED.
        detector_weights: the detector's file, for a detector that needs one.
        calibration: by which the level's int8 maps were quantised, so that these are quantised alike; not needed for other dtypes.

    Raises:
        ConfigError: int8 maps without the calibration of all layers; or the config of a view, which is for training alone.
        WeightsError: weights that are not those of the build.
        FingerprintError: this version of d2st would make other crops or maps than the build did.
    """
    if VIEW in config:
        raise ConfigError(
            f"it was trained on a view of the crops alone ({config[VIEW]}), and files are scored as they are",
            fix="Train with the main token set open (--tokens main) and the view among data.views",
        )
    declared = config["crops"]
    settings = CropSettings(declared["frames"], declared["sampling"], declared["size"], declared["margin_ratio"])
    detector = build_detector(declared["detector"], weights=detector_weights, device=device)
    if detector.digest != declared["detector_digest"]:
        raise WeightsError(
            f"the weights of detector {detector.name} are not those that the cache was built with",
            fix="Name the same file with --detector-weights",
        )
    try:
        backbone = load_backbone(
            config["backbone"], pretrained, device=device, precision=config["precision"], image_size=config["image_size"]
        )
    except WeightsError as error:
        fix = "Name the weights that the cache was built with, a tag or a file, by --pretrained"
        raise WeightsError(f"{error.message} ({error.fix})" if error.fix else error.message, fix=fix) from error
    if backbone.weights_digest != config["weights_digest"]:
        raise WeightsError(
            f"the weights of {backbone.name} from {pretrained!r} are not those that the cache was built with",
            fix="Name the same weights with --pretrained",
        )
    encoder = Encoder(backbone, config["layers"], micro_batch=config["micro_batch"], dtype=config["dtype"])
    if encoder.dtype == "int8":
        encoder.calibration = calibration or {}
    check_same(
        config, declared_tokens(encoder, settings, detector), where="the checkpoint's cache", fix="Use the d2st that built it"
    )
    return FrontEnd(detector, settings, encoder)
