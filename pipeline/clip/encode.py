"""Face crops in, token maps out, as they are stored: cast or quantised on the device, so that int8 halves the way to the host too.

The calibration of int8 is a value, not a running estimate: made once from a sample of the training split, kept with the store and with each
checkpoint. So a frame has the same bits whenever, wherever and after whatever it is encoded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2st.cache.codec import TOKEN_DTYPES, Calibration, quantise, safe_deviation, stored_arrays
from d2st.cache.errors import ConfigError, UsageError
from d2st.pipeline.clip.backbone import Backbone
from d2st.pipeline.clip.layers import layer_index, layer_names
from d2st.pipeline.clip.taps import FLOAT16_MAX, Take, run_backbone

__all__ = ["CALIBRATION_FRAMES", "Encoder", "Tokens"]

CALIBRATION_FRAMES = 256  # of the training split, or all that there are: 50,000 tokens of ViT-B/16
_QUANTISATION = {
    "scheme": "channel-standardised, float16 scale a token",
    "version": 1,
    "calibration_frames": CALIBRATION_FRAMES,
}
_STORED = {"float16": torch.float16, "uint16": torch.bfloat16, "int8": torch.int8}  # numpy's name: what we compute it as


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tapped layers of N frames, as they are stored: `arrays["<layer>/<kind>"]` (N, ...), with the kinds, shapes and dtypes of
    `cache.codec.stored_arrays`.

    `clamped` counts the values that lay outside float16's range and were set to its limit (always 0 for bfloat16).
    """

    arrays: dict[str, np.ndarray]
    clamped: int


