"""A frozen CLIP image tower, loaded and described.

The one decision: what a tower is called is settled here, on the CPU and in float32, before it moves to a device or loses
precision. So the weights digest, which is part of every cache's fingerprint, is the same on every machine.
"""

import threading
from dataclasses import dataclass, field

import torch
from open_clip import convert_weights_to_lp
from open_clip.transformer import VisionTransformer

from d2st.cache.device import pick_device
from d2st.cache.errors import UsageError
from d2st.pipeline.clip.models import build_visual, image_size_of, model_config, own_tokens
from d2st.pipeline.clip.pretrained import fetch, parse_pretrained
from d2st.pipeline.clip.weights import POSITIONS, fit_positions, load_weights, read_visual_state, weights_digest

__all__ = ["PRECISIONS", "Backbone", "default_precision", "load_backbone"]

PRECISIONS = ("fp32", "bf16")
_seeding = threading.Lock()  # open_clip initialises from the one global generator: threads that load at once take turns


@dataclass(frozen=True, eq=False)
class Backbone:
    """A visual tower in eval mode, without gradients, on its device.

    `name` is open_clip's spelling; `pretrained` says where the weights came from (a tag, "random:SEED", or a bare file name,
    never a folder); `weights_digest` is 32 hex digits. `image_size` is the side of the square input in pixels, `grid` the
    (H, W) of the token map, `channels` its C, `depth` the number of blocks that the full tower has. `mean` and `std` are per
    RGB channel for pixels in [0, 1]. `device` is "cpu" or "cuda:N".
    """

    model: VisionTransformer = field(repr=False)
    name: str
    pretrained: str
    weights_digest: str
    image_size: int
    grid: tuple[int, int]
    channels: int
    depth: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str
    precision: str


def default_precision(device: str) -> str:
    """ "bf16" on CUDA, where it is several times faster; "fp32" on the CPU, where it depends on the processor."""
    return "bf16" if device.startswith("cuda") else "fp32"


def load_backbone(
    name: str, pretrained: str, *, device: str = "auto", precision: str | None = None, image_size: int | None = None
) -> Backbone:
    """Load the image tower of a CLIP model; the text tower is never built.

    `name` is an open_clip model with a Vision Transformer, or "d2st-demo". `pretrained` is an open_clip tag, a local file, a
    local file with its tag ("openai=FILE"), or "random:SEED": open_clip's own random initialisation, the same whatever the
    state of the global random generator, which is left as it was. Threads may load at once. `precision` None means
    `default_precision(device)`.

    `image_size` is the side of the input in px, the model's own by default; for another one the position embedding is interpolated as
    open_clip's `force_image_size` does. The weights digest is that of the weights before, so it does not depend on the size.

    "fp32" is true float32 (TF32 is switched off). "bf16" computes the matrix products and the attention of the blocks in
    bfloat16, and the patch embedding, the norms and the residual stream in float32: rounding errors then do not add up from
    block to block in the very stream that is tapped.

    Raises UnknownNameError for an unknown model, ConfigError for an unsupported one, a pair of model and weights that do
    not belong together or a size that is no multiple of the patches', WeightsError when weights can't be had or are damaged.
    """
    device = pick_device(device)
    precision = precision or default_precision(device)
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r} is not known", fix=f"Use one of {', '.join(PRECISIONS)}")
    name, config = model_config(name)
    size = image_size_of(name, config, image_size)
    source = parse_pretrained(name, config, pretrained)
    if source.seed is None:
        state = read_visual_state(fetch(name, source))
    else:
        with _seeding, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(source.seed)
            state = build_visual(config).state_dict()
    with torch.device("meta"):  # no time lost on numbers that are overwritten at once
        visual = build_visual(config, image_size=size)
    visual = visual.to_empty(device="cpu")
    load_weights(visual, fit_positions(visual, state, tokens=own_tokens(config)), origin=f"{source.label} for {name}")
    digest = weights_digest({**visual.state_dict(), POSITIONS: state[POSITIONS].float()})
    return Backbone(
        model=_cast(visual, device, precision),
        name=name,
        pretrained=source.label,
        weights_digest=digest,
        image_size=visual.image_size[0],
        grid=tuple(visual.grid_size),
        channels=visual.transformer.width,
        depth=len(visual.transformer.resblocks),
        mean=source.mean,
        std=source.std,
        device=device,
        precision=precision,
    )


def _cast(visual: VisionTransformer, device: str, precision: str) -> VisionTransformer:
    """Move the tower; for bf16, cast the blocks' matrices and keep the patch embedding out of autocast's reach."""
    if precision == "bf16":
        convert_weights_to_lp(visual.transformer, torch.bfloat16)
        device_type = torch.device(device).type
        visual.conv1.forward = torch.autocast(device_type, enabled=False)(visual.conv1.forward)
    return visual.to(device)
