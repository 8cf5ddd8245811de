"""Training that draws from several views of the same crops: which ones, what is measured by, what is refused, and resumed bit for bit."""

import json
import os
import shutil
import signal

import numpy as np
import polars as pl
import pytest
import torch

from d2st.adapter.rows import PADDING
from d2st.adapter.train import run_training
from d2st.adapter.train.checkpoint import read_meta
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.prepare import make_detector
from d2st.adapter.train.recipe import Augment
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.sampler import epoch_requests, epoch_steps
from d2st.adapter.train.select import to_rows
from d2st.cache import Store
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.errors import ConfigError, FingerprintError, RunError
from d2st.cache.level import ensure_level
from d2st.cache.reader import ArrayReader

SMALL = ("adapter.params={width=16, dropout=0.3}", "optim.batch_size=4", "optim.accumulate=2", "optim.epochs=3")
VIEWS = ('data.views=["main", "flip", "bright"]',)


def add_view(store, name, change, *, skip=(), **config):
    """A token set of the same rows whose maps and CLS are `change`d, without the samples `skip`."""
    main = store.tokens.levels[0]
    level = ensure_level(store.path, f"tokens-{name}", {**main.config, "view": {"name": name}, **config})
    part = main.part(0)
    rows = part.rows.filter(~pl.col("sample_id").is_in(list(skip)))
    with level.stage(0) as staged:
        for layer in main.config["layers"]:
            for kind in ("maps", "cls"):
                with ArrayReader(main.array(f"{layer}/{kind}")) as reader:
                    values = np.empty((int(part.rows["frames"].sum()), *reader.frame_shape), reader.dtype)
                    reader.read(np.arange(len(values)), values)
                array = level.array(f"{layer}/{kind}")
                ensure_array(array, frame_shape=values.shape[1:], dtype=str(values.dtype), shards=1, attributes={})
                staged.writer(f"{layer}/{kind}", frame_dims=values.ndim - 1).append(change(values).astype(values.dtype))
        assert staged.commit(rows, source=part.content)


@pytest.fixture(scope="module")
def viewed(store, tmp_path_factory):
    """The toy store with the views flip and bright, which are far off: whoever measures by them shows it."""
    path = tmp_path_factory.mktemp("viewed") / "toy.d2st"
    shutil.copytree(store.path, path)
    opened = Store.open(path)
    add_view(opened, "flip", lambda values: values[..., ::-1] + 1)
    add_view(opened, "bright", lambda values: values * 1.5 - 1)
    return opened


def go(store, runs, name, *, stages=(2,), overrides=(*SMALL, *VIEWS), **options):
    options = {"init": "none", **options}
    return run_training(store, stages=stages, runs=runs, name=name, overrides=overrides, device="cpu", **options)


def requests(store, *, views, seed=0, epoch=0, first_step=0, stage=2):
    rows = to_rows(store.samples().filter(pl.col("split") == "train", pl.col("kind") == "video"))
    steps = epoch_steps(rows, stage=stage, batch_size=4, accumulate=2, balance="label", seed=seed, epoch=epoch)
    given = {"augment": Augment(reverse=0.5, frame_drop=0.3), "seed": seed, "epoch": epoch, "first_step": first_step}
    return list(epoch_requests(rows, steps, stage=stage, clip_frames=7, views=views, stride=10_000, **given))


def test_each_clip_is_read_from_one_view_drawn_anew_in_each_epoch(store):
    drawn = []
    for epoch in range(40):
        plain, mixed = (requests(store, views=views, epoch=epoch) for views in (1, 3))
        for one, other in zip(plain, mixed, strict=True):
            np.testing.assert_array_equal(one.tag, other.tag)
            view, row = np.divmod(other.rows, 10_000)
            padding = one.rows == PADDING
            np.testing.assert_array_equal(np.where(padding, PADDING, row), one.rows)  # nothing else changes
            assert (other.rows[padding] == PADDING).all()
            assert all(len(set(v[~p])) == 1 for v, p in zip(view, padding, strict=True))
            drawn += view[:, 0].tolist()
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)
    again = requests(store, views=3, epoch=5, first_step=1)
    for one, other in zip(requests(store, views=3, epoch=5)[2:], again, strict=True):  # two passes a step
        np.testing.assert_array_equal(one.rows, other.rows)


