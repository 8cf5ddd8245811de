"""Recipes: what comes with the package is valid, what a run writes down reads back, and every mistake is named."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2st.adapter.train.recipe import STAGES, Recipe
from d2st.adapter.train.recipe_file import known_keys, load_recipe, recipe_names, to_toml
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


def test_packaged_recipes_are_what_the_design_says(tmp_path):
    assert recipe_names() == ["dfd-card", "stage1", "stage2", "stage3"]
    assert [load_recipe(stage).data.max_samples for stage in STAGES] == [140_000, 10_000, 5_000]
    card = load_recipe("dfd-card")
    assert (card.stage, card.start, card.seed, card.data.frames, card.data.kinds) == (2, "scratch", 42, 12, ("video",))
    assert card.data.views == ("main", "flip", "bright", "flip-bright")
    assert (card.data.balance, card.data.max_samples) == ("label", 0)
    optim = card.optim
    assert (optim.lr, optim.weight_decay, optim.warmup_ratio, optim.epochs) == (5e-6, 0.05, 0.1, 12)
    assert (optim.batch_size, optim.accumulate, optim.clip_norm, optim.precision) == (16, 2, 1.0, "bfloat16")
    assert (card.loss.kind, card.loss.label_smoothing) == ("bce", 0.1)
    (tmp_path / "card.toml").write_text(to_toml(card))
    assert load_recipe(tmp_path / "card.toml") == card


TEXT = st.text(min_size=1, max_size=12)
SHARE = st.floats(1e-3, 1e3)


@given(
    dataset=st.dictionaries(
        st.one_of(
            st.sampled_from(["FaceForensics++", "Celeb-DF-v2", 'a "b".c', "it's", "x=1", "\x7f", "\\", "\U0001f600"]), TEXT
        ),
        SHARE,
        max_size=4,
    ),
    label=st.dictionaries(st.sampled_from(["real", "fake"]), SHARE),
    layers=st.one_of(st.sampled_from(["all", "four", "last"]), st.lists(TEXT, max_size=3)),
    views=st.lists(TEXT, max_size=3),
    lr=st.floats(1e-12, 1e3),
    rates=st.dictionaries(TEXT, st.floats(0, 2), max_size=2),
    params=st.dictionaries(TEXT, st.one_of(TEXT, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.lists(SHARE)), max_size=3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_recipe_reads_back_from_what_it_writes(tmp_path, dataset, label, layers, views, lr, rates, params):
    recipe = Recipe.model_validate(
        {
            "stage": 2,
            "data": {"frames": 4, "kinds": ["video"], "views": views, "mix": {"dataset": dataset, "label": label}},
            "adapter": {"layers": layers, "params": params},
            "optim": {"lr": lr, "epochs": 1, "batch_size": 2, "rates": rates},
        }
    )
    path = tmp_path / "r.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


def test_every_key_has_a_description():
    for key in known_keys():
        model, *names = Recipe, *key.split(".")
        for name in names[:-1]:
            model = model.model_fields[name].annotation
        assert model.model_fields[names[-1]].description, key
    assert "data.mix.dataset" in known_keys()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("ffpp", "ffpp"),
        ("FaceForensics++", "FaceForensics++"),
        ("Celeb-DF-v2", "Celeb-DF-v2"),
        ('"DFDC.v2"', "DFDC.v2"),
        ("'a \"b\" = c'", 'a "b" = c'),
        ('"it\'s"', "it's"),
    ],
)
def test_data_sets_of_a_mix_are_set_one_by_one(key, name):
    recipe = load_recipe(1, [f"data.mix.dataset.{key}=2", "data.mix.dataset.other = 1", "data.mix.label={real=1, fake=3}"])
    assert recipe.data.mix.dataset == {name: 2.0, "other": 1.0}
    assert recipe.data.mix.label == {"real": 1.0, "fake": 3.0}


def test_no_recipe_balances_twice():
    with pytest.raises(ConfigError, match=r'set data.balance="none"'):
        load_recipe(1, ["loss.kind=balanced"])
    assert load_recipe(1, ["loss.kind=balanced", "data.balance=none"]).loss.kind == "balanced"


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
        ("optim.rates.spatial=-1", "optim.rates.spatial: Input should be greater than or equal to 0"),
        ("data.frames=12", "single frames"),
        ("data.kinds=[]", "data.kinds"),
        ("seed.x=1", "reaches into a value"),
        ("optim.lr", "section.key=value"),
        ("stage=4", "stage"),
        ("adapter.layers=[5]", "adapter.layers: it takes cached layers to read, by name; or all"),
        ("adapter.layers=[5]", "It is [5] now"),
        ("adapter.layers=lats", "It is 'lats' now"),
        ("data.kinds=[3]", "data.kinds: Input should be 'image' or 'video'"),
        ("data.mix.dataset.ffpp=0", "data.mix.dataset.ffpp: Input should be greater than 0"),
        ("data.mix.dataset.ffpp=inf", "data.mix.dataset.ffpp: Input should be a finite number"),
        ("data.mix.dataset.ffpp=much", "It is 'much' now"),
        ("data.mix.label.reel=1", "The key is 'reel' now"),
        ("data.mix.dataset=2", "data.mix.dataset: Input should be a valid dictionary"),
        ("data.mix.datasets.ffpp=2", "Did you mean data.mix.dataset"),
        ("mix.dataset.ffpp=2", "Known keys"),
        ("optim.rates.head=high", "optim.rates.head"),
        ('data.mix.dataset."a=2', "section.key=value"),
        ("data. =2", "section.key=value"),
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
