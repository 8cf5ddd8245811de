"""A whole sweep on a small store: searched, repeated with other seeds, and what is left behind."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from d2st.adapter.sweep import run
from d2st.adapter.sweep.run import run_sweep
from d2st.adapter.sweep.winner import noise_lines
from d2st.adapter.sweep.write import best_recipe
from d2st.adapter.train import load_recipe
from d2st.adapter.train.stage import train_stage
from d2st.cache.errors import ConfigError, RunError, UnknownNameError

TEXT = """
stage = 1
[set]
optim.epochs = 2
optim.batch_size = 8
[sweep]
"optim.lr" = { low = 1e-3, high = 1e-1, log = true }
"adapter.name" = ["linear_probe", "meanpool_mlp"]
"adapter.params.width" = [8, 16]
"adapter.layers" = [["block_1"], "all"]
[search]
sampler = "random"
pruner = "none"
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    toys = runpy.run_path(str(Path(__file__).parents[1] / "train" / "conftest.py"))
    return toys["make_store"](
        tmp_path_factory.mktemp("sweep") / "toy.d2st", images=40, videos=40, frames=2, grid=(2, 2), channels=8
    )


def write_space(folder, text=TEXT):
    path = folder / "space.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(store, tmp_path_factory):
    """(outcome, folder, events) of a sweep with all that belongs to it."""
    place, events = tmp_path_factory.mktemp("runs"), []
    outcome = run_sweep(
        store,
        write_space(place),
        runs=place / "runs",
        name="first",
        trials=4,
        seeds=2,
        device="cpu",
        on_event=events.append,
    )
    return outcome, place / "runs" / "first", events


def test_the_winner_is_chosen_by_new_seeds(finished):
    outcome, folder, _ = finished
    assert outcome["trials"] == {"complete": 4, "pruned": 0, "failed": 0}
    assert len(outcome["finalists"]) == 3
    means = [row["mean"] for row in outcome["finalists"]]
    assert outcome["winner"] == outcome["finalists"][0]["trial"]
    assert means == sorted(means, reverse=True)
    for row in outcome["finalists"]:
        assert list(row["values"]) == ["1", "2"]
        assert row["mean"] == pytest.approx(sum(row["values"].values()) / 2)
        for seed, value in row["values"].items():
            result = json.loads((folder / "seeds" / f"{row['trial']:04d}-s{seed}" / "stage1" / "result.json").read_text())
            assert result["value"] == value
    assert json.loads((folder / "summary.json").read_text())["winner"] == outcome["winner"]


def test_the_lead_is_put_beside_its_noise(finished):
    outcome, _, _ = finished
    noise = outcome["noise"]
    assert noise["lead"] == pytest.approx(outcome["finalists"][0]["mean"] - outcome["finalists"][1]["mean"])
    assert (noise["seeds"], noise["runner_up"]) == (2, outcome["finalists"][1]["trial"])
    assert noise["videos"] > 0
    text = " ".join(noise_lines(outcome))
    assert ("no more than noise" in text) == noise["is_noise"]
    assert "too high" in text or "too low" in text


def test_best_toml_is_a_recipe_that_trains_to_the_same(finished, store, tmp_path):
    outcome, folder, _ = finished
    text = (folder / "best.toml").read_text(encoding="utf-8")
    assert f"trial {outcome['winner']}" in text
    assert "new seeds" in text
    recipe = load_recipe(folder / "best.toml")
    trial = folder / "trials" / f"{outcome['winner']:04d}" / "stage1"
    assert recipe == load_recipe(trial / "recipe.toml")
    alone = train_stage(store, recipe, run_dir=tmp_path / "alone" / "stage1", init_checkpoint=None, resume=False, device="cpu")
    assert alone.value == pytest.approx(json.loads((trial / "result.json").read_text())["value"], abs=1e-6)


