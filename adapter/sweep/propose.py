"""What the next trials try: Optuna's samplers and pruners, made for a search space.

A sampler is made anew for every trial, seeded by the recipe's seed and the trial's number: what is proposed depends on these and on what is
known by then, never on which process asks, or on how often it was stopped.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from d2st.adapter.sweep.space import Axis, Choice, Space

__all__ = ["NAME", "STARTUP", "decoded", "distributions", "make_pruner", "propose"]

NAME = "d2st"  # of the study; the sweep's own name is its folder's, which may be renamed
STARTUP = 10  # trials that TPE draws at random, to have something to learn from
REDUCTION = 3  # of the trials at a rung one in three goes on, by ASHA and Hyperband alike
FIRST_RUNG = 1 / 6  # of the epochs, and two at least: nothing is pruned before, for a first epoch is mostly warm-up and luck


def propose(space: Space, known: Sequence[Any], count: int, *, pruner: Any) -> list[dict[str, Any]]:
    """What the `count` trials after the `known` ones (Optuna's) try, as their journal keeps it. By Optuna, on a copy in memory."""
    from optuna import create_study

    copy = create_study(study_name=NAME, direction="maximize", pruner=pruner)
    copy.add_trials(known)
    made = []
    for number in range(len(known), len(known) + count):
        copy.sampler = _sampler(space, number)
        trial = copy.ask()  # it runs from here on, and what comes next keeps away from it
        for axis in space.axes:
            if space.applies(axis, decoded(space, trial.params)):
                _suggest(trial, axis)
        made.append(dict(trial.params))
    return made


def make_pruner(space: Space) -> Any:
    """By validation AUC: asynchronous successive halving (Li et al., MLSys 2020), or Hyperband (Li et al., JMLR 2018) over it."""
    from optuna.pruners import HyperbandPruner, NopPruner, SuccessiveHalvingPruner

    epochs = space.base.optim.epochs
    first = min(epochs, max(2, round(epochs * FIRST_RUNG)))
    if space.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=REDUCTION)
    if space.pruner == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=epochs, reduction_factor=REDUCTION)
    return NopPruner()


def decoded(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """Values by key, in the order of the axes, of what a journal keeps."""
    return {
        axis.key: axis.values[axis.labels.index(params[axis.key])] if isinstance(axis, Choice) else params[axis.key]
        for axis in space.axes
        if axis.key in params
    }


def distributions(space: Space) -> dict[str, Any]:
    """Each axis as Optuna has it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, Any] = {}
    for axis in space.axes:
        if isinstance(axis, Choice):
            made[axis.key] = CategoricalDistribution(axis.labels)
        elif axis.integer:
            made[axis.key] = IntDistribution(int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
        else:
            made[axis.key] = FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    return made


def _suggest(trial: Any, axis: Axis) -> None:
    if isinstance(axis, Choice):
        trial.suggest_categorical(axis.key, axis.labels)
    elif axis.integer:
        trial.suggest_int(axis.key, int(axis.low), int(axis.high), log=axis.log, step=int(axis.step or 1))
    else:
        trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log, step=axis.step)


def _sampler(space: Space, number: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([space.base.seed, number]).generate_state(1)[0])
    if space.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():  # marked experimental in Optuna 4
        warnings.simplefilter("ignore")
        # trials that run count as bad ones, so that those asked for at once differ
        return TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
