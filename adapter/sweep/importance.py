"""What each key has to do with being among the best, by PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255).

Of Optuna's evaluators it is the one that asks only who is among the best. So pruned trials count too, with what they had reached; the
others look at finished trials alone, and pruning leaves few of these.
"""

import inspect
import warnings
from collections.abc import Sequence
from typing import Any

__all__ = ["importances"]

SHARE, LEAST = 0.1, 5  # the best: this share of the trials, and at least so many


def importances(trials: Sequence[Any]) -> dict[str, float]:
    """Shares of one by key, the largest first; empty below ten trials, or where all came to the same.

    Args:
        trials: Optuna's, ended; those without a value are left out.
    """
    from optuna import create_study
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import create_trial

    judged = [trial for trial in trials if trial.value is not None]
    if len(judged) < 2 * LEAST or len({trial.value for trial in judged}) < 2:
        return {}
    study = create_study(direction="maximize")
    study.add_trials([create_trial(value=t.value, params=t.params, distributions=t.distributions) for t in judged])
    # the newer name, then the older one
    names = inspect.signature(PedAnovaImportanceEvaluator).parameters
    quantile = next(name for name in ("target_quantile", "baseline_quantile") if name in names)
    with warnings.catch_warnings():  # marked experimental in Optuna 4
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(**{quantile: max(SHARE, LEAST / len(judged))})
    return {key: float(share) for key, share in get_param_importances(study, evaluator=evaluator).items()}
