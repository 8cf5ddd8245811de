"""Search spaces: what may be written, what it means, and what is said of mistakes."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.adapter.sweep.space import Choice, Range, toml_value
from d2st.adapter.sweep.space_file import BASE, read_space, space_text
from d2st.adapter.sweep.study import Study
from d2st.adapter.train.recipe_file import to_toml
from d2st.cache.errors import ConfigError

HEAD = 'stage = 2\nstart = "scratch"\n'
ADAPTERS = '"adapter.name" = ["d2st", "linear_probe"]\n"adapter.params.preset" = ["tiny", "base"]\n'


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "space.toml"
        path.write_text(text, encoding="utf-8")
        return read_space(path)

    return read


def test_a_space_says_what_is_fixed_and_what_is_swept(read):
    space = read(
        HEAD
        + "[set]\noptim.epochs = 6\n[sweep]\n"
        + '"optim.lr" = { low = 1e-4, high = 1e-2, log = true }\n"data.frames" = { low = 4, high = 12, step = 4 }\n'
        + '"adapter.layers" = [["block_1"], "all"]\n[search]\nsampler = "random"\npruner = "none"\n'
    )
    assert (space.base.optim.epochs, space.base.start, space.sampler, space.pruner) == (6, "scratch", "random", "none")
    assert space.axes == (
        Range("optim.lr", 1e-4, 1e-2, log=True),
        Range("data.frames", 4, 12, step=4, integer=True),
        Choice("adapter.layers", (["block_1"], "all")),
    )
    recipe = space.recipe({"optim.lr": 0.003, "data.frames": 8, "adapter.layers": ["block_1"]})
    assert (recipe.optim.lr, recipe.data.frames, recipe.adapter.layers) == (0.003, 8, ("block_1",))
    assert recipe.optim.epochs == 6


def test_keys_need_no_quotes(read):
    quoted = read(HEAD + '[set]\n"optim.epochs" = 3\n"data.mix.dataset" = { "a.b" = 2 }\n[sweep]\n"optim.lr" = [0.1, 0.2]\n')
    bare = read(HEAD + '[set]\noptim.epochs = 3\ndata.mix.dataset."a.b" = 2\n[sweep]\noptim.lr = [0.1, 0.2]\n')
    assert quoted == bare
    assert bare.base.data.mix.dataset == {"a.b": 2}


def test_a_range_of_a_recipe_knows_whether_its_key_counts(read):
    space = read(
        HEAD + '[sweep]\n"augment.reverse" = { low = 0, high = 1 }\n"optim.batch_size" = { low = 4, high = 16, log = true }\n'
    )
    assert [axis.integer for axis in space.axes] == [False, True]


def test_a_recipe_file_is_looked_for_beside_the_space(read, tmp_path):
    (tmp_path / "mine.toml").write_text(
        'stage = 2\n[data]\nframes = 3\nkinds = ["video"]\n[optim]\nlr = 0.1\nepochs = 1\nbatch_size = 2\n'
    )
    assert read('recipe = "mine.toml"\n[sweep]\n"optim.lr" = [0.1, 0.2]\n').base.data.frames == 3


def test_a_space_is_written_so_that_it_reads_the_same(read, tmp_path):
    space = read(
        HEAD
        + '[set]\noptim.epochs = 6\noptim.rates = {}\n[sweep]\n"optim.lr" = { low = 1e-4, high = 1e-2, log = true }\n'
        + '"data.frames" = { low = 4, high = 12, step = 4 }\n"adapter.layers" = [["block_1"], "all"]\n[search]\npruner = "none"\n'
    )
    (tmp_path / BASE).write_text(to_toml(space.base), encoding="utf-8")
    again = read(space_text(space))
    assert (again.base, again.axes, again.document()) == (space.base, space.axes, space.document())
    assert again.recipe({"optim.lr": 0.01}) == space.recipe({"optim.lr": 0.01})


def test_a_parameter_is_drawn_by_those_adapters_that_have_it(read):
    space = read(HEAD + '[sweep]\n"adapter.params.preset" = ["tiny", "base"]\n"adapter.name" = ["d2st", "linear_probe"]\n')
    assert space.axes[0].key == "adapter.name"
    assert [space.applies(space.axes[1], {"adapter.name": name}) for name in ("d2st", "linear_probe")] == [True, False]


def test_a_grid_holds_each_combination_once(read):
    space = read(HEAD + "[sweep]\n" + ADAPTERS + '"data.frames" = { low = 4, high = 6 }\n[search]\nsampler = "grid"\n')
    grid = space.grid()
    assert len(grid) == 3 * 2 + 3
    assert len({repr(values) for values in grid}) == len(grid)
    assert all(("adapter.params.preset" in values) == (values["adapter.name"] == "d2st") for values in grid)
    assert grid == space.grid()


def test_a_grid_in_steps_ends_where_its_range_ends(read, tmp_path):
    space = read(HEAD + '[sweep]\noptim.weight_decay = { low = 0.1, high = 0.3, step = 0.1 }\n[search]\nsampler = "grid"\n')
    study = Study(tmp_path, space)  # whose journal takes no 0.30000000000000004
    assert sorted(row.values["optim.weight_decay"] for row in study.ask(9, total=9)) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("stage = ", "not TOML", "Mend"),
        ("[sweep]\n", "either stage or recipe", "stage = 2"),
        ("stage = 4\n", "stage is 1, 2 or 3", "stage = 2"),
        (HEAD, "sweeps nothing", "[sweep]"),
        (HEAD + "sweeep = 1\n", "unknown key 'sweeep'", "Did you mean sweep"),
        (HEAD + '[sweep]\n"optim.lrr" = [1, 2]\n', "unknown key 'optim.lrr'", "Did you mean optim.lr"),
        (HEAD + "[sweep]\nlr = [1, 2]\n", "unknown key 'lr'", "Did you mean optim.lr"),
        (HEAD + '[set]\n"optim.epoch" = 3\n[sweep]\n', "unknown key 'optim.epoch'", "optim.epochs"),
        (HEAD + "[set]\noptim.lr = 1\n[sweep]\noptim.lr = [1, 2]\n", "both in [set] and in [sweep]", "Keep one"),
        (HEAD + '[sweep]\n"optim.lr" = 0.1\n', "a list or a range", "[0.1, ...]"),
        (HEAD + '[sweep]\n"optim.lr" = [0.1]\n', "no two values", "[set]"),
        (HEAD + '[sweep]\n"optim.lr" = [0.1, 0.1]\n', "names a value twice", "once"),
        (HEAD + '[sweep]\n"optim.lr" = [1, 1.0]\n', "names a value twice", "once"),
        (HEAD + "[set]\noptim.lr = 1979-05-27\n[sweep]\noptim.epochs = [1, 2]\n", "optim.lr", "1979"),
        (
            HEAD + '[sweep]\noptim.lr = { low = 0.0, high = 1.0, step = 1e-12 }\n[search]\nsampler = "grid"\n',
            "1,000,000,000,001 combinations",
            "random",
        ),
        (HEAD + '[sweep]\n"optim.lr" = { low = 0.1 }\n', "needs low and high", "high = 1e-2"),
        (HEAD + '[sweep]\n"optim.lr" = { low = 0.2, high = 0.1 }\n', "low 0.2 is not below high 0.1", "range"),
        (HEAD + '[sweep]\n"optim.lr" = { low = 0.0, high = 0.1, log = true }\n', "begins above 0", "range"),
        (HEAD + '[sweep]\n"optim.lr" = { low = 0.1, high = 0.2, lag = true }\n', "unknown key 'lag'", "Did you mean log"),
        (HEAD + '[sweep]\n"data.frames" = { low = 1.5, high = 3.0 }\n', "whole numbers", "without a point"),
        (HEAD + "[sweep]\nseed = [1, 2]\n", "seed can't be swept", "Take it out"),
        (HEAD + '[sweep]\n"data.kinds" = [["image"], ["video"]]\n', "different validation samples", "Take it out"),
        (HEAD + '[sweep]\n"optim.lr" = [1, 2]\n[search]\nsampler = "best"\n', "sampler can't be 'best'", "tpe"),
        (
            HEAD + '[sweep]\n"optim.lr" = { low = 1e-3, high = 1e-2 }\n[search]\nsampler = "grid"\n',
            "can't hold all numbers",
            "step",
        ),
        (HEAD + '[sweep]\n"adapter.params.presset" = ["tiny", "base"]\n', "unknown key 'adapter.params.presset'", "preset"),
        (HEAD + '[set]\n"optim.epochs" = 0\n[sweep]\n"optim.lr" = [1, 2]\n', "optim.epochs", "It is 0 now"),
    ],
)
def test_mistakes_name_the_key_and_the_cure(read, text, what, fix):
    with pytest.raises(ConfigError) as raised:
        read(text)
    assert what in raised.value.message
    assert fix in raised.value.fix


def test_no_file_is_no_crash(tmp_path):
    with pytest.raises(ConfigError, match="can't read the search space"):
        read_space(tmp_path / "none.toml")


values = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab. ='\"\\é", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab. ='\"", max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_values_survive_toml(value):
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
