"""One self-contained page: sections in their frame, style and script inside, nothing loaded from anywhere.

The page forbids itself every connection and every script but its own (Content-Security-Policy with the script's digest), so even a name
that got past the escaping could not run.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

from d2st.adapter.evaluate.digest import checkpoint_digest
from d2st.adapter.report import across, evidence, provenance, results, robustness
from d2st.adapter.report.gather import BEST, Record, gather
from d2st.adapter.report.markup import Html, definitions, join, note, number, tag, text
from d2st.adapter.report.sources import Sources, find_sources
from d2st.cache.files import write_atomic

__all__ = ["render", "write_report"]

Section = tuple[str, str, Html | None]  # id, heading, content; None where there is nothing to say


def write_report(
    run: Path,
    *,
    out: Path | None = None,
    split: str = "test",
    caches: Sequence[Path] = (),
    reasons: Mapping[str, str] | None = None,
) -> tuple[Path, Record]:
    """Write the page of a run; returns where it is, and what it is about.

    Args:
        run: runs/NAME, whose highest evaluated stage is shown, or runs/NAME/stageN.
        out: the file.  [default: report-SPLIT.html in the run's folder, or in the stage's when a stage is named]
        caches: stores with the pictures, instead of those that the run remembers.
        reasons: reason code -> why such samples are dropped.

    Raises:
        RunError: there is no such run, or a file of it is damaged.
        StoreError: the page can't be written.
    """
    record = gather(run, split=split)
    folder = record.folder if run.resolve() == record.folder else record.shown.folder
    out = out or folder / f"report-{split}.html"
    page = render(record, find_sources(record, caches), reasons=reasons or {})
    write_atomic(out, page.encode())
    return out, record


def render(record: Record, sources: Sources, *, reasons: Mapping[str, str]) -> str:
    """The whole page as HTML."""
    style, script, frame = (_asset(name) for name in ("report.css", "report.js", "report.html"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sections = [made for made in _sections(record, sources, reasons) if made[2] is not None]
    title = f"{record.name}, stage {record.shown.number}: {record.split} split"
    return Template(frame).substitute(
        title=text(title).source,
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=style,
        script=script,
        summary=join(_summary(record)).source,
        nav=tag("ul", *(tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections)).source,
        main=join(_section(*made) for made in sections).source,
    )


def _sections(record: Record, sources: Sources, reasons: Mapping[str, str]) -> Iterator[Section]:
    evaluation = record.evaluation
    if evaluation:
        yield "headline", "Headline", results.headline(record.shown)
        yield "curves", "ROC and DET curves", results.curves(evaluation)
        yield "scores", "Score distributions", results.scores(evaluation)
        yield "calibration", "Calibration", results.calibration(evaluation)
        yield "confusion", "Confusion", results.confusion(evaluation)
        yield "manipulations", "Manipulations", results.manipulations(evaluation)
        yield "matrices", "Matrices", across.matrices(record, sources)
        yield "protocols", "Other protocols", across.protocols(evaluation)
        yield "robustness", "Robustness", robustness.robustness(record)
    yield "training", "Training", provenance.training(record)
    yield "gap", "Modality gap", across.gap(record)
    if evaluation:
        yield "mistakes", "Mistakes and doubts", evidence.gallery(evaluation, sources)
        yield "samples", "Samples", evidence.samples(evaluation, sources)
        yield "dropped", "Dropped data", evidence.dropped(evaluation, sources, reasons=reasons, split=record.split)
    yield "reproduce", "Reproduce", provenance.reproduce(record, sources)


def _summary(record: Record) -> Iterator[Html]:
    """What the page says first: the result in a line, and what a reader must know before believing it."""
    result, evaluation = record.shown.result or {}, record.evaluation
    facts: list[tuple[str, object]] = [("run", record.name), ("stage shown", record.shown.number), ("split", record.split)]
    if evaluation:
        level, counts = evaluation.summary["overall"]["video"], evaluation.summary["samples"]
        between = level["intervals"].get("auc")
        auc = number(level["auc"]) + (f" ({number(between[0])} – {number(between[1])})" if between else "")
        kinds = " and ".join(f"{kind}s" for kind in evaluation.summary.get("kinds") or ())
        facts += [
            (f"AUC of {kinds}" if kinds else "AUC", auc),
            ("samples", f"{counts['scored']}: {counts['real']} real, {counts['fake']} fake"),
        ]
    facts += [(name, result[key]) for name, key in (("adapter", "adapter"), ("trained", "finished_at")) if result.get(key)]
    yield definitions(facts)
    for warning in _warnings(record):
        yield note(warning, kind="warning")


def _warnings(record: Record) -> Iterator[Html | str]:
    evaluation, shown = record.evaluation, record.shown
    if evaluation is None:
        yield join(
            [
                text(f"Not evaluated on the {record.split} split yet. Run "),
                tag("code", record.eval_command(shown)),
                text(" and make the report again."),
            ],
            "",
        )
    if shown.result is None:
        yield f"Stage {shown.number} is not finished."
    if (shown.result or {}).get("shuffled_labels"):
        yield "A sanity control: it was trained on shuffled labels, so anything but chance is an error."
    if evaluation is None:
        return
    counts = evaluation.summary["samples"]
    if counts["trained_on"]:
        yield f"{counts['trained_on']} of the {counts['scored']} samples were seen in training: the scores are too good."
    if counts["dropped"]:
        yield f"{counts['dropped']} samples of the split were not scored; see Dropped data."
    said, best = (evaluation.summary.get("about") or {}).get("checkpoint"), shown.folder / BEST
    if said and best.is_file() and said != checkpoint_digest(best):
        yield f"{BEST} is not the checkpoint that was evaluated: it has changed since."
    if shown is not record.stages[-1]:
        yield f"The run goes on to stage {record.stages[-1].number}; this page shows stage {shown.number}."


def _section(name: str, heading: str, content: Html | None) -> Html:
    return tag("section", tag("h2", heading, id=f"{name}-h"), content, id=name, aria_labelledby=f"{name}-h")


def _asset(name: str) -> str:
    return resources.files("d2st.adapter.report").joinpath("assets", name).read_text(encoding="utf-8")
