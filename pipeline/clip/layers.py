"""Names of the tapped layers: `block_0` is the output of the first transformer block, `block_{depth-1}` of the last.

A layer is always stored and declared by its full name and in depth order, whatever way the user spelled it, so that
"last", "-1" and "block_11" make one and the same cache. `four` taps the end of each quarter of the tower (block_2, _5,
_8, _11 of 12; block_5, _11, _17, _23 of 24).
"""

from d2st.cache.errors import UsageError

__all__ = ["layer_index", "layer_names", "resolve_layers"]


def layer_names(depth: int) -> tuple[str, ...]:
    """All layer names of a tower of `depth` blocks, in depth order."""
    return tuple(f"block_{index}" for index in range(depth))


def layer_index(name: str) -> int:
    """The block number of a layer name."""
    return int(name.removeprefix("block_"))


def resolve_layers(spec: str, depth: int) -> tuple[str, ...]:
    """Turn a layer specification into layer names in depth order, each once.

    `spec` is a preset ("last", "four", "all") or a comma list of names and block numbers; negative numbers count from the
    end ("2,5,-1", "block_2,block_11"). A tower with fewer than four blocks gives all of them for "four".
    Raises UsageError for an empty list, a layer that the tower does not have, or one that is named twice.
    """
    names = layer_names(depth)
    wanted = spec.strip().lower()
    if wanted == "all":
        return names
    if wanted == "last":
        return names[-1:]
    if wanted == "four":
        quarters = {-(-(quarter * depth) // 4) - 1 for quarter in (1, 2, 3, 4)}  # ceil(k * depth / 4) - 1
        return tuple(names[index] for index in sorted(quarters))
    indices = [_one(part.strip(), spec, depth) for part in wanted.split(",")]
    if len(set(indices)) < len(indices):
        raise UsageError(f"layers {spec!r} name a block twice", fix="Name each block once")
    return tuple(names[index] for index in sorted(indices))


def _one(part: str, spec: str, depth: int) -> int:
    fix = f"Use last, four, all, or a comma list of block_0 to block_{depth - 1} or of numbers from {-depth} to {depth - 1}"
    number = part.removeprefix("block_")
    named = number != part
    if not (number.isascii() and number.removeprefix("" if named else "-").isdigit()):
        raise UsageError(f"layers {spec!r}: {part!r} is neither a preset nor a block", fix=fix)
    index = int(number)
    if not -depth <= index < depth:
        raise UsageError(f"layers {spec!r}: there is no block {part!r} in a tower of {depth} blocks", fix=fix)
    return index % depth
