"""What a pass minimises: the batches of one forward pass in, a weighted sum of named losses out.

Stages 1 and 2 classify. Stage 3 sees a batch of images and one of clips, and adds one random frame of each clip to the images: that costs
1/T more and gives the consistency loss its second view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from d2st.adapter.train import losses
from d2st.adapter.train.recipe import Align, Loss

__all__ = ["Clips", "classify", "classify_and_align"]


@dataclass(frozen=True)
class Clips:
    """B labelled clips: tokens layer -> (B, T, H, W, C), cls layer -> (B, T, C), mask (B, T), label (B,)."""

    tokens: Mapping[str, Tensor]
    cls: Mapping[str, Tensor]
    mask: Tensor
    label: Tensor

    def one_frame(self, at: Tensor) -> "Clips":
        """Frame `at` (B,) of each clip, as clips of T = 1."""
        row = torch.arange(len(at), device=at.device)
        tokens = {layer: value[row, at].unsqueeze(1) for layer, value in self.tokens.items()}  # (B, 1, H, W, C)
        cls = {layer: value[row, at].unsqueeze(1) for layer, value in self.cls.items()}
        return Clips(tokens, cls, self.mask.new_ones(len(at), 1), self.label)


def join(parts: Sequence[Clips]) -> Clips:
    """Clips of one T, put together in order."""
    first = parts[0]
    return Clips(
        tokens={layer: torch.cat([part.tokens[layer] for part in parts]) for layer in first.tokens},
        cls={layer: torch.cat([part.cls[layer] for part in parts]) for layer in first.cls},
        mask=torch.cat([part.mask for part in parts]),
        label=torch.cat([part.label for part in parts]),
    )


def classify(detector: nn.Module, clips: Clips, *, loss: Loss) -> dict[str, Tensor]:
    """Stages 1 and 2: cross-entropy of the clip, and of its frames where T > 1 (at T = 1 the frame is the clip). Weighted parts."""
    output = detector(clips.tokens, clips.cls, clips.mask)
    return _classification(output.clip_logit, output.frame_logits, clips, loss)


def classify_and_align(
    detector: nn.Module, images: Clips, videos: Clips, *, loss: Loss, align: Align, rng: np.random.Generator
) -> dict[str, Tensor]:
    """Stage 3: cross-entropy on both kinds, half each, plus the alignment losses that have a weight. Weighted parts."""
    lengths = videos.mask.sum(1).cpu().numpy()
    singles = images
    if align.consistency:
        at = torch.from_numpy(rng.integers(0, lengths)).to(videos.label.device)
        singles = join([images, videos.one_frame(at)])
    still = detector(singles.tokens, singles.cls, singles.mask)
    moving = detector(videos.tokens, videos.cls, videos.mask)
    count = len(images.label)
    on_images = _classification(still.clip_logit[:count], still.frame_logits[:count], images, loss)
    on_videos = _classification(moving.clip_logit, moving.frame_logits, videos, loss)
    parts = {f"image_{name}": value / 2 for name, value in on_images.items()}
    parts |= {f"video_{name}": value / 2 for name, value in on_videos.items()}
    image_embedding, video_embedding = still.embedding[:count], moving.embedding
    if align.supcon:
        embedding, label = torch.cat([image_embedding, video_embedding]), torch.cat([images.label, videos.label])
        group = torch.arange(len(label), device=label.device) >= count
        parts["supcon"] = align.supcon * losses.supcon(embedding, label, group, temperature=align.temperature)
    if align.coral:
        parts["coral"] = align.coral * losses.coral(image_embedding, video_embedding)
    if align.consistency:
        parts["consistency"] = align.consistency * losses.consistency(moving.clip_logit, still.clip_logit[count:])
    return parts


def _classification(clip_logit: Tensor, frame_logits: Tensor, clips: Clips, loss: Loss) -> dict[str, Tensor]:
    parts = {"clip": losses.clip_bce(clip_logit, clips.label, smoothing=loss.label_smoothing)}
    if loss.frame_weight and frame_logits.shape[1] > 1:
        parts["frame"] = loss.frame_weight * losses.frame_bce(
            frame_logits, clips.label, clips.mask, smoothing=loss.label_smoothing
        )
    return parts
