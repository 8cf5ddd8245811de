"""`d2st explain --check`: are the maps faithful, on fakes of which it is known where they were manipulated?

The chosen samples are decoded and cropped once more: a cache holds crops, but not where in the frame they were cut from, and the masks
are of whole frames.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2st.cache.errors import ConfigError, D2stError
from d2st.cli.progress import phases
from d2st.cli.show import print_json, stderr, stdout, table

if TYPE_CHECKING:
    from rich.table import Table

    from d2st.detection import Detector

__all__ = ["run_check"]

SLIGHT = 0.1  # a base that takes less than this off P(fake) is none


def run_check(
    detector: "Detector",
    store: Path,
    corpus: Path,
    *,
    split: str,
    genuine: bool,
    max_samples: int | None,
    workers: int | None,
    out: Path,
    as_json: bool,
) -> None:
    """Measure, show a table, and write check-SPLIT-BASE.json and .png into `out`.

    Args:
        corpus: root of the demo's corpus, media and masks.
        genuine: deleted pixels become those of the recording that a fake was made from; else blurred ones.
        max_samples: at most so many fakes, as evenly from all kinds and manipulations as there are.

    Raises:
        ConfigError: `corpus` is none, or holds none of the split's fakes.
    """
    import polars as pl

    from d2st.adapter.explain.check_figure import check_png
    from d2st.adapter.explain.faithful import check_clip, summarise
    from d2st.cache.files import write_atomic
    from d2st.cli.explain_cases import choose_fakes, crop_scores, plan_of, prepare, with_others
    from d2st.explaining import network_scorer

    scorer = network_scorer(detector)
    planned = plan_of(corpus)
    chosen = choose_fakes(detector, store, planned, split=split, max_samples=max_samples)
    score, failed = crop_scores(detector, scorer), 0
    rows: list[dict[str, Any]] = []
    with phases({"clips": ("check", "clips")}, quiet=as_json) as on_progress:
        on_progress("clips", 0, len(chosen))
        cases = prepare(detector, scorer, corpus, chosen, planned, genuine=genuine, workers=workers)
        for number, case in enumerate(with_others(cases)):
            if isinstance(case, D2stError):
                failed += 1
                stderr().print(f"left out: {case.message}", markup=False, soft_wrap=True)
            else:
                named = {name: case.row[name] for name in ("sample_id", "video_id", "kind", "method")}
                rows += [named | row for row in check_clip(case.crops, case.base, case.masks, case.maps, score, seed=number)]
            on_progress("clips", failed + len({row["sample_id"] for row in rows}), len(chosen))
    if not rows:
        raise ConfigError(f"none of the {len(chosen)} fakes could be used", fix="See the reasons above")
    summary = summarise(pl.DataFrame(rows))
    base = "genuine" if genuine else "blur"
    about = {"split": split, "base": base, "stage": detector.opened.meta["stage"], "checkpoint": detector.opened.digest}
    document = {**about, "left_out": failed, "scopes": summary}
    out.mkdir(parents=True, exist_ok=True)
    words = "the genuine recording" if genuine else "a blurred crop"
    title = f"{detector.opened.path.parent.parent.name}, stage {about['stage']}: {split} split"
    written = [out / f"check-{split}-{base}.json", out / f"check-{split}-{base}.png"]
    write_atomic(written[0], json.dumps(document, indent=1).encode())
    write_atomic(written[1], check_png(summary, title=title, base=words))
    if as_json:
        print_json(document)
        return
    for made in _tables(summary, base=words):
        stdout().print(made)
    start, end = (summary["all"]["maps"]["relevance"]["deletion_curve"][place] for place in (0, -1))
    if end > start - SLIGHT:
        words = f"note: {words} scores {end:.2f} itself, the fakes {start:.2f}: with this base, curves say nothing of a map"
        stdout().print(words, markup=False, soft_wrap=True)
    stdout().print(f"Numbers and curves are in {written[0]} and {written[1].name}", markup=False, soft_wrap=True)


def _tables(summary: Mapping[str, Any], *, base: str) -> Iterator["Table"]:
    """Curves and pointing of all maps for all fakes and for each kind, then what relevance does for each manipulation."""
    wide = {scope: found for scope, found in summary.items() if ":" not in scope}
    title = f"mean P(fake) on the way to (deletion, small is good) and from (insertion, large is good) {base}"
    head = ("fakes", "clips", "map", "deletion", "better than random", "insertion", "better than random ")
    yield _wide(wide, title, head, ("deletion", "insertion"), lambda found: (found["clips"],), scale=1, digits=3)
    title = "pointing game: the map's highest point is in the mask; energy: share of the map inside it, by chance the mask's own share"
    head = ("fakes", "chance %", "mask %", "map", "hits %", "more than random", "energy %", "more than random ")
    yield _wide(wide, title, head, ("hit", "energy"), _chance, scale=100, digits=0)
    lines = []
    for scope in (scope for scope in summary if ":" in scope):
        found, own = summary[scope], summary[scope]["maps"]["relevance"]
        gains = [_cells(own[measure], scale=1, digits=3)[1] for measure in ("deletion", "insertion")]
        hits = f"{100 * own['hit']['value']:.0f} ({100 * found['chance']:.0f})"
        lines.append((scope, found["clips"], *gains, hits, f"{100 * own['energy']['value']:.0f} ({100 * found['area']:.0f})"))
    columns = ("fakes", "clips", "deletion, better than random", "insertion, better", "hits % (chance)", "energy % (mask)")
    yield table("relevance by manipulation", columns, lines, right=columns[1:])


def _chance(found: Mapping[str, Any]) -> tuple[str, str]:
    return f"{100 * found['chance']:.0f}", f"{100 * found['area']:.0f}"


def _wide(
    summary: Mapping[str, Any],
    title: str,
    columns: Sequence[str],
    measures: Sequence[str],
    lead: Callable[[Mapping[str, Any]], tuple[object, ...]],
    *,
    scale: float,
    digits: int,
) -> "Table":
    lines = []
    for scope, found in summary.items():
        first = (scope, *lead(found))
        for name, values in found["maps"].items():
            cells = [cell for measure in measures for cell in _cells(values[measure], scale=scale, digits=digits)]
            shown = first if name == "relevance" else ("",) * len(first)
            if name == "random":
                cells[1::2] = ["", ""]
            lines.append((*shown, name, *cells))
    return table(title, columns, lines, right=[column for column in columns if column not in ("fakes", "map")])


def _cells(measure: Mapping[str, Any], *, scale: float, digits: int) -> tuple[str, str]:
    """A value, and its gain with the interval where there is one."""
    gain = f"{scale * measure['gain']:+.{digits}f}"
    if not any(map(isnan, measure["interval"])):
        gain += " ({} to {})".format(*(f"{scale * bound:+.{digits}f}" for bound in measure["interval"]))
    return f"{scale * measure['value']:.{digits}f}", gain
