"""`d2st eval --perturb`: AUC against severity, as a table, JSON and curves.

The clean pictures go the very same way first, as severity 0: what a curve loses is then due to the perturbation alone. How far their scores
are from those of the cached maps is written beside: next to nothing, unless the cache was encoded on another kind of device.

Each pass is kept until all are done, so that the same command after Ctrl-C or a crash makes only those that are left.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2st.cli.perturb import Study, count_frames, estimate_s, score_changed
from d2st.cli.progress import phases
from d2st.cli.show import human_time, stderr, stdout, table

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from d2st.adapter.evaluate.passes import Passes
    from d2st.cli.perturb import Change

__all__ = ["robustness_table", "run_study"]

SEED = 0
RESAMPLES = 1000


def run_study(
    study: Study, summary: Mapping[str, Any], *, manifest: "pl.DataFrame | None", out: Path, title: str, quiet: bool
) -> dict[str, Any]:
    """Score the split clean and at each severity, show a table, and write what `write_robustness` writes.

    Args:
        summary: of `evaluate_run` on the same stores, for its split and what it is about.
        manifest: as for `evaluate_run`.
        out: where `evaluate_run` has left its predictions.
        title: heading of the plot.
        quiet: show neither the estimate nor progress nor the table.

    Returns:
        What robustness.json holds: the numbers of `summarise_robustness`, with what each severity stands for.
    """
    from d2st.adapter.evaluate.passes import Passes
    from d2st.adapter.evaluate.robustness import summarise_robustness
    from d2st.adapter.evaluate.robustness_write import write_robustness
    from d2st.adapter.evaluate.run import choose_samples
    from d2st.adapter.evaluate.subset import balanced_subset
    from d2st.pipeline.perturb import SEVERITIES

    chosen, _ = choose_samples(study.stores, split=summary["split"], manifest=manifest)
    samples = {"available": sum(map(len, chosen)), "clip_frames": study.clip_frames, "seed": SEED}
    if study.max_samples is not None:
        chosen = balanced_subset(chosen, study.max_samples, seed=SEED)
    samples = {"scored": sum(map(len, chosen)), **samples}
    passes = Passes(out / "perturb", {"run": summary["about"], "data": _identity(study, chosen)})
    scored = _score_all(study, chosen, passes, quiet=quiet)
    clean = scored[None, 0]
    perturbed = {each.name: [scored[each.name, severity] for severity in SEVERITIES] for each in study.perturbations}
    numbers = summarise_robustness(clean, perturbed, resamples=RESAMPLES, seed=SEED)
    entries = {
        each.name: {
            "parameter": each.parameter,
            "scale": each.source,
            "severities": [
                {"severity": severity, "value": value, **found}
                for severity, value, found in zip(SEVERITIES, each.values, numbers["perturbations"][each.name], strict=True)
            ],
        }
        for each in study.perturbations
    }
    document = {
        "split": summary["split"],
        "about": summary["about"],
        "samples": samples,
        "resamples": RESAMPLES,
        "clean": {**numbers["clean"], "largest_difference_from_cache": _difference(clean, out / "predictions.parquet")},
        "perturbations": entries,
    }
    write_robustness(out, document, scored, title=title)
    passes.clear()
    if not quiet:
        stdout().print(robustness_table(document))
    return document


def robustness_table(document: dict[str, Any]) -> "Table":
    """AUC with its interval at each severity; above each perturbation's rows, what its severities stand for."""
    entries = document["perturbations"]
    columns = ["perturbation", "kind", "clean", *(str(step["severity"]) for step in next(iter(entries.values()))["severities"])]
    rows = []
    for name, entry in entries.items():
        rows.append([name, entry["parameter"], "", *(f"{step['value']:g}" for step in entry["severities"])])
        for kind, clean in document["clean"]["kinds"].items():
            rows.append(["", kind, _cell(clean), *(_cell(step["kinds"][kind]) for step in entry["severities"])])
    title = f"AUC by severity, by video_id, {document['samples']['scored']} samples (95 % interval)"
    return table(title, columns, rows, right=columns[2:])


def _cell(level: dict[str, Any]) -> str:
    if level["auc"] is None or level["interval"] is None:
        return "-" if level["auc"] is None else f"{level['auc']:.3f}"
    low, high = (f"{bound:.2f}".removeprefix("0") for bound in level["interval"])
    return f"{level['auc']:.3f} {low}-{high}"  # the space is where a narrow terminal may break the line


def _identity(study: Study, chosen: "list[pl.DataFrame]") -> list[Any]:
    """What scores depend on besides the detector, as JSON values: the samples and their cached frames, and how these are encoded."""
    from d2st.adapter.evaluate.score_table import CARRIED

    rows = [samples.select(*CARRIED, "start", "frames_cached").write_json() for samples in chosen]
    configs = [store.tokens.config for store in study.stores]
    return [rows, configs, study.clip_frames, study.encoder.backbone.device]


def _score_all(
    study: Study, chosen: "list[pl.DataFrame]", passes: "Passes", *, quiet: bool
) -> "dict[tuple[str | None, int], pl.DataFrame]":
    """Predictions by perturbation and severity; those of the clean pictures by (None, 0)."""
    from d2st.pipeline.perturb import SEVERITIES

    frames = sum(count_frames(samples, study.clip_frames) for samples in chosen)
    steps: list[tuple[str | None, int, float, Change | None]] = [(None, 0, 0, None)]
    for each in study.perturbations:
        steps += [
            (each.name, s, value, partial(each.apply, severity=s)) for s, value in zip(SEVERITIES, each.values, strict=True)
        ]
    total = frames * len(steps)
    kept = sum(passes.has(name=name, severity=severity, value=value) for name, severity, value, _ in steps)
    if not quiet and kept:
        line = f"perturb: {kept} of {len(steps)} passes are there from a run that was stopped"
        stderr().print(line, markup=False, soft_wrap=True)
    if not quiet and kept < len(steps):
        line = f"perturb: {len(steps) - kept} passes over {frames} frames of {sum(map(len, chosen))} samples"
        left_s = estimate_s(study, chosen) * (len(steps) - kept) / len(steps)
        stderr().print(f"{line}, about {human_time(left_s)}", markup=False, soft_wrap=True)
    scored: dict[tuple[str | None, int], pl.DataFrame] = {}
    with phases({"frames": ("perturb, encode, score", "frames")}, quiet=quiet) as on_progress:
        on_progress("frames", 0, total)

        def report(done: int) -> None:
            on_progress("frames", len(scored) * frames + done, total)

        for name, severity, value, change in steps:
            make = partial(score_changed, study, chosen, change, on_progress=report)
            scored[name, severity] = passes.scored(make, name=name, severity=severity, value=value)
            report(0)
    return scored


def _difference(clean: "pl.DataFrame", cached: Path) -> float:
    """By how much a score of the clean pictures differs at most from that of the cached maps, as `evaluate_run` wrote it."""
    import polars as pl

    kept = pl.read_parquet(cached, columns=["sample_id", "score"])
    return float(clean.join(kept, on="sample_id").select((pl.col("score") - pl.col("score_right")).abs().max()).item())
