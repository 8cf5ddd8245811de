"""Whole stages on a small real store: what they leave behind, what they start from, what they refuse, and what they can learn."""

import json

import polars as pl
import pytest
import torch
from safetensors import safe_open

from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.train import load_detector, load_recipe, run_training, train_stage
from d2st.adapter.train.checkpoint import read_meta
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.prepare import class_weight
from d2st.adapter.train.select import to_rows
from d2st.cache import TokenLoader
from d2st.cache.errors import ConfigError, D2stError, ManifestError, RunError, UsageError

SMALL = ("adapter.params.width=16", "optim.batch_size=8", "optim.epochs=2")


@pytest.fixture(scope="module")
def three_stages(store, tmp_path_factory):
    """Events and results of one run through all stages."""
    runs, events = tmp_path_factory.mktemp("runs"), []
    results = run_training(store, runs=runs, name="all", overrides=SMALL, device="cpu", on_event=events.append)
    return runs, events, results


def test_a_stage_leaves_what_the_design_says(three_stages, store):
    runs, events, results = three_stages
    assert [result.stage for result in results] == [1, 2, 3]
    for result in results:
        folder = runs / "all" / f"stage{result.stage}"
        assert result.best == folder / "best.safetensors"
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        assert lines[-1]["best"] == result.value == max(line["val"][result.metric] for line in lines)
        assert all(line["samples_per_s"] > 0 and line["loss"] == pytest.approx(sum(line["losses"].values())) for line in lines)
        assert json.loads((folder / "fingerprint.json").read_text())["cache"] == store.tokens.fingerprint
        chosen = pl.read_parquet(folder / "samples.parquet")
        assert set(chosen["split"]) == {"train", "val"}
        assert chosen.height == result.train_samples + result.val_samples
        assert load_recipe(folder / "recipe.toml").stage == result.stage
        assert not list(folder.glob(".*"))
        for path in folder.iterdir():  # nothing stored names a place on this machine
            assert str(runs).encode() not in path.read_bytes()
    assert {"image_clip", "video_clip", "supcon", "mmd", "consistency"} <= set(lines[-1]["losses"])
    assert sum(event["event"] == "step" for event in events) == sum(
        e["steps"] * e["epochs"] for e in events if e["event"] == "start"
    )


def test_each_stage_starts_from_the_one_before_head_included(three_stages, store):
    runs, events, results = three_stages
    assert [result.init for result in results] == [None, "all/stage1", "all/stage2"]
    assert any("stage 2 starts from all/stage1" in event.get("message", "") for event in events)
    frozen = ["optim.rates={'' = 0.0}", "optim.epochs=1", *SMALL[:2]]
    result = run_training(store, stages=[2], runs=runs, name="still", overrides=frozen, init=str(runs / "all" / "stage1"))[0]
    before, after = (weights(path) for path in (runs / "all/stage1/best.safetensors", result.best))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "model.head.linear.weight" in before


def weights(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith("model.")}  # noqa: SIM118


def test_a_loaded_detector_scores_as_the_validation_said(three_stages, store):
    runs, _, results = three_stages
    for result in results:
        detector, meta = load_detector(runs / "all" / f"stage{result.stage}")
        assert not detector.training
        assert meta["stage"] == result.stage
        assert meta["clip_frames"] == (1 if result.stage == 1 else 5)  # the store has 5 frames a video, the recipe wants 12
        assert meta["config"] == store.tokens.config
        assert meta["val"][result.metric] == result.value
        val = store.samples().filter((pl.col("split") == "val") & (pl.col("kind") == "video"))
        scored = score_samples(detector, TokenLoader(store), val, clip_frames=meta["clip_frames"])
        real, fake = (scored.filter(pl.col("label") == label)["score"].to_list() for label in (0, 1))
        auc = sum((f > r) + 0.5 * (f == r) for f in fake for r in real) / (len(real) * len(fake))
        assert auc == pytest.approx(result.value)
    assert load_detector(runs / "all")[1]["stage"] == 3


def test_the_newest_matching_stage_is_taken_and_controls_never(store, tmp_path):
    def go(name, *, stages=(1,), **options):
        return run_training(
            store,
            stages=stages,
            runs=tmp_path,
            name=name,
            overrides=[*options.pop("small", SMALL), *options.pop("extra", ())],
            **options,
        )[0]

    with pytest.raises(RunError, match="no finished stage 1"):
        go("early", stages=[2])
    go("old")
    go("new")
    go("probe", adapter="linear_probe", small=SMALL[1:])
    go("control", extra=["data.shuffle_labels=true"])
    assert go("second", stages=[2]).init == "new/stage1"
    assert go("old", stages=[2]).init == "old/stage1"  # its own comes first
    assert go("named", stages=[2], init=str(tmp_path / "old")).init in ("old/stage2", "old/stage1")
    assert go("scratch", stages=[2], init="none").init is None
    assert go("probe2", stages=[2], adapter="linear_probe", small=SMALL[1:]).init == "probe/stage1"
    with pytest.raises(RunError, match="'width': 16"):
        go("wider", stages=[2], small=["adapter.params.width=24", *SMALL[1:]])
    with pytest.raises(RunError, match="adapter 'linear_probe'"):
        go("mixed", stages=[2], init=str(tmp_path / "probe"))


