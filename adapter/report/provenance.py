"""Sections on where a run comes from: how training went, and everything that repeats it."""

import json
from collections.abc import Mapping
from typing import Any

from d2st.adapter.report.gather import Record, Stage
from d2st.adapter.report.markup import Html, definitions, details, join, note, number, table, tag
from d2st.adapter.report.series import training_curves
from d2st.adapter.report.sources import Sources
from d2st.adapter.report.svg import panel_row

__all__ = ["reproduce", "training"]


def training(record: Record) -> Html:
    """A row a stage, and the curves of all of them."""
    rows = []
    for stage in record.stages:
        found = stage.result or {}
        ended = found.get("ended") or ("not finished" if stage.epochs else "not begun")
        samples = f"{found['train_samples']} + {found['val_samples']}" if "train_samples" in found else None
        best = f"{number(found.get('value'))} at epoch {found['best_epoch']}" if "best_epoch" in found else None
        seconds = f"{found['seconds']:.0f}" if "seconds" in found else None
        rows.append(
            [
                f"stage\N{NO-BREAK SPACE}{stage.number}",
                found.get("adapter"),
                found.get("init") or "scratch",
                samples,
                best,
                found.get("epochs", len(stage.epochs)),
                ended,
                found.get("parameters"),
                seconds,
            ]
        )
    heads = [
        "",
        "adapter",
        "started from",
        "samples, train + val",
        "best on validation",
        "epochs",
        "ended",
        "parameters",
        "seconds",
    ]
    made = [table("Stages", heads, rows, right=(5, 7, 8))]
    made.append(panel_row(training_curves(record.stages), otherwise="No stage of this run has a metrics.jsonl."))
    return join(made)


def reproduce(record: Record, sources: Sources) -> Html:
    """Recipes, fingerprints, environments and the cache's settings, as they are on the disk."""
    made = [
        note("A stage repeats from its recipe and its cache: ", tag("code", "d2st train --cache STORE --recipe recipe.toml"))
    ]
    made += [_stage(stage) for stage in record.stages]
    for name, config in sources.configs.items():
        made.append(details(f"The cache {name}: settings of its token maps", _json(config)))
    if sources.lacking:
        made.append(note(f"{'; '.join(sources.lacking)}."))
    if record.evaluation:
        about = record.evaluation.summary.get("about") or {}
        made.append(details("What was evaluated", _json({"folder": record.evaluation.name, **about})))
    return join(made)


def _stage(stage: Stage) -> Html:
    prints = definitions((f"fingerprint: {name}", tag("code", value)) for name, value in _flat(stage.fingerprint))
    recipe = tag("pre", stage.recipe, tabindex="0") if stage.recipe else note("recipe.toml is not there.")
    parts = [prints, tag("h3", "recipe.toml"), recipe, tag("h3", "environment.json"), _json(stage.environment)]
    if stage.result:
        parts += [tag("h3", "result.json"), _json(stage.result)]
    return details(f"Stage {stage.number}", *parts)


def _json(document: Mapping[str, Any]) -> Html:
    return tag("pre", json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True, default=str), tabindex="0")


def _flat(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value if isinstance(value, str) else json.dumps(value, sort_keys=True)) for name, value in document.items()]
