"""Which layout a folder or a list is of, and the samples that it finds there; if none fits, what was seen and what was expected."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from d2st.cache.errors import ManifestError
from d2st.pipeline.manifest.layouts import LAYOUTS, Found, Layout, Place
from d2st.pipeline.manifest.notes import sight
from d2st.pipeline.manifest.walk import Ignored

__all__ = ["find_samples"]


def find_samples(place: Place, key: str | None) -> tuple[Layout, list[Found], Ignored]:
    """The layout, its samples sorted by path, and what was left aside; `key` names the layout, None tries all of them.

    Raises:
        ManifestError: no layout finds a sample, a list is damaged or names a sample twice.
    """
    ignored = Ignored()
    tried = [layout for layout in LAYOUTS if key in (None, layout.key)]
    _refuse_sort(place.source, tried)
    for layout in tried:
        if key is not None or layout.matches(place.source):
            ignored = Ignored()
            found = sorted(layout.find(place, ignored), key=lambda sample: sample.path)
            if found:
                _refuse_twice(found, place.source)
                return layout, found, ignored
            if ignored.missing:
                where = "this folder" if place.root == Path() else place.root
                raise ManifestError(
                    f"none of the {len(ignored.missing)} samples in {place.source} are under {where}, such as {ignored.missing[0]}",
                    fix="Name the folder that its paths start from with --root",
                )
    if place.source.is_file():
        raise ManifestError(
            f"{place.source} is no list of samples", fix="Name a folder, a DeepfakeBench .json, a .csv or a .parquet"
        )
    expected = "\n\n".join(f"{layout.name} (--layout {layout.key}):\n{layout.expects}" for layout in tried)
    asked = "no known layout fits" if key is None else f"the layout {key} does not fit"
    raise ManifestError(
        f"{asked} {place.source}: {sight(place.root, ignored)}", fix=f"Arrange it, links will do, as\n\n{expected}"
    )


def _refuse_sort(source: Path, tried: Sequence[Layout]) -> None:
    if all(layout.of_lists == source.is_dir() for layout in tried):
        one, other = ("folder", "list") if source.is_dir() else ("file", "folder")
        raise ManifestError(
            f"{source} is a {one}; the layout {tried[0].key} is that of a {other}",
            fix=f"Name the {other}, or leave out --layout",
        )


def _refuse_twice(found: Sequence[Found], source: Path) -> None:
    for one, other in pairwise(found):
        if one.path == other.path:
            raise ManifestError(f"{source} lists {one.path} twice", fix="Keep one of its rows")
