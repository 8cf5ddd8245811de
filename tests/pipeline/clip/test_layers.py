import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2st.cache.errors import ConfigError
from d2st.pipeline.clip.layers import layer_index, layer_names, resolve_layers


@pytest.mark.parametrize(
    ("spec", "depth", "blocks"),
    [
        ("last", 12, [11]),
        ("four", 12, [2, 5, 8, 11]),
        ("four", 24, [5, 11, 17, 23]),
        ("four", 6, [1, 2, 4, 5]),
        ("four", 3, [0, 1, 2]),
        ("four", 1, [0]),
        ("all", 3, [0, 1, 2]),
        ("-1,2", 12, [2, 11]),
        (" block_5 , 0 ", 12, [0, 5]),
        ("Last", 12, [11]),
    ],
)
def test_specifications(spec, depth, blocks):
    assert resolve_layers(spec, depth) == tuple(f"block_{block}" for block in blocks)


@pytest.mark.parametrize(
    "spec", ["", ",", "1,", "12", "-13", "block_12", "block_-1", "five", "1.0", "last,2", "٣", "--1", "block_block_1"]
)
def test_nonsense_is_refused_and_the_range_is_named(spec):
    with pytest.raises(ConfigError, match="block_0 to block_11"):
        resolve_layers(spec, 12)


@pytest.mark.parametrize("spec", ["3,3", "-1,11", "block_0,0"])
def test_a_block_named_twice_is_refused(spec):
    with pytest.raises(ConfigError, match="twice"):
        resolve_layers(spec, 12)


@given(st.data(), st.integers(1, 48))
def test_any_spelling_and_order_gives_the_same_layers(data, depth):
    blocks = data.draw(st.lists(st.integers(0, depth - 1), min_size=1, unique=True))
    spell = st.sampled_from([lambda b: str(b), lambda b: f"block_{b}", lambda b: str(b - depth)])
    spec = ",".join(data.draw(spell)(block) for block in blocks)
    layers = resolve_layers(spec, depth)
    assert [layer_index(name) for name in layers] == sorted(blocks)
    assert set(layers) <= set(layer_names(depth))
