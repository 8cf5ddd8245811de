"""What a user sees of the network that a recipe chose: its layers by name, and its size."""

import json

import pytest

from d2st.adapter.nets import clip_flops, count_parameters
from d2st.adapter.train import load_detector, run_training
from d2st.cache.errors import ConfigError
from d2st.cli.train_display import show_training

QUICK = ("optim.batch_size=16", "optim.epochs=1")


def test_a_preset_is_kept_as_the_layers_it_meant_and_the_size_is_told_and_kept(store, tmp_path, capsys) -> None:
    events: list[dict] = []
    overrides = (*QUICK, 'adapter.layers="last"', "adapter.params.width=16")
    (result,) = run_training(
        store, stages=[1], runs=tmp_path, name="a", overrides=overrides, device="cpu", on_event=events.append
    )
    detector, meta = load_detector(result.best)
    assert meta["layers"] == [store.tokens.layers[-1]]
    size = {key: meta[key] for key in ("layers", "channels", "grid")}
    kept = json.loads((tmp_path / "a/stage1/result.json").read_text())
    assert kept["parameters"] == result.parameters == count_parameters(detector)
    assert kept["gflops"] == result.gflops == clip_flops(detector, **size, frames=1) / 1e9 > 0
    with show_training() as show:
        for event in events:
            show(event)
    assert f"{result.parameters:,} trainable parameters, {result.gflops:.3g} GFLOP a clip" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"overrides": ('adapter.layers=["block_99"]',)}, "block_99"),
        ({"overrides": ('adapter.layers="fuor"',)}, "layers"),
        ({"adapter": "linear_probe", "preset": "tiny"}, "has no preset"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_refused_before_anything_is_written(store, tmp_path, options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_training(store, stages=[1], runs=tmp_path / "runs", name="a", device="cpu", **options)
    assert not (tmp_path / "runs").exists()
