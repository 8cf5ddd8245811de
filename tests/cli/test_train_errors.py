"""All that can be wrong before `d2st train` begins, as a user meets it: exit code, what is wrong and how to mend it; nothing is written.

1 is for what files, data or the machine hold; 2 for a command line that is wrong whatever they hold.
"""

import runpy
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from d2st.adapter.train.recipe_file import load_recipe, to_toml
from d2st.cache import Store
from d2st.cli import main
from d2st.pipeline.manifest import SCHEMA

QUICK = ("--set", "adapter.name=linear_probe", "--set", "optim.epochs=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """faces.d2st; other.d2st of another backbone of the same width; and a finished run of stage 1 on the first."""
    toys = runpy.run_path(str(Path(__file__).parents[1] / "adapter" / "train" / "conftest.py"))
    folder = tmp_path_factory.mktemp("data")
    for name in ("faces", "other"):
        toys["make_store"](folder / f"{name}.d2st", images=20, videos=20, frames=3, grid=(2, 2), channels=8, backbone=name)
    code = _run("--cache", folder / "faces.d2st", "--stage", "1", *QUICK, "--runs", folder / "runs", "--name", "done")
    assert code == 0
    return folder


def _run(*arguments):
    before, sys.argv = sys.argv, ["d2st", "train", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def refused(data, tmp_path, monkeypatch, capsys):
    """Run with the cache and expect a refusal; returns what was said, and checks that nothing was written."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=1, cache="faces"):
        before = {path: path.stat().st_mtime_ns for path in (*data.rglob("*"), *tmp_path.rglob("*"))}
        capsys.readouterr()
        assert _run("--cache", data / f"{cache}.d2st", *arguments) == code
        said = capsys.readouterr()
        assert {path: path.stat().st_mtime_ns for path in (*data.rglob("*"), *tmp_path.rglob("*"))} == before
        assert said.out == ""
        assert "Traceback" not in said.err
        assert code == 2 or [line.split(":")[0] for line in said.err.splitlines()[-2:]] == ["error", "  fix"]
        return said.err

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "foo"], "section.key=value, not 'foo'"),
        (["--set", "stage2.optim.lr=0.1", "--stage", "1"], "a stage that does not run"),
        (["--adapter", "nothing"], "Known: attentive_probe, d2st, linear_probe"),
        (["--preset", "huge"], "'tiny', 'base', 'large'"),
        (["--track", "comet"], "'tensorboard', 'wandb', 'mlflow'"),
        (["--stage", "4"], "'1', '2', '3', 'all'"),
        (["--max-samples", "-1"], "--max-samples"),
        (["--seed", "-1"], "--seed"),
        (["--device", "gpu"], "Use auto, cpu, cuda or cuda:N"),
        (["--resume"], "Give its --name"),
        (["--name", "a/b"], "can't be the name of a run"),
        (["--name", ""], "can't be the name of a run"),
        (["--stage", "all", "--recipe", "dfd-card"], "one recipe is for one stage"),
    ],
)
def test_wrong_usage(refused, arguments, says):
    assert says in refused(*arguments, code=2)


STAGE1 = to_toml(load_recipe(1))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            STAGE1.replace("weight_decay", "wieght_decay"),
            ["unknown key 'optim.wieght_decay'", "Did you mean optim.weight_decay"],
        ),
        (
            STAGE1.replace("epochs = ", "epoch = "),
            ["unknown key 'optim.epoch'", "Did you mean optim.epochs"],
        ),  # and so it lacks one
        (STAGE1.replace("[loss]", "[losses]"), ["unknown key 'losses'", "loss"]),
        (STAGE1.replace("epochs = ", "epochs = -"), ["optim.epochs", "greater than or equal to 1"]),
        (STAGE1.replace("dropout", "dropuot") + "[adapter.params]\n", ["mine.toml is not TOML"]),
        ("stage = = 1", ["mine.toml is not TOML", "line 1"]),
        ("", ["mine.toml lacks 'stage'"]),
        (b"# caf\xe9\n", ["mine.toml is not UTF-8"]),
        (None, ["can't read the recipe mine.toml: No such file", "dfd-card"]),
    ],
)
def test_recipe_files(refused, tmp_path, content, says):
    if content is not None:
        (tmp_path / "mine.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = refused("--recipe", "mine.toml")
    assert all(part in said for part in says), said


def test_a_recipe_of_another_stage(refused, tmp_path):
    (tmp_path / "mine.toml").write_text(STAGE1)
    said = refused("--stage", "2", "--recipe", "mine.toml")
    assert "mine.toml is a recipe of stage 1, not 2" in said
    assert "--stage 1" in said


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.lrr=3", "Did you mean optim.lr "),
        ("optim.lr=inf", "finite"),
        ('adapter.layers=["block_9"]', "It has block_1, block_3"),
        ("adapter.layers=some", "adapter.layers"),
        ("adapter.params.wdith=3", "width"),
        ("adapter.params.preset=huge", "'tiny', 'base' or 'large'"),
        ("data.mix.dataset={nobody=1}", "'toy'"),
    ],
)
def test_single_values(refused, override, says):
    assert says in refused("--stage", "1", "--set", override)


