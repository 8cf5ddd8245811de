"""Clips in, logits out: the seam between media and whatever does the scoring, a checkpoint's network or an exported graph.

What a clip is scored with does not change its logits, beyond the rounding of a matrix product: all clips of a batch have the same T.
"""

from collections.abc import Iterator, Sequence
from math import isfinite, tanh
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from d2st.adapter.nets import Detector as Network
    from d2st.cache.codec import Calibration
    from d2st.pipeline.build.clips import EncodedClip

__all__ = ["NetworkScorer", "Scored", "Scorer", "check_finite", "chosen_frames", "sigmoid"]

BATCH_FRAMES = 96  # as in `score_samples`


class Scored(NamedTuple):
    """Raw log-odds of one clip and of each frame that was looked at (`chosen_frames` says which of the clip's)."""

    logit: float
    frame_logits: tuple[float, ...]


class Scorer(Protocol):
    """Scores clips; the facade asks nothing else of a detector."""

    def score(self, clips: "Sequence[EncodedClip]") -> list[Scored]:
        """One result a clip, in order. Raises RunError for NaN or infinity.

        Clips have 1 to any number of frames; a scorer takes those of `chosen_frames` where there are more than it looks at.
        """
        ...


def chosen_frames(count: int, clip_frames: int) -> list[int]:
    """Which of a clip's `count` frames a detector of `clip_frames` looks at; all of them where it scores frames one by one (1)."""
    from d2st.adapter.rows import clip_rows

    return clip_rows(0, count, count if clip_frames == 1 else clip_frames)


def sigmoid(logit: float) -> float:
    """P from log-odds, 0..1."""
    return (1 + tanh(logit / 2)) / 2  # no overflow at either end


class NetworkScorer:
    """A checkpoint's adapter and head on token maps, with the arithmetic of `adapter.evaluate.score`.

    Args:
        network: in evaluation mode, on the device that it scores on.
        clip_frames: T that it looks at; 1 scores frames one by one, and a clip's logit is the mean of theirs.
        calibration: layer -> mean and std (C,) of int8 token maps; empty for other dtypes.
    """

    def __init__(self, network: "Network", *, clip_frames: int, calibration: "Calibration") -> None:
        self.network = network
        self.clip_frames = clip_frames
        self._calibration = calibration

    def score(self, clips: "Sequence[EncodedClip]") -> list[Scored]:
        """See `Scorer`. Clips must have token maps."""
        chosen = [chosen_frames(len(clip.crops), self.clip_frames) for clip in clips]
        # frame by frame, each is a clip of its own
        parts = [[[k] for k in rows] if self.clip_frames == 1 else [rows] for rows in chosen]
        units = [(number, rows) for number, of_clip in enumerate(parts) for rows in of_clip]
        logits: list[list[float]] = [[] for _ in clips]
        frames: list[list[float]] = [[] for _ in clips]
        for batch in _batches(units):
            clip_logits, frame_logits = self._forward([(clips[number], rows) for number, rows in batch])
            for (number, _), logit, values in zip(batch, clip_logits, frame_logits, strict=True):
                logits[number].append(logit)
                frames[number].extend(values)
        scored = [Scored(sum(of) / len(of), tuple(values)) for of, values in zip(logits, frames, strict=True)]
        return check_finite(scored)

    def _forward(self, clips: "list[tuple[EncodedClip, list[int]]]") -> tuple[list[float], list[list[float]]]:
        """Logits (B,) and frame logits (B, T) of clips that have the same T."""
        import torch

        features = [self.features(clip, rows) for clip, rows in clips]
        maps, cls = ({layer: torch.stack([of[k][layer] for of in features]) for layer in features[0][k]} for k in (0, 1))
        first = next(iter(cls.values()))  # (B,T,C)
        mask = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
        with torch.inference_mode():
            output = self.network(maps, cls, mask)
        logits = output.clip_logit.double().cpu()  # (B,)
        # a frame alone is its clip, so both scores are one there
        frames = output.frame_logits.double().cpu() if mask.shape[1] > 1 else logits[:, None]  # (B, T)
        return logits.tolist(), frames.tolist()

    def features(self, clip: "EncodedClip", rows: list[int]) -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
        """What the network is shown of the frames `rows`, on its device: layer -> maps (T,H,W,C), and layer -> CLS (T,C)."""
        device = next(self.network.parameters()).device
        layers = [name.removesuffix("/cls") for name in clip.tokens.arrays if name.endswith("/cls")]
        maps = {layer: self._maps(clip, layer, rows).to(device) for layer in layers}
        return maps, {layer: _cls(clip, layer, rows).to(device) for layer in layers}

    def _maps(self, clip: "EncodedClip", layer: str, rows: list[int]) -> "Tensor":
        """Maps (T,H,W,C) of the frames `rows`."""
        from d2st.cache.codec import decode

        arrays = clip.tokens.arrays
        scales = arrays.get(f"{layer}/scales")
        part = None if scales is None else scales[rows]
        return decode(arrays[f"{layer}/maps"][rows], part, self._calibration.get(layer))


def _cls(clip: "EncodedClip", layer: str, rows: list[int]) -> "Tensor":
    from d2st.cache.codec import as_tensor

    return as_tensor(clip.tokens.arrays[f"{layer}/cls"][rows])  # (T,C)


def _batches(units: list[tuple[int, list[int]]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Units of the same number of frames together, at most about `BATCH_FRAMES` frames."""
    by_length: dict[int, list[tuple[int, list[int]]]] = {}
    for unit in units:
        by_length.setdefault(len(unit[1]), []).append(unit)
    for length, alike in by_length.items():
        step = max(1, BATCH_FRAMES // length)
        for begin in range(0, len(alike), step):
            yield alike[begin : begin + step]


def check_finite(scored: list[Scored]) -> list[Scored]:
    """The same list; for scorers to end with. Raises RunError where a logit is NaN or infinite."""
    from d2st.cache.errors import RunError

    for found in scored:
        if not all(map(isfinite, (found.logit, *found.frame_logits))):
            raise RunError(
                "the detector gave NaN or infinity",
                fix="Its weights are not usable: look at the run's losses, and train again with a lower learning rate",
            )
    return scored
