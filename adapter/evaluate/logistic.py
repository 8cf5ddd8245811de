"""Logistic regression by Newton's method, for the linear probes of `gap`: exact, without a seed, milliseconds for what a probe needs."""

import numpy as np

__all__ = ["fit_logistic"]

MAX_STEPS, TOLERANCE = 100, 1e-10


def fit_logistic(x: np.ndarray, y: np.ndarray, weight: np.ndarray, *, l2: float = 1.0) -> tuple[np.ndarray, float]:
    """Minimise  sum_i weight_i log(1 + exp(-s_i (x_i w + b))) + l2 |w|^2 / 2,  s_i = 2 y_i - 1;  b is not penalised.

    What scikit-learn's `LogisticRegression(C=1/l2)` minimises. Newton steps, halved until the objective falls (Boyd and Vandenberghe 2004,
    9.5.2); with l2 > 0 and both classes there is one minimum.

    Args:
        x: (N, D). y: (N,) 0 or 1, both present. weight: (N,) > 0. l2: > 0.

    Returns:
        w (D,) and b.
    """
    design = np.column_stack([x, np.ones(len(x))])  # (N, D + 1)
    sign, penalty = 2.0 * y - 1, np.append(np.full(x.shape[1], l2), 0.0)
    theta = np.zeros(design.shape[1])

    def objective(at: np.ndarray) -> float:
        return float(weight @ np.logaddexp(0, -sign * (design @ at)) + penalty @ at**2 / 2)

    value = objective(theta)
    for _ in range(MAX_STEPS):
        p = (1 + np.tanh(design @ theta / 2)) / 2  # (N,)
        gradient = design.T @ (weight * (p - y)) + penalty * theta
        hessian = (design.T * (weight * p * (1 - p))) @ design + np.diag(penalty)
        hessian[-1, -1] += 1e-12  # b has no penalty, and no curvature where every p is 0 or 1
        step = np.linalg.solve(hessian, gradient)
        decrease, size = float(gradient @ step), 1.0
        while decrease > TOLERANCE and (new := objective(theta - size * step)) > value - 0.25 * size * decrease and size > 1e-9:
            size /= 2
        if decrease <= TOLERANCE or size <= 1e-9:
            break
        theta, value = theta - size * step, new
    return theta[:-1], float(theta[-1])