def test_measures_are_those_of_the_opened_set_alone(viewed, tmp_path):
    names = ("main", "flip", "bright")
    recipe = load_recipe(2, (*SMALL, *VIEWS))
    plan = plan_stage(viewed, recipe, viewed.samples())
    fingerprints = {name: Store.open(viewed.path, tokens=name).tokens.fingerprint for name in names}
    assert plan.meta["views"] == plan.sources["views"] == fingerprints
    alone = plan_stage(viewed, load_recipe(2, SMALL), viewed.samples())
    assert "views" not in alone.meta
    made = [make_detector(viewed, each, device="cpu", init_checkpoint=None) for each in (plan, alone)]
    states = [detector.state_dict() for detector, _, _ in made]  # whitening and channel statistics are in there
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert made[0][1].stride == SHARD_FRAMES
    for _, source, _ in made:
        source.close()
    # at a rate of zero the network stays what it is, so validation must not notice the views either
    still = (*SMALL, "optim.lr=1e-30", "optim.epochs=1")
    values = [go(viewed, tmp_path, name, overrides=(*still, *more)) for name, more in (("v", VIEWS), ("m", ()))]
    scores = [json.loads((tmp_path / name / "stage2/metrics.jsonl").read_text())["val"] for name in ("v", "m")]
    assert scores[0] == scores[1]
    assert values[0][0].value == values[1][0].value
    losses = [json.loads((tmp_path / name / "stage2/metrics.jsonl").read_text())["loss"] for name in ("v", "m")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("in_memory", [False, True])
def test_stopped_in_mid_epoch_it_ends_the_same_bit_for_bit(viewed, tmp_path, in_memory):
    result = go(viewed, tmp_path, "whole", in_memory=in_memory)[0]

    def stop(event):
        if event["event"] == "step" and (event["epoch"], event["step"]) == (2, 1):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        go(viewed, tmp_path, "stopped", on_event=stop, in_memory=in_memory)
    go(viewed, tmp_path, "stopped", resume=True, overrides=(), in_memory=in_memory)
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "whole/stage2" / name).read_bytes() == (tmp_path / "stopped/stage2" / name).read_bytes()
    meta, stored = read_meta(result.best), json.loads((tmp_path / "whole/stage2/result.json").read_text())
    assert list(meta["views"]) == sorted(["main", "flip", "bright"])
    assert stored["views"] == meta["views"]
    assert meta["fingerprint"] == stored["fingerprint"] == viewed.tokens.fingerprint


def test_other_views_can_not_be_slipped_in(viewed, tmp_path):
    shutil.copytree(viewed.path, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    go(store, tmp_path, "run")
    with pytest.raises(RunError, match=r"data\.views"):
        go(store, tmp_path, "run", resume=True, overrides=(*SMALL, 'data.views=["main", "flip"]'))
    shutil.rmtree(tmp_path / "s/tokens-flip")
    add_view(store, "flip", lambda values: values, version=2)
    with pytest.raises((RunError, FingerprintError), match=r"version|views"):
        go(store, tmp_path, "run", resume=True)


def test_what_is_wrong_with_a_view_is_said_before_anything_is_written(viewed, tmp_path):
    shutil.copytree(viewed.path, tmp_path / "s")
    store = Store.open(tmp_path / "s")
    train = store.samples().filter(pl.col("split") == "train", pl.col("kind") == "video")["sample_id"].to_list()
    add_view(store, "half", lambda values: values, skip=train[:3])
    add_view(store, "large", lambda values: values, image_size=384)
    for views, error, says in (
        ('["main", "half"]', ConfigError, f"'half' of .* lacks 3 of the {len(train)} training samples"),
        ('["main", "large"]', FingerprintError, "image_size is 384 there"),
        ('["main", "none"]', ConfigError, "no token set named 'none'"),
        ('["flip"]', ConfigError, "not among the views flip"),
        ('["main", "flip", "flip"]', ConfigError, "twice"),
    ):
        with pytest.raises(error, match=says):
            go(store, tmp_path / "runs", "x", overrides=(*SMALL, f"data.views={views}"))
    assert not (tmp_path / "runs").exists()
    only_images = store.samples().filter(pl.col("kind") == "image")["sample_id"].to_list()
    add_view(store, "videos", lambda values: values, skip=only_images)  # whoever trains on videos needs no more
    go(store, tmp_path / "runs", "x", overrides=(*SMALL, 'data.views=["main", "videos"]', "optim.epochs=1"))
