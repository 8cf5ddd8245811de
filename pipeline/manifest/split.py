"""Train, validation and test parts that no person crosses.

Samples that share an identity, a video or their bytes are one component (union-find), and a component goes into one split as a whole.
Components are laid in the order of a seeded hash of their name and cut at 70 and 85 % of the samples, separately for components that hold
only real, only fake, or both: small data sets then get every class in every split, which a hash threshold alone does not give them.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b

__all__ = ["SHARES", "assign_splits", "connected"]

Shares = tuple[tuple[str, float], ...]
SHARES: Shares = (("train", 0.70), ("val", 0.15), ("test", 0.15))


def connected(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """For each item, the number of the first item of its component; items with a key in common are in one component."""
    parent = list(range(len(keys)))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # path halving
            item = parent[item]
        return item

    first: dict[Hashable, int] = {}
    for item, own in enumerate(keys):
        for key in own:
            one, other = find(first.setdefault(key, item)), find(item)
            parent[max(one, other)] = min(one, other)  # the smaller number stays the root
    return [find(item) for item in range(len(keys))]


def assign_splits(
    components: Sequence[int],
    names: Sequence[str],
    labels: Sequence[int],
    known: Sequence[str | None],
    *,
    shares: Shares = SHARES,
    seed: int = 1,
) -> list[str]:
    """One split a sample. All of a component get the same, unless `known` already says different ones for its samples.

    Args:
        components: from `connected`.
        names: one string a sample that does not change from run to run; a component is ranked by its smallest.
        labels: 0 or 1 a sample.
        known: splits that the tree gives. They are kept, and the rest of such a component follows if they agree.
        shares: split and its share of the samples, the first one the largest.
        seed: another one, another order of the components.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for item, component in enumerate(components):
        members[component].append(item)
    chosen: dict[int, str] = {}
    strata: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for component, items in members.items():
        given = sorted({split for item in items if (split := known[item]) is not None})
        if given:
            chosen[component] = given[0]
        else:
            strata[tuple(sorted({labels[item] for item in items}))].append(component)
    for stratum in strata.values():
        stratum.sort(key=lambda component: _rank(min(names[item] for item in members[component]), seed))
        chosen |= _cut(stratum, [len(members[component]) for component in stratum], shares)
    return [known[item] or chosen[component] for item, component in enumerate(components)]


def _rank(name: str, seed: int) -> bytes:
    return blake2b(f"d2st split {seed}\0{name}".encode(), digest_size=16).digest()


def _cut(ranked: Sequence[int], sizes: Sequence[int], shares: Shares) -> dict[int, str]:
    """Split by where the middle of each component lies in the row of all samples; with enough components, every split gets one."""
    total, before = sum(sizes), 0
    splits = []
    for size in sizes:
        middle, edge = (before + size / 2) / total, 0.0
        before += size
        for split, share in shares:
            edge += share
            if middle < edge or split == shares[-1][0]:
                splits.append(split)
                break
    if len(splits) >= len(shares):
        counts = Counter(splits)
        for needed, _ in shares:
            if not counts[needed]:
                last = max(place for place, split in enumerate(splits) if counts[split] > 1)
                counts[splits[last]] -= 1
                counts[needed] += 1
                splits[last] = needed
    return dict(zip(ranked, splits, strict=True))
