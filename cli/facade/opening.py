"""From a path to something that scores: the one place that knows what a detector may be stored as."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from d2st.pipeline.build.restore import FrontEnd
    from d2st.scoring import Scorer

__all__ = ["Opened", "open_detector", "open_run"]


@dataclass(frozen=True)
class Opened:
    """A detector that is ready to score.

    Attributes:
        scorer: clips to logits.
        front_end: media to clips.
        meta: what the detector says of itself: clip_frames (T that it looks at), and where known `operating`
            (`adapter.evaluate.operating.operating_points`) and `clip_s`, seconds that a training clip shows.
        digest: of the file's bytes: two detectors with the same one give the same results.
        path: the file that was opened.
    """

    scorer: "Scorer"
    front_end: "FrontEnd"
    meta: dict[str, Any]
    digest: str
    path: Path


def open_detector(
    path: Path | str, *, pretrained: str | None = None, detector_weights: Path | None = None, device: str = "auto"
) -> Opened:
    """Open whatever `path` is; arguments and errors as in `Detector.load`."""
    from d2st.cache.device import pick_device
    from d2st.exported import is_exported, is_hub_folder, open_exported, open_hub

    path = Path(path)
    open_it = open_exported if is_exported(path) else open_hub if is_hub_folder(path) else open_run
    return open_it(path, pretrained=pretrained, detector_weights=detector_weights, device=pick_device(device))


def open_run(path: Path | str, *, pretrained: str | None, detector_weights: Path | None, device: str) -> Opened:
    """Open a run, a stage or a checkpoint on `device`."""
    from d2st.adapter.evaluate.digest import checkpoint_digest
    from d2st.adapter.train.checkpoint import load_detector, resolve_checkpoint
    from d2st.pipeline.build.restore import restore_front_end
    from d2st.scoring import NetworkScorer

    path = resolve_checkpoint(path)
    network, meta = load_detector(path, device=device)
    front_end = restore_front_end(
        meta["config"],
        pretrained=pretrained or meta["notes"]["pretrained"],
        detector_weights=detector_weights,
        calibration=meta["calibration"],
        device=device,
    )
    scorer = NetworkScorer(network, clip_frames=meta["clip_frames"], calibration=meta["calibration"])
    return Opened(scorer, front_end, meta, checkpoint_digest(path), path)
