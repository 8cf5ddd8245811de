"""Training: recipes, samplers, losses, the loop, checkpoints and run directories of the three stages.

The order of samples, the augmentation and every random number of a step are pure functions of (seed, epoch, step). That is what makes a
resumed run equal an uninterrupted one, and why no state of any random generator has to be kept.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from d2st.adapter.train.checkpoint import load_detector
    from d2st.adapter.train.recipe_file import load_recipe
    from d2st.adapter.train.result import StageResult
    from d2st.adapter.train.run import run_training
    from d2st.adapter.train.stage import train_stage

__all__ = ["StageResult", "load_detector", "load_recipe", "run_training", "train_stage"]

_HOMES = {
    "StageResult": "result",
    "load_detector": "checkpoint",
    "load_recipe": "recipe_file",
    "run_training": "run",
    "train_stage": "stage",
}


def __getattr__(name: str) -> object:  # lazy: reading a recipe must not import torch
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
