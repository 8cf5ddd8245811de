"""The side network: reads the cached layers of a frozen CLIP one after another and keeps its own narrow state.

Gradients never enter CLIP. For each tapped layer l, with g_l = sigmoid(gate_l) learned (Sung et al., LST, NeurIPS 2022):

    z_l = the layer's patches, whitened and projected to `width` channels (`read`); its CLS, standardised and projected, in front
    s_l = body_l(g_l * s_(l-1) + (1 - g_l) * z_l)                   s_0 = body_0(z_0 + time)

The decision that shaped it: the network knows nothing of its bodies. Whatever maps tokens (B, T, 1+H*W, width) to the same shape can
stand there, and the conditioning, gates, time, masks and pooling around it stay the same, so bodies can be compared fairly.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2st.adapter.nets.conditioning import cls_norm
from d2st.adapter.nets.frames import run_by_length
from d2st.adapter.nets.norm import layer_norm
from d2st.adapter.nets.pooling import FramePool, TokenPool
from d2st.adapter.nets.read import PatchRead
from d2st.adapter.nets.spec import Stats

__all__ = ["SideNetwork", "time_embedding"]

MOTION_WIDTH = (
    48  # at most: twelve saw less of the demo's flicker than 48 (test AUC 0.78 and 0.86), and each channel costs a product
)


class SideNetwork(nn.Module):
    """An adapter (see `spec.Adapter`) of D = `width`.

    Args:
        layers: tapped layers, in the order of CLIP's depth.
        channels: C of the cached features.
        stats: layer -> (mean, std) of its channels, each (C,).
        width: of the state, even and divisible by 4.
        make_body: called once a body with nothing, gives a module (tokens, grid) -> tokens.
        depth: bodies a layer, one after another.
    """

    needs_maps = True

    def __init__(
        self,
        *,
        layers: tuple[str, ...],
        channels: int,
        stats: Stats,
        width: int,
        make_body: Callable[[], nn.Module],
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.layers, self.embed_dim = layers, width
        self.reads = nn.ModuleList(PatchRead(*stats[layer], width, motion_width=min(width, MOTION_WIDTH)) for layer in layers)
        self.cls_conditions = nn.ModuleList(cls_norm(stats, layer) for layer in layers)
        self.cls_reads = nn.ModuleList(nn.Linear(channels, width) for _ in layers)
        self.gates = nn.Parameter(torch.zeros(len(layers) - 1)) if len(layers) > 1 else None
        self.time_scale = nn.Parameter(torch.zeros(width))
        self.bodies = nn.ModuleList(nn.ModuleList(make_body() for _ in range(depth)) for _ in layers)
        for body in (body for bodies in self.bodies for body in bodies):
            body.up.reset_parameters()  # identity at the start protects a pretrained stream; here there is none, and it only delays
        self.norm = nn.LayerNorm(width)
        self.token_pool = TokenPool(width, width)
        self.frame_pool = FramePool(width)

    @property
    def whitened(self) -> dict[str, PatchRead]:
        """What a trainer whitens before its first step (`train.whiten`), by layer."""
        return dict(zip(self.layers, self.reads, strict=True))

    @property
    def means(self) -> dict[str, Tensor]:
        """As in `spec.Adapter`."""
        reads = {layer: read.channel_norm.mean for layer, read in self.whitened.items()}
        return reads | {f"{layer}/cls": norm.mean for layer, norm in zip(self.layers, self.cls_conditions, strict=True)}

    def forward(self, tokens: dict[str, Tensor], cls: dict[str, Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        return run_by_length(self._run, tokens, cls, mask)

    def _run(self, tokens: dict[str, Tensor], cls: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        state = None
        for index, layer in enumerate(self.layers):
            grid = tuple(tokens[layer].shape[2:4])
            if state is None:
                state = self._read(index, tokens[layer], cls[layer])  # (B, T, 1+H*W, width)
                time = time_embedding(state.shape[1], self.embed_dim, device=state.device) * self.time_scale
                state += time[:, None].to(state.dtype)
            else:
                gate = self.gates[index - 1].sigmoid()
                read = self._read(index, tokens[layer], cls[layer], share=1 - gate)
                state = torch.addcmul(read, state, gate.to(read.dtype))
            for body in self.bodies[index]:
                state = body(state, grid)
        frames = self.token_pool(layer_norm(state, self.norm.weight, self.norm.bias))  # (B, T, D)
        return self.frame_pool(frames), frames

    def _read(self, index: int, patches: Tensor, cls: Tensor, *, share: Tensor | None = None) -> Tensor:
        maps = self.reads[index](patches, share=share).flatten(2, 3)  # (B, T, H*W, width)
        vectors = self.cls_reads[index](self.cls_conditions[index](cls))  # (B, T, width)
        vectors = F.layer_norm(vectors, vectors.shape[-1:])
        if share is not None:
            vectors = vectors * share
        return torch.cat([vectors.unsqueeze(2).to(maps.dtype), maps], dim=2)  # joined only here, where they are narrow


def time_embedding(frames: int, channels: int, *, device: torch.device | None = None) -> Tensor:
    """Sines and cosines of the frame's number (Vaswani et al., 2017), (T, channels) float32; defined for any T."""
    rate = torch.exp(torch.arange(0, channels, 2, device=device) * (-9.210340371976184 / channels))  # 10000 ** (-2i / channels)
    angle = torch.arange(frames, device=device)[:, None] * rate
    return torch.cat((angle.sin(), angle.cos()), dim=-1)