class Encoder:
    """Runs a backbone over face crops, a fixed micro-batch at a time.

    It takes the backbone over: the blocks behind the last tapped one are removed from `backbone.model`. For int8, set `calibration`
    before the first `encode`: to what `calibrate` gives, or to what the store or checkpoint at hand was made with.

    Args:
        layers: names in depth order, as `resolve_layers` gives them.
        dtype: of the result, one of `cache.codec.TOKEN_DTYPES`.

    Raises:
        ConfigError: the backbone does not have these layers (any more), or the dtype is unknown.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[str], *, micro_batch: int = 16, dtype: str = "float16") -> None:
        present = layer_names(len(backbone.model.transformer.resblocks))
        if not layers or list(layers) != [name for name in present if name in set(layers)]:
            raise ConfigError(
                f"layers {', '.join(layers) or '(none)'} are not among the blocks of {backbone.name} in depth order",
                fix=f"It has {present[0]} to {present[-1]}; for others load the backbone afresh",
            )
        if dtype not in TOKEN_DTYPES:
            raise UsageError(f"{dtype!r} is not a token dtype", fix=f"Use one of {', '.join(TOKEN_DTYPES)}")
        if micro_batch < 1:
            raise ConfigError(f"a micro-batch of {micro_batch} frames is not possible", fix="Use 1 or more")
        self.backbone = backbone
        self.layers = tuple(layers)
        self.micro_batch = micro_batch
        self.dtype = dtype
        self._calibration: dict[str, tuple[Tensor, Tensor]] = {}
        self._blocks = [layer_index(name) for name in self.layers]
        backbone.model.prune_intermediate_layers(self._blocks, prune_norm=True, prune_head=True)

    def declared(self) -> dict[str, Any]:
        """What the tokens depend on, as JSON values for the fingerprint. Two encoders that declare the same are the same."""
        backbone = self.backbone
        return {
            "backbone": backbone.name,
            "weights_digest": backbone.weights_digest,
            "image_size": backbone.image_size,
            "mean": list(backbone.mean),
            "std": list(backbone.std),
            "resize": "bicubic-antialias-float32-clamped",
            "precision": backbone.precision,
            "micro_batch": self.micro_batch,
            "layers": list(self.layers),
            "tap": "residual-stream-after-block",
            "dtype": self.dtype,
            **({"quantisation": dict(_QUANTISATION)} if self.dtype == "int8" else {}),
        }

    @property
    def calibration(self) -> Calibration:
        """Mean and deviation (C,) by which each layer is quantised, float32 on the device; empty until it is set."""
        return self._calibration

    @calibration.setter
    def calibration(self, values: Calibration) -> None:
        if missing := [layer for layer in self.layers if layer not in values]:
            raise ConfigError(f"the calibration says nothing of {', '.join(missing)}", fix="Calibrate all layers together")

        def placed(vector: Any) -> Tensor:
            return torch.as_tensor(vector, dtype=torch.float32, device=self.backbone.device)

        self._calibration = {
            layer: (placed(mean), placed(std)) for layer, (mean, std) in values.items() if layer in self.layers
        }

    def calibrate(self, crops: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Mean and deviation (C,) float32 of each layer over all patches of `crops`, fit to be the `calibration`; it is not set by this.

        Args:
            crops: as for `encode`; a sample of the training split, about `CALIBRATION_FRAMES`.

        Raises:
            ConfigError: there are no crops. WeightsError: as `encode` does.
        """
        if len(crops) == 0:
            raise ConfigError("there is no frame to calibrate int8 by", fix="Use --dtype float16, or media with usable frames")
        moments: dict[str, tuple[int, Tensor, Tensor]] = {}  # count, mean (C,), sum of squared deviations (C,)

        def take(rows: slice, position: int, cls: Tensor, patches: Tensor) -> None:
            layer, tokens = self.layers[position], patches.flatten(0, 1).double()  # (n*H*W, C)
            mean = tokens.mean(dim=0)
            seen = (len(tokens), mean, (tokens - mean).square_().sum(dim=0))
            moments[layer] = _merge(moments[layer], seen) if layer in moments else seen

        self._run(crops, take)
        return {
            layer: (mean.float().cpu().numpy(), safe_deviation((m2 / count).sqrt()).float().cpu().numpy())
            for layer, (count, mean, m2) in moments.items()
        }

    def encode(self, crops: np.ndarray) -> Tokens:
        """Encode RGB crops (N, S, S, 3) uint8; any S (resized when it is not the model's size), any N, 0 too.

        Raises ConfigError for another shape or dtype, or int8 without `calibration`; WeightsError when the backbone gives values that are
        not finite.
        """
        if self.dtype == "int8" and not self._calibration:
            raise ConfigError("int8 tokens can't be made before their calibration", fix="Set Encoder.calibration")
        backbone, on_gpu = self.backbone, self.backbone.device.startswith("cuda")
        layout = stored_arrays(self.dtype, backbone.grid, backbone.channels)
        targets = {
            f"{layer}/{kind}": torch.empty((len(crops), *shape), dtype=_STORED[name], pin_memory=on_gpu)
            for layer in self.layers
            for kind, (shape, name) in layout.items()
        }

        def take(rows: slice, position: int, cls: Tensor, patches: Tensor) -> None:
            layer = self.layers[position]
            for kind, values in self._stored(layer, cls, patches).items():
                target = targets[f"{layer}/{kind}"][rows]
                target.copy_(values.view(target.shape), non_blocking=True)

        large = self._run(crops, take)
        arrays = {name: (t.view(torch.uint16) if t.dtype == torch.bfloat16 else t).numpy() for name, t in targets.items()}
        return Tokens(arrays, 0 if self.dtype == "bfloat16" else large)

    def _run(self, crops: np.ndarray, take: Take) -> int:
        return run_backbone(self.backbone, crops, blocks=self._blocks, micro_batch=self.micro_batch, take=take)

    def _stored(self, layer: str, cls: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """Float32 tokens of a layer, (n, 1, C) and (n, H*W, C), as they are stored, by kind; still on the device."""
        if self.dtype == "bfloat16":
            return {"maps": patches.bfloat16(), "cls": cls.bfloat16()}
        cls, patches = (values.clamp(-FLOAT16_MAX, FLOAT16_MAX) for values in (cls, patches))
        if self.dtype == "float16":
            return {"maps": patches.half(), "cls": cls.half()}
        maps, scales = quantise(patches, *self._calibration[layer])
        return {"maps": maps, "scales": scales, "cls": cls.half()}


def _merge(a: tuple[int, Tensor, Tensor], b: tuple[int, Tensor, Tensor]) -> tuple[int, Tensor, Tensor]:
    """Count, mean and squared deviations of both together (Chan, Golub and LeVeque, 1983)."""
    count, delta = a[0] + b[0], b[1] - a[1]
    return count, a[1] + delta * (b[0] / count), a[2] + b[2] + delta.square() * (a[0] * b[0] / count)
