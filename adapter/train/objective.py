"""What a pass minimises: the batches of one forward pass in, a weighted sum of named losses out.

Stages 1 and 2 classify. Stage 3 sees a batch of images and one of clips, and adds one random frame of each clip to the images: that costs
1/T more and gives the consistency loss its second view. Of several ranks each has a slice of the batches: its means weigh as much as its
share, and losses over a whole batch are computed by every rank on all embeddings and weigh 1 / R, so that the ranks' sum is the loss.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from d2st.adapter.nets import Output
from d2st.adapter.train import losses
from d2st.adapter.train.exchange import gather_rows
from d2st.adapter.train.ranks import Ranks
from d2st.adapter.train.recipe import Align, Loss

__all__ = ["Clips", "classify", "classify_and_align"]


@dataclass(frozen=True)
class Clips:
    """B labelled clips: tokens layer -> (B, T, H, W, C), cls layer -> (B, T, C), mask (B, T), label (B,).

    They are this rank's of a batch of `whole`, whose labels `all_labels` (whole,) are known to every rank.
    """

    tokens: Mapping[str, Tensor]
    cls: Mapping[str, Tensor]
    mask: Tensor
    label: Tensor
    all_labels: Tensor

    @property
    def share(self) -> float:
        """Of this rank in the batch, by number of clips."""
        return len(self.label) / len(self.all_labels)

    def one_frame(self, at: Tensor) -> "Clips":
        """Frame `at` (B,) of each clip, as clips of T = 1."""
        row = torch.arange(len(at), device=at.device)
        tokens = {layer: value[row, at].unsqueeze(1) for layer, value in self.tokens.items()}  # (B, 1, H, W, C)
        cls = {layer: value[row, at].unsqueeze(1) for layer, value in self.cls.items()}
        return Clips(tokens, cls, self.mask.new_ones(len(at), 1), self.label, self.all_labels)


def join(parts: Sequence[Clips]) -> Clips:
    """Clips of one T, put together in order."""
    first = parts[0]
    return Clips(
        tokens={layer: torch.cat([part.tokens[layer] for part in parts]) for layer in first.tokens},
        cls={layer: torch.cat([part.cls[layer] for part in parts]) for layer in first.cls},
        mask=torch.cat([part.mask for part in parts]),
        label=torch.cat([part.label for part in parts]),
        all_labels=torch.cat([part.all_labels for part in parts]),
    )


def classify(
    detector: Callable[..., Output], clips: Clips, *, loss: Loss, class_weight: tuple[float, float] | None = None
) -> dict[str, Tensor]:
    """Stages 1 and 2: the loss of the clip, and of its frames where T > 1 (at T = 1 the frame is the clip). Weighted parts.

    Args:
        class_weight: of real and fake, which the balanced loss needs.
    """
    output = detector(clips.tokens, clips.cls, clips.mask)
    return _classification(output.clip_logit, output.frame_logits, clips, loss, class_weight=class_weight)


def classify_and_align(
    detector: Callable[..., Output],
    images: Clips,
    videos: Clips,
    *,
    loss: Loss,
    align: Align,
    luck: Tensor,
    ranks: Ranks = Ranks(),  # noqa: B008, frozen
    class_weight: tuple[float, float] | None = None,
) -> dict[str, Tensor]:
    """Stage 3: classification of both kinds, half each, plus the alignment losses that have a weight. Weighted parts.

    Args:
        luck: (B,) float64 in [0, 1), on the videos' device: which of its frames a clip adds to the images.
        class_weight: of real and fake, which the balanced loss needs.
    """
    singles = images
    if align.consistency:
        with torch.autocast(luck.device.type, enabled=False):  # it can't put float16 together beside bfloat16
            singles = join([images, videos.one_frame((luck * videos.mask.sum(1)).long())])
    still = detector(singles.tokens, singles.cls, singles.mask)
    moving = detector(videos.tokens, videos.cls, videos.mask)
    count = len(images.label)
    on_images = _classification(still.clip_logit[:count], still.frame_logits[:count], images, loss, class_weight=class_weight)
    on_videos = _classification(moving.clip_logit, moving.frame_logits, videos, loss, class_weight=class_weight)
    parts = {f"image_{name}": value / 2 for name, value in on_images.items()}
    parts |= {f"video_{name}": value / 2 for name, value in on_videos.items()}
    if align.supcon or align.coral or align.mmd:
        image = gather_rows(ranks, still.embedding[:count], len(images.all_labels))  # (B_images, D)
        video = gather_rows(ranks, moving.embedding, len(videos.all_labels))  # (B_videos, D)
        labels = torch.cat([images.all_labels, videos.all_labels])
        aligned = _alignment(image, video, labels, align)
        parts |= {name: value / ranks.size for name, value in aligned.items()}
    if align.consistency:
        agreement = losses.consistency(moving.clip_logit, still.clip_logit[count:])
        parts["consistency"] = align.consistency * videos.share * agreement
    return parts


def _alignment(image: Tensor, video: Tensor, labels: Tensor, align: Align) -> dict[str, Tensor]:
    """Losses over a whole batch: embeddings of its images and of its videos, labels of the images and then the videos."""
    parts = {}
    if align.supcon:
        group = torch.arange(len(labels), device=labels.device) >= len(image)
        contrast = losses.supcon(torch.cat([image, video]), labels, group, temperature=align.temperature)
        parts["supcon"] = align.supcon * contrast
    if align.coral:
        parts["coral"] = align.coral * losses.coral(image, video)
    if align.mmd:
        of_image, of_video = labels[: len(image)], labels[len(image) :]
        # label by label: over both, the distance between real and fake sets the kernels' widths, and hides that between the kinds
        each = [losses.mmd(image[of_image == label], video[of_video == label]) for label in (0, 1)]
        parts["mmd"] = align.mmd * sum(each) / 2
    return parts


def _classification(
    clip_logit: Tensor, frame_logits: Tensor, clips: Clips, loss: Loss, *, class_weight: tuple[float, float] | None
) -> dict[str, Tensor]:
    how = {"kind": loss.kind, "gamma": loss.gamma, "class_weight": class_weight, "smoothing": loss.label_smoothing}
    parts = {"clip": losses.clip_loss(clip_logit, clips.label, **how)}
    if loss.frame_weight and frame_logits.shape[1] > 1:
        frames = losses.frame_loss(frame_logits, clips.label, clips.mask, **how)
        parts["frame"] = loss.frame_weight * frames
    return parts if clips.share == 1 else {name: clips.share * value for name, value in parts.items()}
