"""Masks honoured exactly: clips are grouped by the number of frames that exist, and each group runs at that T.

Padding is always a suffix, so nothing needs a mask inside an adapter, and a padded frame can't leak: it is never read.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from d2st.adapter.nets.plain import exporting

__all__ = ["run_by_length"]

Features = dict[str, Tensor]


def run_by_length(
    run: Callable[[Features, Features], tuple[Tensor, Tensor]], tokens: Features, cls: Features, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Call `run(tokens, cls)` once a distinct clip length and put the results back in order.

    Args:
        run: from features of b clips of t frames, all of them valid, to (b, D) and (b, t, D).
        tokens, cls: layer -> (B, T, ...).
        mask: bool (B, T), True for frames that exist: a prefix of each row, at least one.

    Returns:
        (B, D) and (B, T, D); the latter 0 at padded frames.
    """
    if exporting():
        return run(tokens, cls)
    lengths = mask.sum(dim=1)
    frames = torch.arange(mask.shape[1], device=mask.device)
    facts = torch.stack((lengths, ((frames < lengths[:, None]) == mask).all(dim=1).long())).tolist()  # one wait for the device
    if not all(facts[1]) or not all(facts[0]):
        raise ValueError("every clip needs at least one valid frame, and padding must come after all of them")
    if set(facts[0]) == {mask.shape[1]}:
        return run(tokens, cls)
    embedding = frame_embeddings = None
    for length in sorted(set(facts[0])):
        chosen = torch.tensor([i for i, n in enumerate(facts[0]) if n == length], device=mask.device)
        part, part_frames = run(*({k: v[:, :length][chosen] for k, v in group.items()} for group in (tokens, cls)))
        if embedding is None:
            embedding = part.new_zeros(len(mask), part.shape[-1])
            frame_embeddings = part_frames.new_zeros(*mask.shape, part_frames.shape[-1])
        embedding = embedding.index_copy(0, chosen, part)
        padded = torch.nn.functional.pad(part_frames, (0, 0, 0, mask.shape[1] - length))
        frame_embeddings = frame_embeddings.index_copy(0, chosen, padded)
    return embedding, frame_embeddings
