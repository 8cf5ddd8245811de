"""What a logit means: probability, verdict and doubts, from the operating points that the checkpoint brought along."""

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING

from d2st.prediction import Doubt, Window

if TYPE_CHECKING:
    from d2st.adapter.evaluate.operating import Operating, Threshold

__all__ = ["Judge", "shared_doubts"]

NEAR_ODDS = 1.5  # a verdict is near its threshold when the odds of fake are within this factor of those at the threshold
COMMON = 0.1  # share of the windows that a doubt must hold for to be one of the whole file


class Judge:
    """Thresholds and probabilities at one false positive rate; `fpr` None means the stored default (`Operating.threshold`)."""

    def __init__(self, operating: "Operating", *, fpr: float | None = None) -> None:
        self.operating = operating
        self.fpr = fpr
        self._thresholds: dict[str, Threshold] = {}  # asked for with each file

    def threshold(self, kind: str) -> "Threshold":
        """For files of `kind`. Raises ConfigError when `fpr` can't be had."""
        if kind not in self._thresholds:
            self._thresholds[kind] = self.operating.threshold(kind, self.fpr)
        return self._thresholds[kind]

    def probability(self, kind: str, logit: float) -> float:
        """Calibrated P(fake), 0..1."""
        return self.operating.probability(kind, logit)

    def doubts(self, kind: str, logit: float) -> list[Doubt]:
        """What there is to doubt in the verdict itself."""
        found = []
        if not self.operating.known(kind):
            found.append(
                Doubt("no_operating_point", "the checkpoint stores no threshold: P(fake) is the raw score, cut at 0.5")
            )
        cut = self.threshold(kind).logit
        if exp(min(abs(logit - cut) / self.operating.temperature(kind), 700.0)) < NEAR_ODDS:
            value, at = self.probability(kind, logit), self.probability(kind, cut)
            found.append(Doubt("near_threshold", f"close to the threshold ({value:.3f} against {at:.3f})"))
        return found

    def about_windows(self, kind: str, windows: Sequence[Window]) -> list[str]:
        """How many of a file's windows lie above the threshold, and how many would by chance."""
        scored = [window for window in windows if window.logit is not None]
        if len(scored) < 2:
            return []
        cut = self.threshold(kind)
        above = [window for window in scored if window.logit > cut.logit]
        words = f"{len(above)} of {len(scored)} windows lie above the threshold"
        if above:
            words += f" ({', '.join(_stretches(above))})"
        if cut.fpr is not None:
            words += f"; of a real video about {cut.fpr * len(scored):.1f} would, by its FPR on validation"
        return [words]


def shared_doubts(windows: Sequence[Window]) -> list[Doubt]:
    """The doubts of a file's windows as those of the file: all of them for one window, else those of at least `COMMON` of them, counted."""
    scored = [window for window in windows if window.logit is not None]
    if len(scored) == 1:
        return list(scored[0].doubts)
    by_code: dict[str, list[Doubt]] = {}
    for window in scored:
        for doubt in window.doubts:
            by_code.setdefault(doubt.code, []).append(doubt)
    return [
        Doubt(code, f"{found[0].words} (in {len(found)} of {len(scored)} windows)")
        for code, found in by_code.items()
        if len(found) >= COMMON * len(scored)
    ]


def _stretches(windows: Sequence[Window]) -> list[str]:
    """Neighbouring windows joined: "12-18 s"; five at most."""
    joined: list[list[float]] = []
    for window in windows:
        if joined and window.start_s <= joined[-1][1] + 0.01:
            joined[-1][1] = window.end_s
        else:
            joined.append([window.start_s, window.end_s])
    words = [f"{start:.1f}-{end:.1f} s" for start, end in joined[:5]]
    return [*words, f"and {len(joined) - 5} more"] if len(joined) > 5 else words
