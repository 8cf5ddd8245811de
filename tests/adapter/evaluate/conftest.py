"""A small store on the disk, real loader and all, whose features say which samples are fake."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from d2st.adapter.evaluate.score import PREDICTIONS
from d2st.adapter.nets.detector import Detector, Head
from d2st.adapter.nets.registry import build_adapter
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.store import Store

LAYERS, GRID, CHANNELS = ("block_1", "block_3"), (3, 3), 8
CONFIG = {"backbone": "tiny", "micro_batch": 16, "layers": list(LAYERS)}


@pytest.fixture
def make_store() -> Callable[..., Store]:
    """make_store(path, samples, config=..., rejected={sample_id: reason}): samples as dicts of manifest columns plus `cached` frames."""

    def make(
        path: Path, samples: list[dict], *, config: dict = CONFIG, rejected: dict[str, str] | None = None, seed: int = 0
    ) -> Store:
        rng = np.random.default_rng(seed)
        Store.ensure(path)
        tokens, crops = ensure_level(path, "tokens", config), ensure_level(path, "crops", {"size": 8})
        start, rows, signs = 0, [], []
        for sample in samples:
            cached = sample["cached"]
            if cached:
                rows.append([sample["sample_id"], start, cached, cached, None, "", "{}"])
                signs += [2.0 * sample["label"] - 1] * cached
            start += cached
        assert start <= SHARD_FRAMES
        arrays = {}
        for layer in LAYERS:
            for kind, shape in (("maps", (*GRID, CHANNELS)), ("cls", (CHANNELS,))):
                sign = np.array(signs).reshape(-1, *[1] * len(shape))
                values = rng.normal(size=(start, *shape)) + 0.7 * sign
                arrays[f"{layer}/{kind}"] = values.astype(np.float16)
        with tokens.stage(0) as staged:
            for name, values in arrays.items():
                ensure_array(tokens.array(name), frame_shape=values.shape[1:], dtype="float16", shards=1, attributes={})
                staged.writer(name, frame_dims=values.ndim - 1).append(values)
            assert staged.commit(pl.DataFrame(rows, schema=LEDGER_SCHEMA, orient="row"))
        refused = [[name, None, 0, 12, reason, "", "{}"] for name, reason in (rejected or {}).items()]
        with crops.stage(0) as staged:
            assert staged.commit(pl.DataFrame(refused, schema=LEDGER_SCHEMA, orient="row"))
        slots = {sample["sample_id"]: sample["cached"] for sample in samples} | dict.fromkeys(rejected or {}, 0)
        plan = pl.DataFrame(list(slots.items()), schema={"sample_id": pl.String, "slots": pl.Int32}, orient="row")
        extend_plan(path / "plan", plan)
        manifest = (
            pl.DataFrame(samples)
            .drop("cached")
            .with_columns(pl.col("kind", "split").cast(pl.String), pl.col("label").cast(pl.Int8))
        )
        store = Store.open(path)
        store.write_manifest(manifest)
        return store

    return make


@pytest.fixture
def corpus() -> Callable[..., list[dict]]:
    """corpus(dataset): 12 videos and 12 images in test, two manipulations and reals, videos of 12, 5 and 1 frames."""

    def rows(
        dataset: str = "made", *, split: str = "test", methods: tuple[str, ...] = ("real", "blend", "flicker")
    ) -> list[dict]:
        made = []
        for index in range(24):
            kind, method = ("image", "video")[index % 2], methods[index // 2 % len(methods)]
            name = f"{dataset}-{index * 7 % 24:02d}"  # neither the order on the disk nor that of the labels
            cached = 1 if kind == "image" else (12, 5, 1, 12)[index // 2 % 4]
            made.append(
                {
                    "sample_id": name,
                    "dataset": dataset,
                    "method": method,
                    "label": int(method != "real"),
                    "split": split,
                    "kind": kind,
                }
                | {"video_id": f"v-{name}", "identity": [f"id{index % 5}", "id9"], "cached": cached}
            )
        return made

    return rows


@pytest.fixture
def make_detector() -> Callable[..., Detector]:
    """make_detector(adapter): random weights, seeded, with a head that is not zero."""

    def make(name: str = "d2st", *, seed: int = 0) -> Detector:
        torch.manual_seed(seed)
        stats = {layer: (np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)) for layer in LAYERS}
        adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats)
        detector = Detector(adapter, Head(adapter.embed_dim))
        with torch.no_grad():
            detector.head.linear.weight.fill_(0.5)  # the linear probe of the corpus' features
        return detector.eval()

    return make


@pytest.fixture
def predictions() -> Callable[..., pl.DataFrame]:
    """predictions(rows): tuples (dataset, method, kind, video_id, frame scores) as a table of predictions."""

    def table(rows: list[tuple[str, str, str, str, list[float]]]) -> pl.DataFrame:
        made = []
        for index, (dataset, method, kind, video, scores) in enumerate(rows):
            score = float(np.mean(scores))
            logit = float(np.log(score / (1 - score)))
            label = int(method != "real")
            made.append(
                (f"s{index:03d}", dataset, method, label, "test", kind, video, ["a", "b"], len(scores), logit, score, scores)
            )
        return pl.DataFrame(made, schema=PREDICTIONS, orient="row")

    return table
