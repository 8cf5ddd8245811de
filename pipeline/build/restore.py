"""The way from media to token maps, rebuilt from a store's or a checkpoint's declared config, for files outside of the store."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from d2st.cache.codec import Calibration
from d2st.cache.errors import ConfigError, WeightsError
from d2st.cache.fingerprint import check_same
from d2st.cache.views import VIEW
from d2st.pipeline.build.clip_stream import stream_clips
from d2st.pipeline.build.clips import ClipClocks, ClipEvent, FileEnd
from d2st.pipeline.build.crop import CropSettings, declared_crops
from d2st.pipeline.build.run import declared_tokens
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import FaceDetector, build_detector

__all__ = ["FrontEnd", "restore_cropping", "restore_front_end"]

WHERE, FIX = "the checkpoint's cache", "Use the d2st that built it"


@dataclass(frozen=True)
class FrontEnd:
    """Everything between a media file and its token maps, with the settings of the build.

    `encoder` is None for a detector that takes crops; `device` is where the face detector computes.
    """

    detector: FaceDetector
    settings: CropSettings
    encoder: Encoder | None
    device: str = "cpu"

    def encode_clips(
        self,
        files: Iterable[tuple[str, str]],
        *,
        window_s: float | None = None,
        all_faces: bool = False,
        workers: int | None = None,
        clocks: ClipClocks | None = None,
    ) -> Iterator[ClipEvent | FileEnd]:
        """Yield the clips of (path, kind) pairs, file by file in order, and behind those of each file its `FileEnd`.

        A file that is one clip gives the crops and token maps that a build would keep. A file that can't be used gives its error, in its
        `FileEnd` if it can't be read and in place of a clip if it shows no face; the rest goes on.

        Args:
            files: kinds are image, video and frames. It is read in a thread of its own, a little ahead, and may block.
            window_s: videos longer than twice this come in windows of it, as they are read; None for one clip a file.
            all_faces: every face that covers at least a third of its window, numbered through the file; else the main one.
            workers: decoding processes; one a core if None.
            clocks: get the time that each stage works.

        Raises:
            RunError: decoding processes can't be started. WeightsError: the backbone gives values that are not finite.
        """
        return stream_clips(
            files,
            self.detector,
            self.settings,
            self.encoder,
            device=self.device,
            window_s=window_s,
            all_faces=all_faces,
            workers=workers,
            clocks=clocks or ClipClocks(),
        )


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
    cropping = restore_cropping(config["crops"], detector_weights=detector_weights, device=device)
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
    check_same(config, declared_tokens(encoder, cropping.settings, cropping.detector), where=WHERE, fix=FIX)
    return replace(cropping, encoder=encoder)


def restore_cropping(declared: dict[str, Any], *, detector_weights: Path | None = None, device: str = "cpu") -> FrontEnd:
    """Rebuild the way from media to crops alone, without an encoder.

    Args:
        declared: as `declared_crops` gives it; `config["crops"]` of a tokens level.
        detector_weights: the detector's file, for a detector that needs one.

    Raises:
        WeightsError: the detector's weights are missing, or not those of the build.
        FingerprintError: this version of d2st would make other crops than the build did.
    """
    settings = CropSettings(declared["frames"], declared["sampling"], declared["size"], declared["margin_ratio"])
    detector = build_detector(declared["detector"], weights=detector_weights, device=device)
    if detector.digest != declared["detector_digest"]:
        raise WeightsError(
            f"the weights of detector {detector.name} are not those that the cache was built with",
            fix="Name the same file with --detector-weights",
        )
    check_same(declared, declared_crops(settings, detector), where=WHERE, fix=FIX)
    return FrontEnd(detector, settings, None, device)