def test_best_toml_names_the_token_set_and_the_checkpoint(finished):
    outcome, folder, _ = finished
    rows = dict.fromkeys(range(4), SimpleNamespace(values={}))
    space = SimpleNamespace(recipe=lambda values: load_recipe(1))
    text = best_recipe(folder, space, rows, outcome, start="faces/stage1", tokens="l14")
    assert "d2st train --cache STORE --tokens l14 --recipe THIS_FILE --init DIR/faces/stage1" in text


def test_a_row_a_trial_and_pictures(finished):
    _, folder, _ = finished
    table = pl.read_parquet(folder / "sweep.parquet")
    assert table["trial"].to_list() == [0, 1, 2, 3]
    assert table.schema["optim.lr"] == pl.Float64
    assert set(table["adapter.layers"].drop_nulls()) <= {'["block_1"]', '"all"'}
    probes = table.filter(pl.col("adapter.name") == "linear_probe")
    assert probes["adapter.params.width"].is_null().all()
    assert all((folder / place / "stage1" / "best.safetensors").is_file() for place in table["folder"])
    for name in ("history", "parallel"):
        assert (folder / "plots" / f"{name}.png").read_bytes()[1:4] == b"PNG"


def test_events_carry_what_a_display_needs(finished):
    _, _, events = finished
    kinds = [event["event"] for event in events]
    assert kinds[0] == "sweep"
    assert kinds.count("phase") == 2
    assert kinds.count("trial") == kinds.count("ended") == 4 + 6


def test_a_finished_sweep_is_not_trained_again(finished, store, monkeypatch):
    def never(*args, **options):
        raise AssertionError

    outcome, folder, _ = finished
    monkeypatch.setattr(run, "run_population", never)
    again = run_sweep(store, folder / "space.toml", runs=folder.parent, name="first", device="cpu")
    assert again == outcome


def test_another_sweep_of_that_name_is_refused(finished, store, tmp_path):
    _, folder, _ = finished
    other = write_space(tmp_path, TEXT.replace("[8, 16]", "[8, 24]").replace("epochs = 2", "epochs = 3"))
    with pytest.raises(RunError, match=r"recipe\.optim\.epochs, sweep\.adapter\.params\.width") as raised:
        run_sweep(store, other, runs=folder.parent, name="first", device="cpu")
    assert "--name" in raised.value.fix


def played(values):
    """A population that plays: trial -> its validation AUC, or an error."""

    def population(store, *, propose, on_epoch, on_end, **others):
        while trials := propose(2):
            for trial in trials:
                value = values(trial)
                if isinstance(value, float):
                    on_epoch(trial, {"epoch": 1, "epochs": 1, "best": value})
                    value = make_result(value)
                on_end(trial, value)

    return population


def make_result(value):
    from d2st.adapter.train.result import StageResult

    names = ("best", "metric", "best_epoch", "epochs", "ended", "train_samples", "val_samples", "parameters", "seconds", "init")
    return StageResult(stage=1, adapter="linear_probe", value=value, **dict.fromkeys(names, 0))


