"""Does an exported program say what the checkpoint says? Asked of the real thing: the file's bytes, run by what will run them.

Each clip is scored whole, and as a still and a short clip, for these take other paths through a network; and two are scored together. What
may differ is the rounding of sums, and where the backbone is inside, token maps that round the other way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2st.adapter.export.program import Program
from d2st.adapter.nets import Detector
from d2st.cache.errors import RunError

__all__ = ["Clip", "compare"]

# |difference| may be this much times 1 + |logit|: measured below 1e-5, 4e-4 and 0.1
TOLERANCES = {"maps": 1e-4, "crops": 1e-2, "crops of bf16": 0.3}
SHORT = (1, 3, 5)


class Clip(NamedTuple):
    """T frames: crops (T,S,S,3) uint8, or None where they are not at hand; maps (T,H,W,C) and cls (T,C) by layer, as they are cached."""

    crops: np.ndarray | None
    maps: Mapping[str, Tensor]
    cls: Mapping[str, Tensor]


def compare(program: Program, detector: Detector, clips: Sequence[Clip], *, of: str) -> dict[str, Any]:
    """How far the program's outputs lie from the detector's.

    Args:
        detector: the checkpoint's, in evaluation mode, on the CPU.
        of: what the clips are, in words.

    Returns:
        {"max_abs_logit", "max_abs_frame_logit", "max_abs_probability", "tolerance", "clips", "frames": [T, ...], "of", "runtime"}; a clip
        counts once for each length that it was scored at.

    Raises:
        RunError: a difference beyond the tolerance, or a shape that is not the detector's.
    """
    meta = program.about["meta"]
    eats, precision = program.about["eats"], meta["config"].get("precision")
    tolerance = TOLERANCES["crops of bf16" if (eats, precision) == ("crops", "bf16") else eats]
    worst, count, lengths = dict.fromkeys(("logit", "frame_logits", "probability"), 0.0), 0, set()
    excess = 0.0
    for batch in _batches(clips):
        wanted = _expected(detector, batch, alone=meta["clip_frames"] == 1, temperatures=program.about["temperatures"])
        found = program.run(_inputs(batch, program.about["inputs"]))
        for name, value in wanted.items():
            if found[name].shape != value.shape:
                raise RunError(f"the exported {name} has shape {found[name].shape} instead of {value.shape}", fix="Report this")
            difference = np.abs(found[name] - value)
            worst[name] = max(worst[name], float(difference.max()))
            excess = max(excess, float((difference / (1 + np.abs(value))).max()))
        lengths.add(wanted["frame_logits"].shape[1])
        count += len(batch)
    if not excess <= tolerance:
        raise RunError(
            f"the exported program differs from the checkpoint: by {worst['logit']:.2g} in a logit, {program.runtime}, {of}",
            fix="Export with other versions of torch and onnx; these compute something else",
        )
    return {
        "max_abs_logit": worst["logit"],
        "max_abs_frame_logit": worst["frame_logits"],
        "max_abs_probability": worst["probability"],
        "tolerance": tolerance,
        "clips": count,
        "frames": sorted(lengths),
        "of": of,
        "runtime": program.runtime,
    }


def _batches(clips: Sequence[Clip]) -> Iterator[list[Clip]]:
    """Clips of one length each: every clip whole, every clip cut to one of the short lengths in turn, and the first one twice."""
    yield [clips[0], clips[0]]
    for number, clip in enumerate(clips):
        yield [clip]
        frames, short = len(next(iter(clip.cls.values()))), SHORT[number % len(SHORT)]
        if short < frames:
            yield [_cut(clip, short)]


def _cut(clip: Clip, frames: int) -> Clip:
    maps, cls = ({layer: value[:frames] for layer, value in group.items()} for group in (clip.maps, clip.cls))
    return Clip(None if clip.crops is None else clip.crops[:frames], maps, cls)


def _inputs(batch: Sequence[Clip], names: Iterable[str]) -> dict[str, np.ndarray]:
    made = {}
    for name in names:
        group, _, layer = name.partition(".")
        parts = [getattr(clip, group) for clip in batch]
        made[name] = torch.stack([part[layer] for part in parts]).float().numpy() if layer else np.stack(parts)
    return made


def _expected(
    detector: Detector, batch: Sequence[Clip], *, alone: bool, temperatures: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """What `evaluate.score` makes of the clips, by name of the output."""
    maps, cls = (
        {layer: torch.stack([getattr(clip, group)[layer] for clip in batch]) for layer in getattr(batch[0], group)}
        for group in ("maps", "cls")
    )
    frames = next(iter(cls.values())).shape[1]
    if alone:
        maps, cls = ({layer: value.flatten(0, 1).unsqueeze(1) for layer, value in group.items()} for group in (maps, cls))
    rows = next(iter(cls.values())).shape[:2]
    with torch.inference_mode():
        found = detector(maps, cls, torch.ones(rows, dtype=torch.bool))
    frame_logits = found.clip_logit.view(len(batch), frames) if alone else found.frame_logits
    logit = frame_logits.mean(dim=1) if alone else found.clip_logit
    temperature = temperatures["still" if frames == 1 else "clip"]
    values = {"logit": logit, "frame_logits": frame_logits, "probability": torch.sigmoid(logit / temperature)}
    return {name: value.float().numpy() for name, value in values.items()}
