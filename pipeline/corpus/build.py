"""Write the corpus to disk in a few spawned processes, and only what is not there yet.

`corpus.json` records seed, version and size from the start and `finished` at the end; a killed run goes on where it was,
since a file that is there is whole. One identity is the unit of work: its head is sculpted once for all its takes.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import cv2

from d2st.cache.errors import ConfigError
from d2st.pipeline.corpus.files import is_made, make_file, write_bytes
from d2st.pipeline.corpus.plan import CORPUS_VERSION, SPLITS, Sample, plan_corpus

__all__ = ["MARKER", "CorpusSummary", "make_corpus"]

MARKER = "corpus.json"
_MOST_WORKERS = 8


@dataclass(frozen=True)
class CorpusSummary:
    """What lies below `root` now. `reused` is how many of the `files` (masks not counted) were there already."""

    root: Path
    seed: int
    identities: int
    files: int
    reused: int
    videos: dict[str, dict[str, int]]  # split -> method -> files
    images: dict[str, dict[str, int]]

    @property
    def was_complete(self) -> bool:
        """Nothing had to be made."""
        return self.reused == self.files


def make_corpus(
    root: Path,
    *,
    seed: int = 0,
    identities: int = 36,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CorpusSummary:
    """Make (or complete, or find complete) the synthetic corpus of talking faces below `root`.

    Real files lie in `{train,val,test}/real`, fakes in `{train,val,test}/fake/<method>`, named `idNNN_K` or, for a swap,
    `idNNN_idMMM_K` (target, donor); what was manipulated in each fake is in `masks`, see `read_masks`. The same seed gives
    the same bytes. `on_progress(done, total)` counts files. `workers` processes (default: one a core, at most 8; with 1
    all is done in this one). Raises ConfigError for fewer than 6 identities, and where `root` holds something else:
    another corpus, or split folders that were not made here.
    """
    root = Path(root)
    samples = plan_corpus(seed, identities)
    declared = {"corpus_version": CORPUS_VERSION, "seed": seed, "identities": identities}
    _claim(root, declared)
    missing = [sample for sample in samples if not is_made(root, sample)]
    reused = done = len(samples) - len(missing)
    report = on_progress or (lambda done, total: None)
    report(done, len(samples))
    for made in _make_all(root, seed, missing, workers or min(_MOST_WORKERS, os.cpu_count() or 1)):
        done += made
        report(done, len(samples))
    write_bytes(root / MARKER, _as_json({**declared, "finished": True}))
    return CorpusSummary(root, seed, identities, len(samples), reused, _count(samples, "video"), _count(samples, "image"))


def _claim(root: Path, declared: dict[str, int]) -> None:
    """Leave our marker, or find it; refuse a folder that holds something else."""
    marker = root / MARKER
    if not marker.exists():
        taken = [name for name in (*SPLITS, "masks") if (root / name).exists()]
        if taken:
            raise ConfigError(f"{root} already holds {', '.join(taken)}, not made here", fix="Name a new or an empty folder")
        write_bytes(marker, _as_json({**declared, "finished": False}))
        return
    try:
        found = json.loads(marker.read_text())
        others = {name: found.get(name) for name, value in declared.items() if found.get(name) != value}
    except (ValueError, AttributeError):
        raise ConfigError(f"{marker} can't be read", fix=f"Delete {root}, or name another folder") from None
    if others:
        theirs = ", ".join(f"{name} {value}" for name, value in others.items())
        ours = ", ".join(f"{name} {declared[name]}" for name in others)
        raise ConfigError(f"{root} holds a corpus with {theirs}; asked for was {ours}", fix="Delete it, or name another folder")


def _make_all(root: Path, seed: int, missing: list[Sample], workers: int) -> Iterator[int]:
    """Make the missing samples; yield how many files each finished job wrote. One job is one identity."""
    jobs = [
        sorted(group, key=lambda sample: (sample.kind, sample.take, sample.method))  # the samples of a take share its footage
        for _, group in groupby(missing, key=lambda sample: sample.identity)
    ]
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from (_make_job(root, seed, job) for job in jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        for finished in as_completed([pool.submit(_make_job, root, seed, job) for job in jobs]):
            yield finished.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_job(root: Path, seed: int, job: list[Sample]) -> int:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        for sample in job:
            make_file(root, sample, seed=seed)
    finally:
        cv2.setNumThreads(threads)
    return len(job)


def _count(samples: list[Sample], kind: str) -> dict[str, dict[str, int]]:
    return {split: dict(Counter(s.method for s in samples if s.kind == kind and s.split == split)) for split in SPLITS}


def _as_json(values: dict[str, int | bool]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