def test_a_taken_folder_is_refused_before_any_stage_runs(store, tmp_path):
    (tmp_path / "x" / "stage3").mkdir(parents=True)
    (tmp_path / "x" / "stage3" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="already holds a run") as caught:
        run_training(store, runs=tmp_path, name="x", overrides=SMALL)
    assert "--resume" in caught.value.fix
    assert not (tmp_path / "x" / "stage1").exists()
    with pytest.raises(UsageError, match="can't be the name"):
        run_training(store, runs=tmp_path, name="../x", overrides=SMALL)


@pytest.mark.parametrize(
    ("stage", "overrides", "error", "says"),
    [
        (1, ["adapter.layers=['block_9']"], ConfigError, "no layer block_9"),
        (1, ["adapter.params.colour=1"], ConfigError, "colour"),
        (1, ["adapter.name=nothing"], KeyError, "nothing"),
        (1, ["data.max_samples=2"], ConfigError, "takes 2 or more"),
    ],
)
def test_mistakes_cost_nothing(store, tmp_path, stage, overrides, error, says):
    with pytest.raises(error, match=says):
        run_training(store, stages=[stage], runs=tmp_path, name="x", overrides=overrides, init="none")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("change", "overrides", "says"),
    [
        (pl.col("kind") == "image", [], "no video in the train split"),
        ((pl.col("kind") == "image") | (pl.col("label") == 1), [], "0 real among its 6 samples (video)"),
        ((pl.col("kind") == "video") | (pl.col("label") == 1), [], "0 real among its 6 samples (image)"),
        (pl.col("split") != "val", [], "no image or video in the val split"),
        (None, ["stage2.adapter.params.width=8"], "stage 1 of this run has adapter_params"),
        (None, ["stage3.adapter.layers=['block_1']"], "stage 2 of this run has layers"),
        (None, ["stage3.data.mix.label.fake=1"], "leaves 0 real"),
        (None, ["stage2.optim.lrr=1"], "optim.lrr"),
    ],
)
def test_mistakes_of_later_stages_are_found_before_the_first_one_starts(store, tmp_path, change, overrides, says):
    manifest = None if change is None else store.manifest().filter(change)
    with pytest.raises(D2stError) as caught:
        run_training(store, runs=tmp_path, name="x", overrides=[*SMALL, *overrides], manifest=manifest, device="cpu")
    assert says in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_change_to_a_stage_that_does_not_run_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match=r"'stage2\.optim\.lr=1' is for a stage that does not run") as caught:
        run_training(store, stages=[1], runs=tmp_path, name="x", overrides=[*SMALL, "stage2.optim.lr=1"])
    assert "--stage all" in caught.value.fix


def test_the_user_hears_when_the_stage_before_saw_other_samples(store, tmp_path):
    def notes(name, **options):
        said = []
        run_training(store, runs=tmp_path, name=name, overrides=SMALL, device="cpu", on_event=said.append, **options)
        return [event["message"] for event in said if event["event"] == "note"]

    notes("fewer", stages=[1], manifest=store.manifest().head(38))
    assert any("fewer/stage1 was trained on another manifest" in note for note in notes("other", stages=[2]))
    notes("same", stages=[1])
    assert not any("manifest" in note for note in notes("next", stages=[2]))


def test_bfloat16_learns_as_float32_does_and_keeps_float32_weights(store, tmp_path):
    curves = {}
    for precision in ("float32", "bfloat16"):
        some = [*SMALL[:2], "optim.epochs=4", "optim.lr=3e-3", f"optim.precision={precision}"]
        run_training(store, stages=[1], runs=tmp_path, name=precision, overrides=some, device="cpu")
        folder = tmp_path / precision / "stage1"
        curves[precision] = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for name in ("environment.json", "result.json"):
            assert json.loads((folder / name).read_text())["precision"] == precision
        with safe_open(folder / "last.state.safetensors", framework="pt") as file:
            assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float32}  # noqa: SIM118
    assert curves["bfloat16"] != curves["float32"]
    assert curves["bfloat16"] == pytest.approx(curves["float32"], abs=0.03)


@pytest.mark.parametrize("kind", ["focal", "balanced"])
def test_other_losses_train(store, tmp_path, kind):
    manifest = store.manifest().filter(
        (pl.col("label") == 1) | (pl.col("split") != "train") | (pl.col("sample_id") > "image0008")
    )
    plan = plan_stage(store, load_recipe(1, SMALL), store.samples(manifest))
    counts = plan.selection.train["label"].value_counts().sort("label")["count"].to_list()
    weights = class_weight(to_rows(plan.selection.train))
    assert counts[0] < counts[1]
    assert [weight * count for weight, count in zip(weights, counts, strict=True)] == pytest.approx([sum(counts) / 2] * 2)
    some = [*SMALL, f"loss.kind={kind}", "data.balance=none"]
    (result,) = run_training(store, stages=[1], runs=tmp_path, name=kind, overrides=some, manifest=manifest, device="cpu")
    assert 0 <= result.value <= 1


