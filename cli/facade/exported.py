"""Detectors that come as one exported file, or as a folder from a model hub: opened for `Detector.load`.

A file made `--with-backbone` needs nothing else; one of adapter and head alone gets its token maps from the backbone as a checkpoint does.
The scores are the checkpoint's, to the difference that the file records.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2st.scoring import BATCH_FRAMES, Scored, check_finite, chosen_frames

if TYPE_CHECKING:
    import numpy as np

    from d2st.adapter.export.program import Program
    from d2st.opening import Opened
    from d2st.pipeline.build.clips import EncodedClip

__all__ = ["ProgramScorer", "is_exported", "is_hub_folder", "open_exported", "open_hub"]

CONFIG, MODEL = "config.json", "model.safetensors"


def is_exported(path: Path) -> bool:
    """Whether `path` is a file that `d2st export pt2` or `onnx` may have written."""
    from d2st.adapter.export.program import SUFFIXES

    return path.suffix in SUFFIXES and not path.is_dir()


def is_hub_folder(path: Path) -> bool:
    """Whether `path` is what `d2st export hub` prepares."""
    return (path / MODEL).is_file() and (path / CONFIG).is_file()


def open_exported(path: Path, *, pretrained: str | None, detector_weights: Path | None, device: str) -> "Opened":
    """Open a .pt2 or .onnx file; arguments and errors as in `opening.open_run`, and ConfigError without onnxruntime for .onnx."""
    from d2st.adapter.evaluate.digest import checkpoint_digest
    from d2st.adapter.export.program import open_program
    from d2st.opening import Opened
    from d2st.pipeline.build.restore import restore_cropping, restore_front_end

    program = open_program(path, device=device)
    meta = program.about["meta"]
    if program.about["eats"] == "crops":
        front_end = restore_cropping(meta["config"]["crops"], detector_weights=detector_weights, device=device)
    else:
        front_end = restore_front_end(
            meta["config"],
            pretrained=pretrained or meta["notes"]["pretrained"],
            detector_weights=detector_weights,
            calibration=program.about["calibration"],
            device=device,
        )
    return Opened(ProgramScorer(program), front_end, meta, checkpoint_digest(path), path)


def open_hub(folder: Path, *, pretrained: str | None, detector_weights: Path | None, device: str) -> "Opened":
    """Open a hub folder; as `opening.open_run`. Raises RunError where its config and its weights are not of one export."""
    from d2st.adapter.evaluate.digest import checkpoint_digest
    from d2st.cache.errors import RunError
    from d2st.opening import open_run

    try:
        said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / CONFIG} can't be read: {error}", fix="Get the folder again") from error
    if said != checkpoint_digest(folder / MODEL):
        raise RunError(f"{folder / MODEL} is not the file that {CONFIG} describes", fix="Get both files again, of one revision")
    return open_run(folder / MODEL, pretrained=pretrained, detector_weights=detector_weights, device=device)


class ProgramScorer:
    """An exported graph behind the protocol of `scoring.Scorer`."""

    def __init__(self, program: "Program") -> None:
        self.program = program

    def score(self, clips: "Sequence[EncodedClip]") -> list[Scored]:
        """See `scoring.Scorer`."""
        clip_frames = self.program.about["meta"]["clip_frames"]
        chosen = [chosen_frames(len(clip.crops), clip_frames) for clip in clips]
        scored: dict[int, Scored] = {}
        for length in sorted({len(rows) for rows in chosen}):
            alike = [number for number, rows in enumerate(chosen) if len(rows) == length]
            step = max(1, BATCH_FRAMES // length)
            for part in (alike[begin : begin + step] for begin in range(0, len(alike), step)):
                outputs = self.program.run(self._inputs([(clips[number], chosen[number]) for number in part]))
                logits, frames = outputs["logit"].tolist(), outputs["frame_logits"].tolist()
                scored |= {n: Scored(logit, tuple(of)) for n, logit, of in zip(part, logits, frames, strict=True)}
        return check_finite([scored[number] for number in range(len(clips))])

    def _inputs(self, clips: "list[tuple[EncodedClip, list[int]]]") -> "dict[str, np.ndarray]":
        """What the graph takes, of clips that have the same T."""
        import numpy as np

        takers = {"crops": _crops, "maps": self._maps, "cls": _cls}
        inputs = {}
        for name in self.program.about["inputs"]:
            group, _, layer = name.partition(".")
            inputs[name] = np.stack([takers[group](clip, layer, rows) for clip, rows in clips])  # (B,T,...)
        return inputs

    def _maps(self, clip: "EncodedClip", layer: str, rows: list[int]) -> "np.ndarray":
        from d2st.cache.codec import decode

        arrays, scales = clip.tokens.arrays, clip.tokens.arrays.get(f"{layer}/scales")
        part = None if scales is None else scales[rows]
        return decode(arrays[f"{layer}/maps"][rows], part, self.program.about["calibration"].get(layer)).float().numpy()


def _crops(clip: "EncodedClip", _layer: str, rows: list[int]) -> "np.ndarray":
    return clip.crops[rows]


def _cls(clip: "EncodedClip", layer: str, rows: list[int]) -> "np.ndarray":
    from d2st.cache.codec import as_tensor

    return as_tensor(clip.tokens.arrays[f"{layer}/cls"][rows]).float().numpy()
