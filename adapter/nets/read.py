"""The read of one cached layer: patches whitened, projected and normalised, with what moves in them added.

    z_t = W Z s_t + b,   s = (x - mean) / std                 channels C -> width; Z whitens
    e_t = the mean of |d_t| and |d_(t+1)|, or the one of them that exists,   d_t = W' Z (s_t - s_(t-1))
    out = LN(z) + V e                                         V = 0 at the start

V e is the one thing added to the published design: how much each patch changes from frame to frame. The bodies can form that difference
themselves, but did not learn to from few clips (demo corpus, flicker: test AUC 0.57 without it, 0.84 with it).

The decision that shaped it: W Z and W' Z are multiplied out first, once a step, so that whitening costs nothing a token, and both products
share one pass over the maps (`products`).
"""

import torch
from torch import Tensor, nn

from d2st.adapter.nets import plain
from d2st.adapter.nets.conditioning import ChannelNorm, whitening_matrix
from d2st.adapter.nets.norm import layer_norm
from d2st.adapter.nets.products import product_dtype_of, standardised_products

__all__ = ["PatchRead", "change"]


class PatchRead(nn.Module):
    """Patches (B, T, H, W, C) to (B, T, H, W, width), in autocast's dtype, or the parameters' without autocast.

    Z is the identity until `set_whitening`; it is a buffer and travels with the weights, which mean nothing without it.

    Args:
        mean, std: (C,) of the layer's maps, as for `ChannelNorm`.
        width: channels out.
        motion_width: channels of e.
    """

    def __init__(self, mean: Tensor, std: Tensor, width: int, *, motion_width: int) -> None:
        super().__init__()
        self.channel_norm = ChannelNorm(mean, std)
        channels = len(self.channel_norm.scale)
        self.project = nn.Linear(channels, width)
        self.motion = nn.Linear(channels, motion_width, bias=False)
        self.motion_join = nn.Linear(motion_width, width, bias=False)
        nn.init.zeros_(self.motion_join.weight)
        self.register_buffer("whitening", torch.eye(channels))

    def set_whitening(self, correlation: Tensor) -> None:
        """Whiten by the correlation matrix (C,C) of the standardised channels."""
        self.whitening.copy_(whitening_matrix(correlation))

    def forward(self, x: Tensor, *, share: Tensor | None = None) -> Tensor:
        """The read, times the scalar `share` where one is given."""
        dtype = product_dtype_of(x, self.project.weight)
        parts = (self.project, self.motion) if plain.exporting() or x.shape[1] > 1 else (self.project,)
        with torch.autocast(x.device.type, enabled=False):
            join, scale = self.motion_join.weight.to(dtype), None
            if share is not None:
                join, scale = join * share.to(dtype), share.to(dtype).expand(len(join))  # (width,)
            weights = torch.cat([part.weight for part in parts]).to(dtype) @ self.whitening.to(dtype)
            z, *moved = standardised_products(  # (B, T, H, W, width), and with motion_width channels
                x,
                self.channel_norm.scale,
                self.channel_norm.shift,
                weights.split([len(part.weight) for part in parts]),
                [None if part.bias is None else part.bias.to(dtype) for part in parts],
            )
            out = layer_norm(z, scale)
            if moved:
                out = torch.addmm(out.flatten(0, 3), change(moved[0]).flatten(0, 3), join.t()).view(out.shape)
            return out


def change(z: Tensor) -> Tensor:
    """How much z (B, T, ...) changes at each frame: the mean of the absolute change to both neighbours, or to the one there is; T > 1."""
    if plain.exporting():
        return plain.change(z)
    step = z.diff(dim=1).abs()  # (B, T-1, ...)
    return torch.cat((step[:, :1], (step[:, 1:] + step[:, :-1]) / 2, step[:, -1:]), dim=1)