def test_statistics_that_count_what_is_held_out_are_told(store):
    recipe, split = load_recipe(1, SMALL), {"train": "train", "val": "test", "test": "val"}
    plan = plan_stage(store, recipe, store.samples(store.manifest().with_columns(pl.col("split").replace(split))))
    assert not any("statistics" in note for note in plan.notes)
    turned = store.manifest().with_columns(pl.col("split").replace({"train": "test", "test": "train"}))
    (note,) = (note for note in plan_stage(store, recipe, store.samples(turned)).notes if "statistics" in note)
    assert "count 24 samples that are held out here" in note


def test_shares_that_balance_changes_again_are_told(store):
    def notes(samples, *overrides):
        plan = plan_stage(store, load_recipe(1, [*SMALL, "data.max_samples=0", *overrides]), samples)
        return [note for note in plan.notes if "data.mix" in note]

    samples, mix = store.samples(), "data.mix.label={real=1, fake=3}"
    (note,) = notes(samples, mix)
    assert note.startswith("data.mix gives real 25 %, fake 75 % of the samples, an epoch shows real 50 %, fake 50 %: data.bal")
    assert notes(samples, mix, "data.balance=none") == notes(samples) == notes(samples, "data.mix.dataset={toy=1}") == []
    # of the training samples "a" has all 4 fakes and 3 reals, "b" 9 reals
    place = pl.int_range(pl.len()).over("split", "label")
    few = samples.filter((pl.col("label") == 0) | (pl.col("split") != "train") | (place < 4))
    two = few.with_columns(dataset=pl.when((pl.col("label") == 1) | (place < 3)).then(pl.lit("a")).otherwise(pl.lit("b")))
    (note,) = notes(two, "data.mix.dataset={a=1, b=1}")
    assert note.startswith("data.mix gives a 50 %, b 50 % of the samples, an epoch shows a 57 %, b 43 %")


def test_a_manifest_given_replaces_labels_and_splits(store, tmp_path):
    manifest = store.manifest().with_columns(identity=pl.lit(["same"]))
    with pytest.raises(ManifestError, match="'same'"):
        run_training(store, stages=[1], runs=tmp_path, name="x", manifest=manifest, overrides=SMALL)
    few = store.manifest().filter(pl.col("kind") == "image")
    result = run_training(store, stages=[1], runs=tmp_path, name="x", manifest=few, overrides=SMALL)[0]
    assert (result.train_samples, result.val_samples, result.metric) == (12, 4, "image_auc")


def test_a_checkpoint_is_refused_when_damaged_or_not_ours(three_stages, tmp_path):
    runs, _, _ = three_stages
    whole = (runs / "all/stage1/best.safetensors").read_bytes()
    for name, data in {"cut": whole[: len(whole) // 2], "text": b"hello there", "empty": b""}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RunError, match="can't be read"):
            load_detector(tmp_path / name)
    with pytest.raises(RunError, match="does not exist"):
        load_detector(tmp_path / "nothing")
    with pytest.raises(RunError, match="holds no checkpoint"):
        load_detector(tmp_path)


def test_it_learns_what_can_be_learnt_and_nothing_from_shuffled_labels(tmp_path_factory, make_store, tmp_path):
    store = make_store(tmp_path_factory.mktemp("learn") / "s", images=200, videos=0, grid=(2, 2))
    learn = ["data.kinds=['image']", "optim.epochs=5", "optim.batch_size=8", "optim.patience=0", "optim.lr=5e-3", SMALL[0]]
    honest = run_training(store, stages=[1], runs=tmp_path, name="a", overrides=learn)[0]
    control = run_training(store, stages=[1], runs=tmp_path, name="b", overrides=[*learn, "data.shuffle_labels=true"])[0]
    assert honest.value > 0.95
    test = store.samples().filter(pl.col("split") == "test")
    aucs = {}
    for name, result in (("honest", honest), ("control", control)):
        detector, meta = load_detector(result.best)
        scored = score_samples(detector, TokenLoader(store), test, clip_frames=meta["clip_frames"])
        real, fake = (scored.filter(pl.col("label") == label)["logit"].to_numpy() for label in (0, 1))
        aucs[name] = (fake[:, None] > real[None]).mean()
    assert aucs["honest"] > 0.9  # 40 samples: other seeds give 0.93 to 0.99
    assert aucs["control"] < 0.85
    assert read_meta(control.best)["shuffled_labels"]


def test_train_stage_alone_is_enough(store, tmp_path):
    result = train_stage(
        store, load_recipe(1, SMALL), run_dir=tmp_path / "mine", init_checkpoint=None, resume=False, device="cpu"
    )
    assert result.best == tmp_path / "mine" / "best.safetensors"
    assert result.best.is_file()
