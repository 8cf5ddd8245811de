"""Which recipe a sweep ends with, and what is said of it.

The winner is the finalist with the highest mean validation AUC over new seeds; without further seeds it is the trial with the highest
score, and nothing is known of how much of that is luck. A finalist that failed with one of the seeds can't win: it would fail again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.groups import by_video, with_two_kinds
from d2st.adapter.evaluate.nulls import bounds_or_null, value_or_null
from d2st.adapter.evaluate.score import score_together
from d2st.adapter.sweep.noise import Lead, lead
from d2st.adapter.sweep.repeats import Repeat
from d2st.adapter.sweep.study import Row
from d2st.adapter.train.checkpoint import load_detector
from d2st.adapter.train.plan import Plan
from d2st.adapter.train.result import read_result
from d2st.adapter.train.rundir import RESULT
from d2st.cache import Store, TokenLoader
from d2st.cache.errors import RunError

__all__ = ["choose_winner", "noise_lines"]


def choose_winner(store: Store, plan: Plan, best: Sequence[Row], repeats: Sequence[Repeat], *, device: str) -> dict[str, Any]:
    """The outcome of a sweep as JSON.

    Args:
        plan: of any trial: whose validation samples all share.
        best: the finalists, the best first; at least one. repeats: theirs, all over.

    Returns:
        {"winner": trial, "metric", "finalists", the winner first: [{"trial", "drawn", "first", "values": {seed: AUC or null}, "mean",
        "sd"}], "noise": {"lead", "interval", "chance", "is_noise", "seed_sd", "video_sd", "seeds", "videos", "runner_up"} or null,
        "overstated": {trial: its first score less its mean}}
    """
    rows, metric = [], None
    for row in best:
        own = [repeat for repeat in repeats if repeat.of == row.number]
        found = {repeat.seed: read_result(repeat.stage) if (repeat.stage / RESULT).is_file() else None for repeat in own}
        values = {str(seed): result.value if result else None for seed, result in found.items()}
        metric = next((result.metric for result in found.values() if result), metric)
        scores = [value for value in values.values() if value is not None]
        rows.append(
            {
                "trial": row.number,
                "drawn": row.values,
                "first": row.value,
                "values": values,
                "mean": float(np.mean(scores)) if scores else None,
                "sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
            }
        )
    whole = [row for row in rows if row["values"] and None not in row["values"].values()]
    ranked = sorted(whole, key=lambda row: -row["mean"]) + [row for row in rows if row not in whole]
    noise, over = None, {}
    if whole:
        over = {str(row["trial"]): row["first"] - row["mean"] for row in whole}
    if len(whole) > 1 and len(whole[0]["values"]) > 1 and metric:
        pair = [[r for r in repeats if r.of == row["trial"]] for row in ranked[:2]]
        labels, scored = _scores(store, plan, pair, metric=metric, device=device)
        made = lead([list(row["values"].values()) for row in ranked[: len(whole)]], *scored, labels)
        noise = _as_json(made) | {"runner_up": ranked[1]["trial"]}
    return {"winner": ranked[0]["trial"], "metric": metric, "finalists": ranked, "noise": noise, "overstated": over}


def noise_lines(outcome: Mapping[str, Any]) -> list[str]:
    """What is to be said of the winner, in words. outcome: of `choose_winner`, with "trials": {state: count}."""
    winner, noise, trials = outcome["winner"], outcome["noise"], sum(outcome["trials"].values())
    first = outcome["finalists"][0]
    if first["values"] and str(winner) not in outcome["overstated"]:
        return [
            f"no finalist trained with each of the new seeds; trial {winner} is named for its one score, {first['first']:.4f}"
        ]
    if first["mean"] is None:
        return [
            f"trial {winner} was picked for one score, {first['first']:.4f}, the highest of {trials}: with other seeds it will score "
            "less. --seeds 3 measures how much"
        ]
    said = []
    if noise is not None and noise["interval"] is not None:
        low, high = noise["interval"]
        verdict = "no more than noise" if noise["is_noise"] else "more than noise"
        said.append(
            f"trial {winner} leads trial {noise['runner_up']} by {noise['lead']:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, "
            f"{noise['seeds']} seeds, {noise['videos']} validation videos): {verdict}; "
            f"chance that trial {noise['runner_up']} is as good or better: {noise['chance']:.0%}"
        )
        said.append(
            f"a seed moves an AUC by {noise['seed_sd']:.4f}, another draw of validation videos the lead by {noise['video_sd']:.4f} "
            "(standard deviations)"
        )
    over = list(outcome["overstated"].values())
    said.append(
        f"when the search picked it, trial {winner} had scored {first['first']:.4f}, one score among {trials}; new seeds give "
        f"{first['mean']:.4f}: the first score was {_too(first['first'] - first['mean'])} (over all finalists {_too(np.mean(over))})"
    )
    return said


def _too(difference: float) -> str:
    return f"{abs(difference):.4f} too {'high' if difference >= 0 else 'low'}"


def _scores(
    store: Store, plan: Plan, pair: Sequence[Sequence[Repeat]], *, metric: str, device: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels (N,) of the validation videos, and for either recipe their scores (K, N)."""
    labels, made = np.empty(0), []
    for repeats in pair:
        detectors, metas = zip(*(load_detector(repeat.stage, device=device) for repeat in repeats), strict=True)
        with TokenLoader(store, metas[0]["layers"], device=device, maps=detectors[0].adapter.needs_maps) as loader:
            scored = score_together(detectors, loader, plan.selection.val, clip_frames=metas[0]["clip_frames"])
        rows = []
        for table in scored:
            if isinstance(table, RunError):
                raise table
            videos = by_video(_judged(table, metric))  # sorted by video_id, so rows match
            labels = videos["label"].to_numpy()
            rows.append(videos["score"].to_numpy())
        made.append(np.stack(rows))
    return labels, made


def _judged(predictions: pl.DataFrame, metric: str) -> pl.DataFrame:
    """The rows that a metric of `validate` is of."""
    table = with_two_kinds(predictions)
    return table if metric == "auc" else table.filter(pl.col("kind") == metric.removesuffix("_auc"))


def _as_json(made: Lead) -> dict[str, Any]:
    return {
        "lead": made.value,
        "interval": bounds_or_null(made.interval),
        "chance": value_or_null(made.chance),
        "is_noise": made.is_noise,
        "seed_sd": value_or_null(made.seed_sd),
        "video_sd": value_or_null(made.video_sd),
        "seeds": made.seeds,
        "videos": made.videos,
    }
