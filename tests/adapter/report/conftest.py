"""A run on the disk as training and evaluation leave it, with a store that has faces, and names that no page should trust."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from d2st.adapter.evaluate.robustness import summarise_robustness
from d2st.adapter.evaluate.score import PREDICTIONS
from d2st.adapter.evaluate.summary import summarise
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.store import Store

HOSTILE = "<img src=x onerror='window.hacked=1'>\"&.mp4"
METHODS = ("real", "swap", "lip<sync>", "real")
FRAMES, SIZE = 4, 64
MANIFEST = ("sample_id", "path", "kind", "label", "dataset", "method", "split", "video_id")


@pytest.fixture(scope="session")
def predictions() -> Callable[..., pl.DataFrame]:
    """predictions(count, split=): images and videos, scores that are mostly right; the first sample is a mistake."""

    def make(count: int = 40, *, split: str = "test", seed: int = 0) -> pl.DataFrame:
        rng, rows = np.random.default_rng(seed), []
        for index in range(count):
            method = METHODS[index // 2 % 4]
            kind, label = ("image", "video")[index % 2], int(method != "real")
            frames = 1 if kind == "image" else FRAMES
            logits = rng.normal(1.2 * (2 * label - 1), 1.2) + rng.normal(0, 0.3, frames)
            if index == 1:
                logits = np.full(frames, 3.0)
            logit, scores = float(logits.mean()), 1 / (1 + np.exp(-logits))
            names = (f"{split}-{index:05d}", "made", method, label, split, kind, f"v{split}{index}", [f"id{index % 7}"])
            rows.append((*names, frames, logit, float(1 / (1 + np.exp(-logit))), scores.tolist()))
        return pl.DataFrame(rows, schema=PREDICTIONS, orient="row")

    return make


@pytest.fixture(scope="session")
def make_run(predictions) -> Callable[..., Path]:
    """make_run(folder, count=, stages=, evaluated=, store=, perturbed=, result=): the run's folder; the store faces.d2st lies beside."""

    def make(
        folder: Path,
        *,
        count: int = 40,
        stages: int = 3,
        evaluated: tuple[int, ...] = (1, 3),
        store: bool = True,
        perturbed: bool = True,
        result: dict[str, Any] | None = None,
    ) -> Path:
        run, tested = folder / "runs" / "tiny", predictions(count)
        if store:
            make_store(folder / "faces.d2st", tested)
        for number in range(1, stages + 1):
            place = run / f"stage{number}"
            place.mkdir(parents=True)
            (place / "recipe.toml").write_text(f"stage = {number}  # </pre><script>window.hacked=2</script>\n")
            write(place / "environment.json", {"python": "3.11", "packages": {"d2st": "0.1.0"}})
            write(
                place / "fingerprint.json",
                {"cache": "c0ffee", "cache_path": "../../../faces.d2st", "manifest": "beef", "init": None},
            )
            epochs = [
                {"epoch": e, "best_epoch": min(e, 2), "loss": 0.7 / e, "val": {"loss": 0.8 / e, "video_auc": 0.9}}
                for e in (1, 2, 3)
            ]
            (place / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
            facts = {
                "adapter": "d2st",
                "stage": number,
                "best_epoch": 2,
                "value": 0.9,
                "epochs": 3,
                "ended": "all epochs",
                "seconds": 3.0,
            }
            facts |= {
                "train_samples": 4,
                "val_samples": 2,
                "parameters": 1234,
                "init": None,
                "finished_at": "2026-01-01T00:00:00+00:00",
            }
            write(place / "result.json", facts | (result or {} if number == stages else {}))
            trained = tested.head(4).select("sample_id", "kind", "label", split=pl.lit("train"))
            trained.write_parquet(place / "samples.parquet")
            if number in evaluated:
                evaluate(place / "eval-test", tested)
        if perturbed and evaluated:
            perturb(run / f"stage{max(evaluated)}" / "eval-test", tested)
        return run

    return make


@pytest.fixture(scope="session")
def evaluate_into() -> Callable[..., dict[str, Any]]:
    return evaluate


def evaluate(folder: Path, predictions: pl.DataFrame, **options: Any) -> dict[str, Any]:
    """predictions.parquet and metrics.json, as `d2st eval` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = {"split": "test", "about": {"caches": ["faces.d2st"]}}
    summary |= summarise(predictions, clip_frames=FRAMES, rejected={"no_face": 2}, resamples=30, **options)
    predictions.write_parquet(folder / "predictions.parquet")
    write(folder / "metrics.json", summary)
    return summary


def perturb(folder: Path, predictions: pl.DataFrame) -> None:
    """robustness.json, as `d2st eval --perturb jpeg,noise` writes it: scores fall to chance by jpeg, and stay as they are under noise."""
    rng = np.random.default_rng(0)
    drawn = rng.uniform(0, 1, len(predictions))
    faded = [predictions.with_columns(score=(1 - s / 5) * pl.col("score") + s / 5 * pl.Series(drawn)) for s in range(1, 6)]
    found = summarise_robustness(predictions, {"jpeg": faded, "noise": [predictions] * 5}, resamples=30)
    facts = {"jpeg": ("quality", (90, 70, 50, 30, 10)), "noise": ("sigma <8 bits>", (0.04, 0.06, 0.08, 0.09, 0.1))}
    entries = {
        name: {
            "parameter": parameter,
            "scale": f"the scale of {name}",
            "severities": [
                {"severity": severity, "value": value, **step}
                for severity, (value, step) in enumerate(zip(values, found["perturbations"][name], strict=True), 1)
            ],
        }
        for name, (parameter, values) in facts.items()
    }
    about = json.loads((folder / "metrics.json").read_text())["about"]
    samples = {"scored": len(predictions), "available": len(predictions), "clip_frames": FRAMES, "seed": 0}
    document = {"split": "test", "about": about, "samples": samples, "resamples": 30, "clean": found["clean"]}
    write(folder / "robustness.json", document | {"perturbations": entries})


def make_store(path: Path, predictions: pl.DataFrame) -> None:
    """Crops of noise, FRAMES a video; two more samples that had no face. The path of the first mistake is hostile."""
    Store.ensure(path)
    tokens, crops = (
        ensure_level(path, "tokens", {"backbone": "tiny", "layers": ["block_1"]}),
        ensure_level(path, "crops", {"size": SIZE}),
    )
    ensure_array(tokens.array("block_1/maps"), frame_shape=(1, 1, 2), dtype="float16", shards=1, attributes={})
    lost = ["lost-1", "lost-2"]
    slots = [*predictions.select("sample_id", "frames").iter_rows(), *((name, 0) for name in lost)]
    extend_plan(path / "plan", pl.DataFrame(slots, schema={"sample_id": pl.String, "slots": pl.Int32}, orient="row"))
    plan = Store.open(path).plan().partition_by("shard", maintain_order=True)
    array, rng = crops.array("frames"), np.random.default_rng(0)
    ensure_array(array, frame_shape=(SIZE, SIZE, 3), dtype="uint8", shards=len(plan), attributes={})
    for shard, part in enumerate(plan):
        rows, start = [], shard * SHARD_FRAMES
        for name, frames in part.select("sample_id", "slots").iter_rows():
            reason = "no_face" if name in lost else None
            rows.append([name, None if reason else start, frames, FRAMES, reason, "nobody <there>" if reason else "", "{}"])
            start += frames
        with crops.stage(shard) as staged:
            writer = staged.writer("frames", frame_dims=3)
            writer.append(rng.integers(0, 255, (start - shard * SHARD_FRAMES, SIZE, SIZE, 3), np.uint8))
            assert staged.commit(pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row"))
    known = predictions.with_columns(pl.col("split", "kind").cast(pl.String))
    known = known.with_columns(path=pl.when(pl.col("sample_id") == "test-00001").then(pl.lit(HOSTILE)).otherwise("sample_id"))
    more = {"sample_id": lost, "path": ["a.mp4", "b.mp4"], "kind": ["video"] * 2, "label": [0, 1], "dataset": ["made"] * 2}
    more |= {"method": ["real", "swap"], "split": ["test"] * 2, "video_id": lost}
    both = [known.select(MANIFEST), pl.DataFrame(more).with_columns(pl.col("label").cast(pl.Int8)).select(MANIFEST)]
    Store.open(path).write_manifest(pl.concat(both))


def write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))