def test_caches_and_token_sets(refused, data, tmp_path):
    assert "there is no d2st store" in refused(cache="nothing")
    said = refused("--tokens", "large")
    assert "no token set named large" in said
    assert "It has main" in said
    said = refused("--set", 'data.views=["flip"]', "--stage", "1")
    assert "no token set named 'flip'" in said
    assert "d2st cache encode" in said


def manifest(data, change):
    """The store's manifest with some columns changed, as a file beside the runs."""
    frame = Store.open(data / "faces.d2st").samples().with_columns(change)
    nothing = [pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in frame.columns]
    method = pl.when(pl.col("label") == 1).then(pl.lit("swap")).otherwise(pl.lit("real"))
    frame = frame.with_columns(nothing).with_columns(path=pl.col("sample_id"), method=method)
    frame.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()).write_parquet("labels.parquet")
    return ("--manifest", "labels.parquet")


def _kind_is(name):
    return pl.col("kind").cast(pl.String) == name


@pytest.mark.parametrize(
    ("stage", "change", "says"),
    [
        (1, pl.col("split").cast(pl.String).replace("val", "test"), ["no image or video in the val split", "Assign splits"]),
        (1, pl.col("split").cast(pl.String).replace("train", "test"), ["no image or video in the train split"]),
        (2, pl.when(_kind_is("video")).then(pl.lit("val")).otherwise("split").alias("split"), ["no video in the train split"]),
        (1, pl.lit(1).alias("label"), ["the train split has 0 real", "d2st manifest show"]),
        (1, pl.when(split="val").then(0).otherwise("label").alias("label"), ["the val split has 0 fake"]),
        (1, pl.lit(["anna"]).alias("identity"), ["1 identities appear in two splits", "'anna' in test and train and val", "by identity"]),
        (1, pl.lit("clip7").alias("video_id"), ["1 videos appear in two splits", "'clip7'"]),
        (1, pl.lit(None, dtype=pl.String).alias("split"), ["40 rows have no split", "Fill the column split"]),
    ],
)  # fmt: skip
def test_splits_and_labels(refused, data, stage, change, says):
    said = refused("--stage", stage, "--init", "none", *manifest(data, change))
    assert all(part in said for part in says), said


def test_manifests_that_are_none(refused, tmp_path):
    assert "there is no manifest nowhere.parquet" in refused("--manifest", "nowhere.parquet")
    (tmp_path / "labels.parquet").write_text("sample_id,label\n")
    assert "can't be read as Parquet" in refused("--manifest", "labels.parquet")


def test_too_few_samples(refused):
    said = refused("--stage", "1", "--max-samples", "2")
    assert "data.max_samples=2" in said
    assert "raise data.max_samples" in said


def test_runs_that_are_taken_or_missing(refused, data):
    runs = ("--runs", data / "runs")
    said = refused("--stage", "1", *QUICK, *runs, "--name", "done")
    assert "already holds a run" in said
    assert "--resume" in said
    said = refused("--stage", "3", *QUICK, *runs, "--name", "done")
    assert "no finished stage 2" in said
    assert "--init none" in said


def test_the_cache_of_another_backbone(refused, data):
    """Both have 8 channels, so the weights would load: their token maps mean nothing to each other."""
    runs = ("--runs", data / "runs", "--name", "done")
    said = refused("--stage", "1", *QUICK, "--init", data / "runs" / "done", "--name", "new", cache="other")
    assert "backbone is 'faces' there, 'other' here" in said
    assert "--init none" in said
    said = refused("--stage", "1", *runs, "--resume", cache="other")
    assert "the cache's fingerprint" in said
    assert "no finished stage 1 of adapter 'linear_probe' on these token maps" in refused(
        "--stage", "2", *QUICK, *runs, cache="other"
    )
    assert "backbone is" in refused("--stage", "2", *QUICK, "--init", data / "runs" / "done", *runs, cache="other")


def test_start_checkpoints(refused, data, tmp_path):
    assert "nowhere does not exist" in refused("--stage", "1", "--init", "nowhere")
    whole = (data / "runs" / "done" / "stage1" / "best.safetensors").read_bytes()
    for name, content in {"half": whole[: len(whole) // 2], "text": b"weights", "empty": b""}.items():
        (tmp_path / name).write_bytes(content)
        said = refused("--stage", "1", *QUICK, "--init", name)
        assert f"{name} can't be read as a d2st checkpoint" in said
        assert "train again" in said
    said = refused("--stage", "1", "--init", data / "runs" / "done")  # of the recipe's own adapter
    assert "has adapter 'linear_probe', this stage has 'd2st'" in said
    assert "--init none" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(refused):
    said = refused("--device", "cuda")
    assert "no usable CUDA GPU" in said
    assert "Use auto or cpu" in said


def test_a_tracker_that_is_not_installed(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "pip install 'd2st[wandb]'" in refused("--track", "wandb")
