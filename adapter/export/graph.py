"""The detector as one plain module: named inputs, three outputs, every number that a caller needs inside.

A graph takes clips whose frames all exist; who has clips of several lengths calls it once a length, as `frames.run_by_length` does. Batch
and frames are free, from 1 on. Logits are raw, as `d2st eval` measures them; the probability is calibrated by the temperature that the
checkpoint keeps for stills (T = 1) or for clips.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d2st.adapter.nets import Detector
from d2st.adapter.nets.plain import number

__all__ = ["OUTPUTS", "CropGraph", "MapGraph"]

OUTPUTS = ("logit", "frame_logits", "probability")
Outputs = tuple[Tensor, Tensor, Tensor]


class MapGraph(nn.Module):
    """Token maps to logits: the adapter and the head.

    Called with maps: layer -> (B, T, H, W, C) float32, unless the adapter reads none, and cls: layer -> (B, T, C) float32, as the cache's
    reader gives them. Gives the clip's logit (B,), the frames' (B, T), and P(fake) of the clip (B,).

    Args:
        detector: in evaluation mode.
        layers: that it reads.
        clip_frames: 1 scores frames one by one, and the clip's logit is the mean of theirs.
        temperatures: by which logits of stills and of clips are divided.
    """

    def __init__(
        self, detector: Detector, *, layers: Sequence[str], clip_frames: int, temperatures: tuple[float, float]
    ) -> None:
        super().__init__()
        self.detector, self.layers, self.alone = detector, tuple(layers), clip_frames == 1
        self.temperatures = nn.Buffer(torch.tensor(temperatures, dtype=torch.float32))

    def forward(self, maps: dict[str, Tensor], cls: dict[str, Tensor]) -> Outputs:
        batch, frames = cls[self.layers[-1]].shape[:2]
        if self.alone:
            maps, cls = ({k: v.flatten(0, 1).unsqueeze(1) for k, v in group.items()} for group in (maps, cls))
        mask = torch.ones(cls[self.layers[-1]].shape[:2], dtype=torch.bool, device=self.temperatures.device)
        found = self.detector(maps, cls, mask)
        logit, frame_logits = found.clip_logit, found.frame_logits
        if self.alone:
            frame_logits = logit.view(batch, frames)
            logit = frame_logits.mean(dim=1)
        still, clip = self.temperatures
        temperature = torch.where(number(frames, self.temperatures) == 1, still, clip)
        return logit, frame_logits, torch.sigmoid(logit / temperature)


class CropGraph(nn.Module):
    """Face crops (B, T, S, S, 3) uint8 RGB to what `MapGraph` gives: the whole detector from pixels.

    Args:
        tokens: crops (N, S, S, 3) to maps and CLS tokens by layer.
        scoring: what reads them.
    """

    def __init__(self, tokens: nn.Module, scoring: MapGraph) -> None:
        super().__init__()
        self.tokens, self.scoring = tokens, scoring

    def forward(self, crops: Tensor) -> Outputs:
        size = crops.shape[:2]
        maps, cls = self.tokens(crops.flatten(0, 1))
        needed = maps if self.scoring.detector.adapter.needs_maps else {}
        wanted = self.scoring.layers
        parts = ({k: v.unflatten(0, size) for k, v in group.items() if k in wanted} for group in (needed, cls))
        return self.scoring(*parts)
