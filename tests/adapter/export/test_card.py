"""The card says what the run's files say, names what nobody measured, and a hub folder is the checkpoint with it."""

import json

import pytest

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.export import about
from d2st.adapter.export.card import header, model_card, run_record
from d2st.adapter.export.hub import write_hub
from d2st.adapter.export.markdown import cell, interval, table
from d2st.adapter.train.checkpoint import save_checkpoint
from d2st.cache.errors import ConfigError


@pytest.fixture
def made(prepared):
    return prepared("linear_probe")


def card(made, *, record=None, checkpoint="c" * 32, operating=True):
    meta = made.meta if operating else {key: value for key, value in made.meta.items() if key != "operating"}
    said = {**made.about, "parity": {"max_abs_logit": 1.5e-6, "clips": 7, "of": "crops of x", "runtime": "torch 2"}}
    return model_card(meta, name="mine", record=record, checkpoint=checkpoint, about=said, loading="Load it.")


def test_a_lone_checkpoint_names_what_is_not_known(made):
    text = card(made)
    assert text.startswith("# mine\n")
    assert text.count("Not known: the checkpoint does not lie in the folder of its run.") == 2
    for part in ("## Intended use", "## Limits", "`cccc", "logits differ by at most 1.5e-06 on 7 clips", "frames 1 to 1024"):
        assert part in text
    assert "It must not be the only ground of a decision" in text


def test_operating_points_are_those_of_validation(made):
    text = card(made)
    assert "| video | equal errors (stored default) |" in text
    assert "no rate below 0.33 can be measured" in text
    assert "image 0.5, video 2" in text
    assert "keeps none" in card(made, operating=False)


def _run(tmp_path, made, *, evaluated=None):
    folder = tmp_path / "first" / "stage2"
    folder.mkdir(parents=True)
    stats = {key: ([0.0] * 16, [1.0] * 16) for layer in made.meta["layers"] for key in (layer, f"{layer}/cls")}
    save_checkpoint(folder / "best.safetensors", made.detector, meta=made.meta, stats=stats)
    (folder / "recipe.toml").write_text("stage = 2\n")
    (folder / "result.json").write_text(
        json.dumps({"adapter": "linear_probe", "metric": "video_auc", "value": 0.75, "seconds": 9})
    )
    if evaluated:
        import polars as pl

        place = folder / "eval-test"
        place.mkdir()
        columns = ("sample_id", "dataset", "method", "label", "kind", "video_id", "score", "frames", "frame_scores")
        pl.DataFrame(schema=dict.fromkeys(columns, pl.String)).write_parquet(place / "predictions.parquet")
        values = {"n_real": 3, "n_fake": 4, "auc": 0.8125, "eer": 0.25, "intervals": {"auc": [0.5, 1.0]}}
        summary = {
            "about": {"checkpoint": evaluated if evaluated != "this" else checkpoint_digest(folder / "best.safetensors")},
            "samples": {"scored": 7},
            "overall": {"video": values},
            "kinds": {},
            "datasets": {"a|b": {"overall": {"video": values}}},
            "methods": {"a|b": {"video": {"swap": {"video": values}}}},
        }
        (place / "metrics.json").write_text(json.dumps(summary))
    return folder / "best.safetensors"


@pytest.mark.parametrize(
    ("evaluated", "said"),
    [
        ("this", "| all | 3 + 4 | 0.812 [0.500, 1.000] | 0.250 |"),
        ("another", "The one in the run's folder is of an earlier checkpoint"),
        (None, "`d2st eval runs/first/stage2 --split test` does it"),
    ],
)
def test_results_are_of_this_very_checkpoint_or_missing(tmp_path, made, evaluated, said):
    path = _run(tmp_path / "runs", made, evaluated=evaluated)
    text = card(made, record=run_record(path), checkpoint=checkpoint_digest(path))
    assert said in text
    assert "| 2 | linear_probe | scratch | – | video_auc 0.750 | – | 9 |" in text
    assert evaluated != "this" or "| a\\|b | video | swap | 4 | 0.812 [0.500, 1.000] |" in text


def test_a_hub_folder_is_the_checkpoint_byte_for_byte(tmp_path, made):
    path = _run(tmp_path / "runs", made)
    folder = tmp_path / "hub"
    for _ in range(2):  # again, over itself
        said = {"checkpoint": path, "digest": checkpoint_digest(path), "card": header(made.meta) + card(made)}
        write_hub(folder, **said, meta=made.meta, versions=about.versions())
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["checkpoint"] == checkpoint_digest(path)
    assert config["detector"]["adapter"] == "linear_probe"
    front = (folder / "README.md").read_text().split("---\n")[1]
    assert "pipeline_tag: video-classification" in front
    assert len(front.splitlines()) == len(set(front.splitlines()))
    (folder / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="holds other files"):
        write_hub(folder, **said, meta=made.meta, versions={})


def test_text_can_not_break_out_of_a_table():
    assert cell("a|b\n<script>") == "a\\|b &lt;script>"
    assert table(["x"], [[None]]).splitlines()[-1] == "| – |"
    assert (interval(None, [0, 1]), interval(0.5, None), interval(0.5, [None, None])) == ("–", "0.500", "0.500")