def test_without_seeds_the_highest_score_wins_and_it_is_said_what_that_is_worth(store, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_population", played(lambda trial: 0.5 + trial.number / 10))
    outcome = run_sweep(store, write_space(tmp_path), runs=tmp_path, name="x", trials=4, seeds=0, device="cpu")
    assert (outcome["winner"], outcome["noise"]) == (3, None)
    assert "--seeds 3" in noise_lines(outcome)[0]


def test_more_trials_later(store, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_population", played(lambda trial: 0.5 + trial.number / 10))
    options = {"runs": tmp_path, "name": "x", "seeds": 0, "device": "cpu"}
    run_sweep(store, write_space(tmp_path), trials=2, **options)
    assert run_sweep(store, tmp_path / "space.toml", trials=5, **options)["winner"] == 4
    assert run_sweep(store, tmp_path / "space.toml", **options)["trials"]["complete"] == 5


def test_a_sweep_of_failures_says_why(store, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_population", played(lambda trial: RunError("a loss is not finite")))
    with pytest.raises(RunError, match="2 failed, the first by: a loss is not finite"):
        run_sweep(store, write_space(tmp_path), runs=tmp_path, name="x", trials=2, device="cpu")


STAGE_2 = 'stage = 2\n[sweep]\n"optim.lr" = [0.1, 0.2]\n'


@pytest.mark.parametrize(
    ("text", "options", "what", "error"),
    [
        (STAGE_2, {}, "start from stage 1", ConfigError),
        (STAGE_2 + '"adapter.layers" = ["all", "last"]\n', {"init": "x"}, "can't be swept", ConfigError),
        (STAGE_2, {"init": "nowhere"}, "does not exist", RunError),
        ('stage = 1\n[sweep]\n"adapter.layers" = [["block_9"], "all"]\n', {}, "no layer block_9", ConfigError),
        ('stage = 1\n[sweep]\n"adapter.name" = ["d2st", "d3st"]\n', {}, "'d3st'", UnknownNameError),
        ('stage = 1\n[sweep]\n"optim.warmup_ratio" = { low = 0.1, high = 1.5 }\n', {}, "warmup_ratio = 1.5", ConfigError),
        (
            'stage = 1\n[sweep]\n"adapter.params.width" = { low = 8, high = 24 }\n',
            {},
            "width = 9: adapter 'd2st' can't take",
            ConfigError,
        ),
        ('stage = 1\n[sweep]\n"data.mix.dataset.nope" = [1, 2]\n', {}, "nope", ConfigError),
        ('stage = 1\n[sweep]\n"loss.kind" = ["bce", "balanced"]\n', {}, "balanced", ConfigError),
        (TEXT, {"trials": 0}, "at least one trial", ConfigError),
        (TEXT, {"name": "../x"}, "can't be the name", ConfigError),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(store, tmp_path, text, options, what, error):
    with pytest.raises(error) as raised:
        run_sweep(store, write_space(tmp_path, text), runs=tmp_path / "runs", device="cpu", **{"name": "x", **options})
    assert what in raised.value.message
    assert not (tmp_path / "runs").exists()


def test_a_value_may_need_another_one(store, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "run_population", played(lambda trial: 0.5))
    text = 'stage = 1\n[sweep]\n"loss.kind" = ["bce", "balanced"]\n"data.balance" = ["none", "label"]\n[search]\nsampler = "grid"\n'
    outcome = run_sweep(store, write_space(tmp_path, text), runs=tmp_path, name="x", seeds=0, device="cpu")
    assert outcome["trials"] == {"complete": 3, "pruned": 0, "failed": 1}


def test_a_run_is_not_swept_over(store, tmp_path):
    (tmp_path / "x" / "stage1").mkdir(parents=True)
    with pytest.raises(RunError, match="something else than a sweep"):
        run_sweep(store, write_space(tmp_path), runs=tmp_path, name="x", device="cpu")


def test_optuna_is_asked_for_by_its_command(store, tmp_path, monkeypatch):
    monkeypatch.setattr("d2st.adapter.sweep.study.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="optuna") as raised:
        run_sweep(store, write_space(tmp_path), runs=tmp_path, name="x", device="cpu")
    assert "pip install" in raised.value.fix


def test_when_no_finalist_stands_its_repeats_that_is_said(store, tmp_path, monkeypatch):
    def values(trial):
        if "seeds" not in trial.folder.parts:
            return 0.6 + trial.number / 10
        return RunError("a loss is not finite")

    monkeypatch.setattr(run, "run_population", played(values))
    outcome = run_sweep(store, write_space(tmp_path), runs=tmp_path, name="x", trials=2, seeds=2, device="cpu")
    assert outcome["winner"] == 1
    assert [row["values"] for row in outcome["finalists"]] == [{"1": None, "2": None}] * 2
    assert "no finalist trained with each of the new seeds" in noise_lines(outcome)[0]
    assert "one score" in noise_lines(outcome)[0]
