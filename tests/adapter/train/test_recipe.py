"""Recipes: what comes with the package is valid, what a run writes down reads back, and every mistake is named."""

import subprocess
import sys

import pytest

from d2st.adapter.train.recipe import STAGES, Recipe
from d2st.adapter.train.recipe_file import known_keys, load_recipe, to_toml
from d2st.cache.errors import ConfigError


@pytest.mark.parametrize("stage", STAGES)
def test_packaged_recipes_load_and_round_trip(stage, tmp_path):
    changed = load_recipe(stage, ['adapter.params={width=32, note="a \\"b\\""}', "optim.rates.head=0.5", "optim.lr=3e-6"])
    for recipe in (load_recipe(stage), changed):
        path = tmp_path / "r.toml"
        path.write_text(to_toml(recipe))
        assert load_recipe(path) == recipe
        assert recipe.stage == stage
    assert changed.optim.rates["head"] == 0.5
    assert changed.adapter.params["note"] == 'a "b"'


def test_every_key_has_a_description():
    for name, info in Recipe.model_fields.items():
        if "." not in name and name not in {key.split(".")[0] for key in known_keys() if "." in key}:
            assert info.description, name
    for key in known_keys():
        if "." in key:
            section, field = key.split(".")
            assert Recipe.model_fields[section].annotation.model_fields[field].description, key


def test_overrides_take_toml_values_and_bare_words():
    recipe = load_recipe(
        2, ["data.frames = 8", "adapter.name=linear_probe", 'adapter.layers=["block_3"]', "data.shuffle_labels=true"]
    )
    assert (recipe.data.frames, recipe.adapter.name, recipe.adapter.layers) == (8, "linear_probe", ("block_3",))
    assert recipe.data.shuffle_labels


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optim.lrr=1", "optim.lr"),
        ("optim.label_smoothing=0.1", "loss.label_smoothing"),
        ("optimm.lr=1", "unknown key 'optimm'"),
        ("optim.lr=-1", "optim.lr"),
        ("optim.lr=fast", "'fast'"),
        ("data.frames=12", "single frames"),
        ("data.kinds=[]", "data.kinds"),
        ("seed.x=1", "reaches into a value"),
        ("optim.lr", "section.key=value"),
        ("stage=4", "stage"),
    ],
)
def test_a_mistake_is_named_with_its_neighbours(override, says):
    with pytest.raises(ConfigError) as caught:
        load_recipe(1, [override])
    assert says in str(caught.value)


def test_missing_file_and_broken_toml(tmp_path):
    with pytest.raises(ConfigError, match="can't read"):
        load_recipe(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("stage = = 1")
    with pytest.raises(ConfigError, match="not TOML"):
        load_recipe(broken)
    broken.write_text("stage = 1\n[data]\nframes = 1\n")
    with pytest.raises(ConfigError, match="lacks"):
        load_recipe(broken)


def test_reading_a_recipe_does_not_import_torch():
    code = "import sys; from d2st.adapter.train import load_recipe; load_recipe(1); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
