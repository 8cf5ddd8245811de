"""`d2st runs`: looking through what lies there, whatever has happened to it."""

import json

import pytest

from d2st.adapter.train.recipe_file import load_recipe, to_toml
from d2st.cache.errors import RunError, UsageError
from d2st.cli.runs.best import best
from d2st.cli.runs.compare import compare
from d2st.cli.runs.ls import Sort, ls
from d2st.cli.runs.read import find_run, read_run, read_runs
from d2st.cli.runs.show import show
from d2st.cli.runs.stages import read_stage


def make_stage(runs, name, stage=1, *, value=0.8, cache="c1", test=None, overrides=(), shuffled=False, when=1000.0, **others):
    folder = runs / name / f"stage{stage}"
    folder.mkdir(parents=True)
    recipe = load_recipe(stage, overrides)
    (folder / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    write(folder / "fingerprint.json", {"cache": cache, "manifest": "m", "cache_path": f"../../../{cache}.d2st", "init": None})
    write(folder / "environment.json", {"device": "cpu", "precision": "float32", "packages": {"torch": "2"}})
    epoch = {"stage": stage, "epoch": 1, "epochs": 2, "loss": 0.5, "metric": "video_auc", "best": value, "best_epoch": 1}
    record = {**epoch, "val": {"video_auc": value, "loss": 0.6}}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({**record, "epoch": 2, "loss": 0.4}) + "\n")
    (folder / "best.safetensors").write_bytes(b"weights")
    result = {
        "stage": stage,
        "adapter": "d2st",
        "metric": "video_auc",
        "value": value,
        "best_epoch": 1,
        "epochs": 2,
        "ended": "all epochs",
        "train_samples": 10,
        "val_samples": 4,
        "parameters": 1234,
        "seconds": 12.0,
        "init": None,
        "gflops": 0.5,
        "fingerprint": cache,
        "shuffled_labels": shuffled,
        "finished_at_s": when,
    }
    write(folder / "result.json", {**result, **others})
    if test is not None:
        (folder / "eval-test").mkdir()
        level = {"eer": 0.2, "intervals": {"auc": [0.6, 0.9]}}
        scopes = {
            kind: {"video": {**level, "auc": auc}, "frame": level} for kind, auc in (("video", test), ("image", test / 2))
        }
        both = {"video": {**level, "auc": test * 0.75}, "frame": level, "note": None}
        write(folder / "eval-test" / "metrics.json", {"overall": both, "kinds": scopes})
    return folder


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")


def make_sweep(runs, name, *, mean=0.7, summary=True):
    folder = runs / name
    make_stage(folder / "trials", "0003", value=0.95)
    recipe = load_recipe(1).model_dump(mode="json")
    axes = {
        "optim.lr": {"low": 0.1, "high": 0.2, "log": False},
        "adapter.layers": [["a"], "all"],
    }
    write(folder / "sweep.json", {"recipe": recipe, "sweep": axes, "sampler": "tpe", "pruner": "asha", "trials": 6, "seeds": 2})
    first = {"trial": 3, "drawn": {"optim.lr": 0.1}, "first": 0.95, "values": {"1": mean, "2": mean}, "mean": mean, "sd": 0.0}
    outcome = {
        "winner": 3,
        "finalists": [first],
        "noise": None,
        "overstated": {"3": 0.95 - mean},
        "importances": {"optim.lr": 1.0},
    }
    if summary:
        write(folder / "summary.json", {**outcome, "trials": {"complete": 2, "pruned": 3, "failed": 1}})
    return folder


@pytest.fixture
def runs(tmp_path):
    return tmp_path / "runs"


