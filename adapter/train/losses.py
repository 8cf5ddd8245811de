"""The losses of the three stages, each a plain function of tensors that returns a scalar.

They compute in float32 whatever autocast says: sums of exponentials and covariances are what half precision loses first.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from d2st.cache.errors import ConfigError

__all__ = ["Kind", "clip_loss", "consistency", "coral", "frame_loss", "mmd", "supcon"]

Kind = Literal["bce", "focal", "balanced"]
MMD_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the kernels, in medians


def clip_loss(
    logit: Tensor,
    label: Tensor,
    *,
    kind: Kind = "bce",
    gamma: float = 2.0,
    class_weight: tuple[float, float] | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Classification of clips: the plain mean over the batch of one of three losses, with p = sigmoid(logit) and q = 1 - p.

        y~ = (1 - eps) y + eps / 2                                        label smoothing (Szegedy et al., CVPR 2016, for two classes)
        bce       -[ y~ log p + (1 - y~) log q ]
        focal     -[ y~ q^gamma log p + (1 - y~) p^gamma log q ]          Lin et al., ICCV 2017 (arXiv 1708.02002, eq. 4)
        balanced  w_y bce                                                 w_y = N / (2 N_y) of the training split: each label weighs half

    Smoothing on top of the focal loss is its expectation over the softened label: each of the two terms keeps its own factor. The mean
    divides by the number of clips, never by the sum of weights, so that parts of a batch add up to the whole.

    Args:
        logit: (B,). label: (B,) 0 real, 1 fake. gamma: of focal; at 0 it is bce. class_weight: (w_0, w_1) of balanced, which needs it.
        smoothing: eps, in [0, 1).

    Raises:
        ConfigError: balanced without weights.
    """
    return _each(logit, label, kind=kind, gamma=gamma, class_weight=class_weight, smoothing=smoothing).mean()


def frame_loss(
    logits: Tensor,
    label: Tensor,
    mask: Tensor,
    *,
    kind: Kind = "bce",
    gamma: float = 2.0,
    class_weight: tuple[float, float] | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """The same of per-frame logits with the clip's label: mean over a clip's valid frames, then over clips.

    Args:
        logits: (B, T). label: (B,). mask: (B, T), True where a frame is. Every clip has at least one.
    """
    # masked before and after: what padding holds, NaN included, has no gradient
    valid = logits.float().masked_fill(~mask, 0)
    each = _each(valid, label[:, None], kind=kind, gamma=gamma, class_weight=class_weight, smoothing=smoothing)  # (B, T)
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


def mmd(source: Tensor, target: Tensor) -> Tensor:
    """Squared maximum mean discrepancy, the unbiased estimate of Gretton et al., JMLR 2012 (eq. 3).

        MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)
        k(a, b) = mean_w exp(-|a - b|^2 / (w m)),   w = 1/4, 1/2, 1, 2, 4

    Several widths as in Long et al., DAN, ICML 2015; m is the median squared distance of all pairs of both batches (the median heuristic).
    It takes part in the gradient, so the loss does not change with the scale of the embeddings: shrinking them lowers nothing. Being
    unbiased, it is 0 on average where the distributions are equal, and may be negative. 0 when a batch has fewer than two samples.

    Args:
        source: (B_s, d). target: (B_t, d).
    """
    count = len(source)
    if min(count, len(target)) < 2:
        return source.new_zeros((), dtype=torch.float32)
    both = torch.cat([source, target])
    both = both if both.dtype == torch.float64 else both.float()
    squared = (both[:, None] - both[None]).square().sum(2)  # (B, B)
    pairs = ~torch.eye(len(both), dtype=torch.bool, device=both.device)
    median = squared[pairs].median().clamp(min=torch.finfo(both.dtype).tiny)
    kernel = torch.stack([torch.exp(-squared / (width * median)) for width in MMD_WIDTHS]).mean(0) * pairs  # diagonal left out
    within = (part.sum() / (len(part) * (len(part) - 1)) for part in (kernel[:count, :count], kernel[count:, count:]))
    return sum(within) - 2 * kernel[:count, count:].mean()


def consistency(clip_logit: Tensor, frame_logit: Tensor) -> Tensor:
    """A single frame should say what its clip says: mean KL( Bernoulli(p) || Bernoulli(q) ), p = sigmoid(clip), q = sigmoid(frame).

    The clip, which saw more, teaches: no gradient flows into p.

    Args:
        clip_logit: (B,) of clips of T frames. frame_logit: (B,) of one frame of each.
    """
    p = torch.sigmoid(clip_logit.detach().float())
    entropy = F.binary_cross_entropy_with_logits(clip_logit.detach().float(), p)
    return F.binary_cross_entropy_with_logits(frame_logit.float(), p) - entropy


def _each(
    logit: Tensor,
    label: Tensor,
    *,
    kind: Kind,
    gamma: float,
    class_weight: tuple[float, float] | None,
    smoothing: float,
) -> Tensor:
    """The loss of each logit, in float32; `label` is broadcast."""
    logit, label = logit.float(), label.float()
    target = label * (1 - smoothing) + smoothing / 2
    if kind == "focal":
        fake, real = F.softplus(-logit), F.softplus(logit)  # -log p, -log q; so q^gamma = exp(-gamma real)
        return target * (-gamma * real).exp() * fake + (1 - target) * (-gamma * fake).exp() * real
    loss = F.binary_cross_entropy_with_logits(logit, target.expand_as(logit), reduction="none")
    if kind == "bce":
        return loss
    if class_weight is None:
        raise ConfigError("the balanced loss needs the weights of both labels", fix="Pass class_weight=(w_real, w_fake)")
    return loss * (class_weight[0] + (class_weight[1] - class_weight[0]) * label)
