"""Which open_clip models d2st can tap, and how their visual tower is built.

The one decision: only the visual tower is ever built. Every CLIP class of open_clip makes its tower from `vision_cfg` in the
same way, so a CLIP with a one-block text tower gives exactly the tower of the full model, without the memory, the start-up
time, or the extra packages of the real text side.

Two models of our own are registered beside open_clip's: `d2st-demo` (14x14 grid, 6 blocks of 192 channels; a demonstration
that runs on a laptop) and `d2st-test` (4x4 grid, 3 blocks of 64 channels; the test suite).
"""

import difflib
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transformer import VisionTransformer

from d2st.cache.errors import ConfigError, UnknownNameError

__all__ = ["build_visual", "image_size_of", "model_config", "model_names", "own_tokens", "register_models"]

_CONFIGS = Path(__file__).parent / "configs"
_NO_TEXT = {"context_length": 8, "vocab_size": 16, "width": 64, "heads": 1, "layers": 1}


@cache
def register_models() -> None:
    """Make `d2st-demo` and `d2st-test` known to open_clip (once a process)."""
    open_clip.add_model_config(_CONFIGS)


def model_names() -> list[str]:
    """Names of the models that can be tapped: open_clip's own Vision Transformers and ours."""
    register_models()
    return [name for name in open_clip.list_models() if not _obstacle(open_clip.get_model_config(name))]


def model_config(name: str) -> tuple[str, dict[str, Any]]:
    """Return open_clip's own spelling of `name` ("ViT-B/16" is "ViT-B-16") and its configuration.

    Raises UnknownNameError (with the closest names), or ConfigError when the model exists but can't be tapped.
    """
    register_models()
    spelled = {known.lower(): known for known in open_clip.list_models()}
    known = spelled.get(name.replace("/", "-").lower())
    if known is None:
        names = model_names()
        close = difflib.get_close_matches(name.replace("/", "-"), names, n=6, cutoff=0.4)
        raise UnknownNameError("CLIP backbone", name, close or names)
    config = open_clip.get_model_config(known)
    if obstacle := _obstacle(config):
        raise ConfigError(
            f"backbone {known!r} {obstacle}",
            fix="Supported are open_clip's own Vision Transformers with a class token, such as ViT-B-16-quickgelu or ViT-L-14",
        )
    return known, config


def _obstacle(config: dict[str, Any]) -> str:
    """Why the tower of `config` can't be tapped, or ""."""
    vision = config["vision_cfg"]
    if timm_name := vision.get("timm_model_name"):
        return f"has a timm image tower ({timm_name}), which d2st can't tap"
    if isinstance(vision.get("layers"), list | tuple):
        return "has a ResNet image tower, which has no class token"
    size, patch = _sides(config)
    if not isinstance(size, int) or not isinstance(patch, int):
        return f"has pictures or patches that are not square ({size}, {patch})"
    return ""


def image_size_of(name: str, config: dict[str, Any], wanted: int | None) -> int:
    """Side of the square input in px: `wanted`, or the model's own.

    Raises ConfigError unless it is a multiple of the patch size.
    """
    own, patch = _sides(config)
    if wanted is not None and (wanted < patch or wanted % patch):
        near = sorted({max(1, wanted // patch + more) * patch for more in (0, 1)})
        raise ConfigError(
            f"pictures of {wanted} px can't be cut into the patches of {name}, which are {patch} px",
            fix=f"Use a multiple of {patch}, such as {' or '.join(map(str, near))}; its own size is {own}",
        )
    return own if wanted is None else wanted


def own_tokens(config: dict[str, Any]) -> int:
    """Tokens that the model has at its own input size, CLS included."""
    size, patch = _sides(config)
    return (size // patch) ** 2 + 1


def _sides(config: dict[str, Any]) -> tuple[int, int]:
    """Of the input and of a patch, px; open_clip's defaults where the config has none."""
    vision = config["vision_cfg"]
    return vision.get("image_size", 224), vision.get("patch_size", 16)


def build_visual(config: dict[str, Any], *, image_size: int | None = None) -> VisionTransformer:
    """Build the visual tower of `config` (from `model_config`), with open_clip's own random initialisation, in eval mode.

    `image_size` is the side of its input in px, the model's own by default. The tower's numbers are drawn from the global random
    generator before anything else is.
    """
    clip = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg={**config["vision_cfg"], **({} if image_size is None else {"image_size": image_size})},
        text_cfg=dict(_NO_TEXT),
        quick_gelu=config.get("quick_gelu", False),
    )
    return clip.visual.eval().requires_grad_(False)
