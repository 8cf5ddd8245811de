"""What can be wrong with a store, and what mends it, as codes: people read the sentences, `d2st cache repair` goes by the codes."""

from dataclasses import dataclass, field

__all__ = ["KINDS", "MENDS", "Damage", "Verification"]

KINDS = {
    "missing": "is not there",
    "truncated": "has another size than when it was written",
    "checksum": "holds other bytes than were written",
    "swapped": "is a whole file, but not the one that was written here",
    "seal": "fails its own checksum, or can't be parsed",
    "metadata": "describes other arrays than the config says",
    "fingerprint": "was made with another config than the level's",
    "rows": "contradicts itself, the plan or the crops",
    "stale": "was made from something that has changed since",
    "plan": "does not know samples that the ledger has",
    "unreadable": "can't be read from the disk",
}

MENDS = {
    "crop": "crops are made again from the media, token maps of them if they come out different",
    "encode": "token maps are made again from the crops",
    "moments": "statistics are computed again from the token maps",
    "metadata": "it is written again from what the ledger says",
    "plan": "it is written again from the ledger",
    "calibration": "it is computed again from the crops, and the token maps too unless they fit it",
    "manifest": "only `d2st cache build MANIFEST` can write it again",
}


@dataclass(frozen=True)
class Damage:
    """One thing that is not as it was written.

    Attributes:
        file: relative to the store, with forward slashes.
        kind: a code of `KINDS`.
        mend: a code of `MENDS`.
        detail: one sentence for people.
        level: folder of the level that it belongs to; None for the store's own files.
        shard: its number, where one shard is hit.
        samples: ids of the samples that can't be trusted, or not be read, because of it.
    """

    file: str
    kind: str
    mend: str
    detail: str = ""
    level: str | None = None
    shard: int | None = None
    samples: tuple[str, ...] = ()


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        notes: what is no damage but worth knowing: leftovers of killed builders, shards not built yet, what could not be checked.
        files, bytes: how many were checked; of shard files that were not read in full, the index alone counts.
        seconds: wall time.
    """

    deep: bool
    format: int
    damages: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def samples(self) -> list[str]:
        """Ids of all samples hit, sorted."""
        return sorted({sample for damage in self.damages for sample in damage.samples})
