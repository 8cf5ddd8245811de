"""Presets and lists of layers mean what the recipe's comments say."""

import pytest

from d2st.adapter.train.layers import resolve_layers
from d2st.cache.errors import ConfigError


def blocks(*numbers: int) -> list[str]:
    return [f"block_{number}" for number in numbers]


@pytest.mark.parametrize(
    ("wanted", "cached", "expected"),
    [
        ("all", (0, 5), (0, 5)),
        ("last", (0, 5), (5,)),
        ("four", range(12), (2, 5, 8, 11)),
        ("four", range(24), (5, 11, 17, 23)),
        ("four", (2, 5, 8, 11), (2, 5, 8, 11)),
        ("four", (1, 3, 5, 7, 9), (1, 3, 5, 9)),
        ("four", (0, 5), (0, 5)),
        ("four", (7,), (7,)),
    ],
)
def test_presets(wanted: str, cached: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert resolve_layers(wanted, blocks(*cached)) == blocks(*expected)


@pytest.mark.parametrize("count", range(1, 40))
def test_four_are_distinct_and_include_the_last(count: int) -> None:
    cached = blocks(*range(count))
    chosen = resolve_layers("four", cached)
    assert len(set(chosen)) == len(chosen) == min(4, count)
    assert chosen[-1] == cached[-1]
    gaps = {int(b[6:]) - int(a[6:]) for a, b in zip(["block_-1", *chosen], chosen, strict=False)}
    assert max(gaps) - min(gaps) <= 1


def test_a_list_comes_in_the_order_of_depth() -> None:
    assert resolve_layers(["block_9", "block_1"], blocks(1, 5, 9)) == blocks(1, 9)


@pytest.mark.parametrize(("wanted", "says"), [(["block_4"], "block_4"), ((), "empty"), ("fuor", "'fuor'")], ids=str)
def test_what_can_not_be_read_is_refused_and_the_choice_named(wanted: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_layers(wanted, blocks(1, 5))
    for name in ("block_1", "block_5", "four", "last"):
        assert name in str(caught.value)