def listed(runs, capsys, **options):
    ls(runs, as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def test_ls_has_a_row_a_run(runs, capsys):
    make_stage(runs, "old", value=0.9, test=0.85, when=1.0)
    make_stage(runs, "new", 1, value=0.7, when=2.0)
    make_stage(runs, "new", 2, value=0.8, when=3.0)
    (runs / "notes").mkdir()
    rows = listed(runs, capsys)
    assert [(row["name"], row["val"], row["test"]) for row in rows] == [("new", 0.8, None), ("old", 0.9, 0.85)]
    assert [row["name"] for row in listed(runs, capsys, sort=Sort.val)] == ["old", "new"]
    ls(runs)
    said = capsys.readouterr().out
    assert all(word in said for word in ("new", "1 2", "0.8000", "0.8500", "c1.d2st"))


def test_an_evaluation_of_an_older_checkpoint_does_not_count(runs, capsys):
    import os

    folder = make_stage(runs, "a", test=0.85)
    os.utime(folder / "best.safetensors", (2e9, 2e9))
    assert listed(runs, capsys)[0]["test"] is None


def test_caches_of_one_name_are_told_apart(runs, capsys):
    for name, mark in (("a", "abcdef123"), ("b", "123456789")):
        folder = make_stage(runs, name, cache="c1", fingerprint=mark)
        assert folder.is_dir()
    ls(runs)
    said = capsys.readouterr().out
    assert "c1.d2st abcdef" in said
    assert "c1.d2st 123456" in said


def truncate(folder):
    (folder / "result.json").write_text('{"stage": 1, "va')


def lose_value(folder):
    document = json.loads((folder / "result.json").read_text())
    del document["value"]
    write(folder / "result.json", document)


def older(folder):
    document = json.loads((folder / "result.json").read_text())
    del document["seconds"]
    write(folder / "result.json", document)


def foreign(folder):
    (folder / "result.json").unlink()
    (folder / "recipe.toml").write_text("stage = 1\noptim = 3\n")


def garbage_metrics(folder):
    (folder / "eval-test" / "metrics.json").write_text("no json")


def stop_early(folder):
    (folder / "result.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"torn')


def empty(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def fail(folder):
    (folder / "result.json").unlink()
    write(folder.parent / "failed.json", {"error": "a loss is not finite", "fix": ""})


@pytest.mark.parametrize(
    ("harm", "state", "note"),
    [
        (truncate, "damaged", "result.json is damaged"),
        (lose_value, "damaged", "result.json lacks 'value'"),
        (older, "damaged", "result.json lacks 'seconds'"),
        (foreign, "damaged", "not what d2st writes"),
        (garbage_metrics, "damaged", "metrics.json is damaged"),
        (stop_early, "unfinished", "epoch 2 of 10"),
        (empty, "unfinished", "not begun"),
        (fail, "unfinished", "a loss is not finite"),
        (lambda folder: (folder / "recipe.toml").unlink(), "finished", ""),
        (lambda folder: (folder / "fingerprint.json").write_text("{"), "damaged", "fingerprint.json is damaged"),
    ],
)
def test_a_bad_run_is_a_row_with_a_reason(runs, capsys, harm, state, note):
    harm(make_stage(runs, "bad", test=0.8))
    make_stage(runs, "good")
    row = next(row for row in listed(runs, capsys) if row["name"] == "bad")
    assert row["stages"][0]["state"] == state
    assert note in row["stages"][0]["note"]
    ls(runs)
    show("bad", runs)
    compare(["bad", "good"], runs)
    best(runs)
    assert "good" in capsys.readouterr().out


def test_no_folder_is_an_error_with_a_cure(runs):
    with pytest.raises(RunError, match="there is no folder") as raised:
        read_runs(runs)
    assert "--runs" in raised.value.fix


def test_show_tells_the_course_and_the_differences(runs, capsys):
    make_stage(runs, "a", value=0.8, test=0.75, overrides=["optim.lr=0.03"])
    show("a", runs)
    said = capsys.readouterr().out
    for part in (
        "best 0.8000 in epoch 1",
        "0.5000 to 0.4000",
        "AUC 0.7500 (0.600-0.900)",
        "0.03, not 0.001",
        "scratch",
        "1,234",
    ):
        assert part in said
    show("a/stage1", runs, as_json=True)
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["differences"] == {"optim.lr": [0.001, 0.03]}
    assert stage["recipe"]["optim"]["lr"] == 0.03


def test_an_unknown_run_lists_those_that_are_there(runs):
    make_stage(runs, "known")
    with pytest.raises(RunError, match="no run 'other'") as raised:
        find_run("other", runs)
    assert "known" in raised.value.fix


def test_a_sweep_is_a_row_and_its_trials_are_runs(runs, capsys):
    make_sweep(runs, "s")
    (row,) = listed(runs, capsys)
    assert (row["kind"], row["val"], row["note"]) == ("sweep", 0.7, "2 of 6 trials finished")
    show("s", runs)
    said = capsys.readouterr().out
    assert "0.1 to 0.2" in said
    assert "0.2500 too high" in said
    show("s/trials/0003", runs)
    assert "best 0.9500" in capsys.readouterr().out


def test_a_sweep_that_runs_says_how_far_it_is(runs, capsys):
    make_sweep(runs, "s", summary=False)
    assert listed(runs, capsys)[0]["note"] == "1 of 6 trials have ended"
    show("s", runs)
    assert "to go on: d2st sweep" in capsys.readouterr().out
    (runs / "s" / "sweep.json").write_text("{")
    assert "damaged" in listed(runs, capsys)[0]["note"]
    show("s", runs)


def test_best_never_mixes_data(runs, capsys):
    make_stage(runs, "a", value=0.8)
    make_stage(runs, "b", value=0.9, cache="c2", fingerprint="c2")
    make_stage(runs, "c", value=0.7)
    make_stage(runs, "more-val", value=0.99, val_samples=5)
    make_stage(runs, "shuffled", value=0.99, shuffled=True)
    make_stage(runs, "pruned", value=0.99, ended="pruned")
    best(runs, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert sorted((row["path"].split("/")[-2], row["of"]) for row in found) == [("a", 2), ("b", 1), ("more-val", 1)]
    best(runs, stage=2, as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_a_sweep_that_goes_on_after_its_end_is_not_over(runs, capsys):
    folder = make_sweep(runs, "s")
    for number in range(7):
        (folder / "trials" / f"{number:04d}").mkdir(exist_ok=True)
    (row,) = listed(runs, capsys)
    assert row["note"] == "1 of 6 trials have ended; the outcome is of the first 6"
    show("s", runs)
    assert "over, " not in capsys.readouterr().out


def test_a_sweep_counts_by_its_mean_over_seeds(runs, capsys):
    make_sweep(runs, "s", mean=0.7)
    make_stage(runs, "plain", value=0.75)
    best(runs, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["path"].endswith("plain/stage1")
    make_sweep(runs, "better", mean=0.8)
    best(runs)
    said = capsys.readouterr().out
    assert "0.8000 (2 seeds)" in said


def test_compare_shows_what_differs(runs, capsys):
    make_stage(runs, "a", overrides=["optim.lr=0.03"], test=0.75)
    make_stage(runs, "b", cache="c2", fingerprint="c2")
    compare(["a", "b"], runs, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["settings"] == {"optim.lr": [0.03, 0.001]}
    assert found["metrics"]["val AUC"] == [0.8, 0.8]
    assert found["metrics"]["test video AUC"] == [0.75, None]
    assert found["metrics"]["test image AUC"] == [0.375, None]
    assert "different caches" in found["notes"][0]
    assert found["next"].startswith("d2st compare ")
    with pytest.raises(UsageError):
        compare(["a", "a"], runs)


@pytest.mark.parametrize(("metric", "found"), [("video_auc", 0.8), ("image_auc", 0.4), ("auc", 0.6)])
def test_the_test_auc_is_of_the_kind_that_validation_looked_at(runs, metric, found):
    assert read_stage(make_stage(runs, "a", test=0.8, metric=metric)).test == pytest.approx(found)


def test_runs_are_read_without_torch(runs):
    """By what is imported: reading a thousand of them must not begin with seconds of waiting."""
    import ast
    from pathlib import Path

    from d2st.cli.runs import read, stages

    for module in (read, stages):
        names = [node for node in ast.walk(ast.parse(Path(module.__file__).read_text())) if isinstance(node, ast.ImportFrom)]
        assert not [node.module for node in names if (node.module or "").startswith(("d2st.adapter", "torch", "polars"))]
    assert read_run(make_stage(runs, "a").parent).last.val == 0.8
