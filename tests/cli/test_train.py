"""`d2st train` from the command line: data on stdout, progress on stderr, errors that can be mended, exit codes."""

import json
import os
import runpy
import signal
from pathlib import Path

import pytest

from d2st.cache import Store
from d2st.cache.errors import D2stError
from d2st.cli import train as command
from d2st.cli.train_display import resume_command, show_training

SMALL = ("adapter.params.width=16", "optim.batch_size=8", "optim.epochs=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    toys = runpy.run_path(str(Path(__file__).parents[1] / "adapter" / "train" / "conftest.py"))
    path = tmp_path_factory.mktemp("cli") / "toy.d2st"
    toys["make_store"](path, images=20, videos=20, frames=3, grid=(2, 2), channels=8)
    return path


@pytest.fixture
def d2st(cache, tmp_path):
    def run(stage="1", *, name="x", **options):
        options = {"overrides": list(SMALL), "device": "cpu", "runs": tmp_path / "runs"} | options
        return command.train(cache, stage=command.Stages(stage), name=name, **options)

    return run


def test_all_stages_end_in_a_table_and_the_next_command(d2st, cache, tmp_path, capsys):
    d2st("all")
    said = capsys.readouterr()
    assert f"next: d2st eval {tmp_path / 'runs' / 'x'} --cache {cache}" in said.out
    assert all(word in said.out for word in ("val AUC", "best epoch", "parameters", "x/stage2"))
    lines = said.err.splitlines()
    assert sum("epoch 2/2" in line for line in lines) == 3
    assert "stage 2 starts from x/stage1" in lines
    assert "best by validation video AUC" in said.err
    assert said.out.count("modality gap: centroids real") == 1  # stage 3's


def test_json_is_one_document_on_stdout(d2st, tmp_path, capsys):
    d2st("1", as_json=True)
    document = json.loads(capsys.readouterr().out)
    (stage,) = document["stages"]
    assert stage["stage"] == 1
    assert 0 <= stage["value"] <= 1
    assert Path(stage["best"]).is_file()
    assert document["next"].startswith("d2st eval ")


def test_a_manifest_given_is_the_next_commands_too(d2st, cache, tmp_path, capsys, monkeypatch):
    # by the cache's own splits it would test on what was trained on
    own = Store.open(cache).manifest()
    monkeypatch.setattr("d2st.pipeline.manifest.read_manifest", lambda path: own)
    d2st("1", as_json=True, manifest=tmp_path / "my splits.parquet")
    assert json.loads(capsys.readouterr().out)["next"].endswith(f" --manifest '{tmp_path}/my splits.parquet'")


def test_ctrl_c_says_how_to_go_on(d2st, tmp_path, capsys, monkeypatch):
    from d2st.adapter.train import run

    run_stage = run.run_stage

    def interrupted(*args, on_event, **options):
        def stop(event):
            on_event(event)
            if event["event"] == "step":
                os.kill(os.getpid(), signal.SIGINT)

        return run_stage(*args, on_event=stop, **options)

    monkeypatch.setattr(run, "run_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        d2st("1")
    said = capsys.readouterr().err
    assert "--name x --resume" in said
    assert "--set optim.epochs=2 " in said
    monkeypatch.undo()
    d2st("1", resume=True, overrides=[])
    said = capsys.readouterr()
    assert "2 of 2" in said.out
    assert "new run" not in said.err


def test_resuming_what_is_not_there_is_told(d2st, capsys):
    d2st("1", resume=True, name="ttypo")
    assert "ttypo to go on with, so this is a new run" in capsys.readouterr().err


def test_a_stopped_run_goes_on_as_it_was_asked_for():
    # stages that have not begun have no recipe yet: what is left out here would be lost to them without a word
    asked = {"cache": Path("a b.d2st"), "tokens": None, "stage": None, "adapter": "st_adapter", "seed": 5}
    asked |= {"set": ["optim.epochs=3", "stage2.optim.lr=1e-4"], "manifest": Path("m.parquet"), "name": "x"}
    again = resume_command(asked, ranks=1, in_memory=True)
    assert again == (
        "d2st train --cache 'a b.d2st' --adapter st_adapter --seed 5 --set optim.epochs=3 --set stage2.optim.lr=1e-4 "
        "--manifest m.parquet --name x --in-memory --resume"
    )
    assert resume_command({"name": "x"}, ranks=2, in_memory=False).startswith("torchrun --nproc-per-node 2 -m d2st train")


@pytest.mark.parametrize(
    ("stage", "options", "says"),
    [
        ("2", {}, "no finished stage 1"),
        ("1", {"overrides": ["optim.lrr=3"]}, "Did you mean optim.lr"),
        ("1", {"adapter": "nothing"}, "no adapter named 'nothing'"),
        ("1", {"resume": True, "name": None}, "which run"),
        ("all", {"recipe": Path("mine.toml")}, "one stage"),
        ("1", {"init": "/nowhere"}, "does not exist"),
        ("1", {"device": "gpu"}, "not a device"),
    ],
)
def test_mistakes_are_explained_before_anything_is_written(d2st, tmp_path, stage, options, says):
    with pytest.raises(D2stError) as caught:
        d2st(stage, **options)
    assert says in str(caught.value)
    assert not list(tmp_path.rglob("*.toml"))


def test_a_recipe_of_ones_own(d2st, tmp_path, capsys):
    from d2st.adapter.train.recipe_file import load_recipe, to_toml

    mine = tmp_path / "mine.toml"
    mine.write_text(to_toml(load_recipe(1, [*SMALL, "optim.epochs=1"])))
    d2st("1", recipe=mine, overrides=[])
    assert "1 of 1" in capsys.readouterr().out
    with pytest.raises(D2stError, match="recipe of stage 1"):
        d2st("2", recipe=mine, name="y")


def test_the_live_display_takes_every_event(cache, tmp_path, monkeypatch, capsys):
    from rich.console import Console

    from d2st.adapter.train import run_training
    from d2st.cache import Store
    from d2st.cli import show

    console = Console(stderr=True, force_terminal=True, width=120)
    monkeypatch.setattr(show, "stderr", lambda: console)
    with show_training() as on_event:
        run_training(Store.open(cache), runs=tmp_path, name="x", overrides=SMALL, device="cpu", on_event=on_event)
    said = capsys.readouterr()
    assert "best video AUC" in said.err
    assert said.out == ""
    with show_training(quiet=True) as on_event:
        on_event({"event": "note", "message": "unheard"})
    assert capsys.readouterr() == ("", "")
