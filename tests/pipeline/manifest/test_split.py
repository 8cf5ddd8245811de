"""Splitting by connected components, against a slow reference and for small data sets."""

from hypothesis import given
from hypothesis import strategies as st

from d2st.pipeline.manifest.split import assign_splits, connected

KEYS = st.lists(st.sets(st.integers(0, 12), max_size=3), max_size=20)


@given(KEYS)
def test_components_are_those_of_the_graph(keys):
    # reference: spread the smallest number until nothing changes
    expected = list(range(len(keys)))
    for _ in keys:
        for one, first in enumerate(keys):
            for other, second in enumerate(keys):
                if first & second:
                    expected[one] = expected[other] = min(expected[one], expected[other])
    assert connected(keys) == expected


@given(KEYS.filter(bool), st.randoms(use_true_random=False))
def test_no_key_crosses_splits_and_order_does_not_matter(keys, random):
    names = [str(sorted(key)) + str(place) for place, key in enumerate(keys)]
    labels = [place % 2 for place in range(len(keys))]

    def split(order):
        own = [keys[place] for place in order]
        made = assign_splits(
            connected(own), [names[place] for place in order], [labels[place] for place in order], [None] * len(keys)
        )
        return dict(zip(order, made, strict=True))

    order = list(range(len(keys)))
    first = split(order)
    for one in order:
        for other in order:
            assert not keys[one] & keys[other] or first[one] == first[other]
    random.shuffle(order)
    assert split(order) == first


@given(st.integers(3, 60), st.integers(3, 60))
def test_each_class_is_in_each_split(real, fake):
    count = real + fake
    labels = [0] * real + [1] * fake
    made = assign_splits(list(range(count)), [f"v{place}" for place in range(count)], labels, [None] * count)
    assert {(label, split) for label, split in zip(labels, made, strict=True)} == {
        (label, split) for label in (0, 1) for split in ("train", "val", "test")
    }


@given(st.lists(st.integers(1, 50), min_size=3, max_size=12))
def test_components_of_any_size_fill_every_split(sizes):
    components = [place for place, size in enumerate(sizes) for _ in range(size)]
    made = assign_splits(
        components, [f"c{component}" for component in components], [0] * len(components), [None] * len(components)
    )
    assert set(made) == {"train", "val", "test"}


def test_shares_of_a_large_set():
    count = 10_000
    made = assign_splits(list(range(count)), [str(place) for place in range(count)], [0] * count, [None] * count)
    assert [made.count(split) for split in ("train", "val", "test")] == [7000, 1500, 1500]


def test_known_splits_are_kept_and_followed():
    made = assign_splits([0, 0, 2], ["a", "b", "c"], [0, 1, 1], ["test", None, "val"])
    assert made == ["test", "test", "val"]
