"""The losses of the three stages, each a plain function of tensors that returns a scalar.

They compute in float32 whatever autocast says: sums of exponentials and covariances are what half precision loses first.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["clip_bce", "consistency", "coral", "frame_bce", "supcon"]


def clip_bce(logit: Tensor, label: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy on clip logits.

        y~ = (1 - eps) y + eps / 2;   L = -mean_i [ y~_i log p_i + (1 - y~_i) log(1 - p_i) ],  p = sigmoid(logit)

    Args:
        logit: (B,). label: (B,) 0 real, 1 fake. smoothing: eps (Szegedy et al., CVPR 2016, for two classes).
    """
    return F.binary_cross_entropy_with_logits(logit.float(), _smooth(label, smoothing))


def frame_bce(logits: Tensor, label: Tensor, mask: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy on per-frame logits with the clip's label: mean over a clip's valid frames, then over clips.

    Args:
        logits: (B, T). label: (B,). mask: (B, T), True where a frame is. Every clip has at least one.
    """
    target = _smooth(label, smoothing)[:, None].expand_as(logits)  # (B,) -> (B, T)
    # masked before and after: what padding holds, NaN included, has no gradient
    each = F.binary_cross_entropy_with_logits(logits.float().masked_fill(~mask, 0), target, reduction="none")
    return ((each * mask).sum(1) / mask.sum(1)).mean()


def supcon(embedding: Tensor, label: Tensor, group: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss across groups, after L_out of Khosla et al., NeurIPS 2020 (arXiv 2004.11362, eq. 2).

        L = mean_i  -1/|P(i)|  sum_{p in P(i)}  log  exp(z_i z_p / tau) / sum_{a in A(i)} exp(z_i z_a / tau),   z = x / |x|

    In the paper A(i) is everyone but i. Here A(i) is everyone of another group than i's (image, video) and P(i) those of A(i) with i's
    label: what is asked is that a fake image finds the fake videos. Anchors without a positive are left out; 0 when none has one.

    Args:
        embedding: (B, D). label, group: (B,) whole numbers. temperature: tau.
    """
    with torch.autocast(embedding.device.type, enabled=False):  # the product would be bfloat16, and is divided by tau
        z = F.normalize(embedding.float(), dim=1)
        similarity = z @ z.T / temperature
    others = group[:, None] != group[None, :]  # (B, B)
    positive = others & (label[:, None] == label[None, :])
    similarity = similarity.masked_fill(~others, -torch.inf)
    anchors = positive.any(1)
    log_p = similarity[anchors] - similarity[anchors].logsumexp(1, keepdim=True)  # (A, B)
    positive = positive[anchors]
    return -(torch.where(positive, log_p, 0.0).sum(1) / positive.sum(1)).sum() / max(int(anchors.sum()), 1)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Correlation alignment of Sun and Saenko, ECCV 2016 workshops (arXiv 1607.01719, eq. 1): |C_s - C_t|_F^2 / (4 d^2).

    C is the unbiased covariance of a batch. 0 when a batch has fewer than two samples.

    Args:
        source: (B_s, d). target: (B_t, d).
    """
    if min(len(source), len(target)) < 2:
        return source.new_zeros((), dtype=torch.float32)
    with torch.autocast(source.device.type, enabled=False):
        gap = torch.cov(source.float().T) - torch.cov(target.float().T)  # (d, d)
    return gap.square().sum() / (4 * source.shape[1] ** 2)


def consistency(clip_logit: Tensor, frame_logit: Tensor) -> Tensor:
    """A single frame should say what its clip says: mean KL( Bernoulli(p) || Bernoulli(q) ), p = sigmoid(clip), q = sigmoid(frame).

    The clip, which saw more, teaches: no gradient flows into p.

    Args:
        clip_logit: (B,) of clips of T frames. frame_logit: (B,) of one frame of each.
    """
    p = torch.sigmoid(clip_logit.detach().float())
    entropy = F.binary_cross_entropy_with_logits(clip_logit.detach().float(), p)
    return F.binary_cross_entropy_with_logits(frame_logit.float(), p) - entropy


def _smooth(label: Tensor, smoothing: float) -> Tensor:
    return label.float() * (1 - smoothing) + smoothing / 2
