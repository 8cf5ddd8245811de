"""Random numbers as functions of (seed, epoch, step): nothing has a state that a resumed run would have to restore."""

import random

import numpy as np
import torch

__all__ = ["CLIPS", "LOSS", "ORDER", "VIEWS", "seed_everything", "step_rng"]

ORDER, CLIPS, LOSS, VIEWS = 0, 1, 2, 3  # purposes, each with a stream of its own


def step_rng(seed: int, epoch: int, step: int, stream: int) -> np.random.Generator:
    """The generator of one purpose in one step."""
    return np.random.default_rng([seed, epoch, step, stream])


def seed_everything(*key: int) -> None:
    """Seed the global generators of Python, NumPy and torch, which layers such as dropout draw from, by a function of `key`."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint32)[0])
    random.seed(seed)
    np.random.seed(seed)
    # not torch.manual_seed: without a GPU in use it formats a stack trace at each call
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # never true without a usable GPU
        torch.cuda.manual_seed_all(seed)
