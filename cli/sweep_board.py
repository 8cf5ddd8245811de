"""How a sweep stands, as its events tell it: the trials that run, how the others ended, the best, and the time that is left.

That time is reckoned in epochs: what the trials that run have left, and for those to come what trials took so far, pruned ones among them,
at the pace of this process alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from d2st.cli.show import human_time

__all__ = ["STATES", "Board", "Entry", "drawn_text", "sparkline"]

BARS = "▁▂▃▄▅▆▇█"
STATES = {"complete": "finished", "pruned": "pruned", "failed": "failed"}
FINALISTS = 3
SETTLED = 0.5  # epochs before a pace means anything


@dataclass
class Entry:
    """A trial that runs here."""

    name: str
    about: str
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    best: float | None = None
    course: list[float] = field(default_factory=list)


class Board:
    """A sweep as its events tell it."""

    def __init__(self) -> None:
        self.phase, self.total, self.seeds, self.epochs = "search", 0, 0, 1
        self.running: dict[int, Entry] = {}
        self.ended = dict.fromkeys(STATES, 0)
        self.best: tuple[float, str] | None = None
        self.samples_per_s = 0.0
        self.waiting = 0
        self._trained = 0  # epochs, by this process in this phase
        self._spent: list[int] = []  # epochs of each ended trial
        self._start = monotonic()
        self._began: float | None = None  # with the first epoch
        self._notes: set[str] = set()

    def hear(self, event: Mapping[str, Any]) -> str:
        """Take an event in; returns what is worth a line, or ""."""
        what = getattr(self, f"_hear_{event['event']}", None)
        return (what(event) or "") if what else ""

    def counts(self) -> str:
        """How many trials are in which state."""
        ended = [f"{count} {STATES[state]}" for state, count in self.ended.items() if count or state == "complete"]
        return f"{self.phase}: {', '.join(ended)}, {len(self.running)} running of {self.total}"

    def pace(self) -> str:
        """The best so far, the throughput, the time."""
        parts = []
        if self.best is not None:
            parts.append(f"best {self.best[0]:.4f} ({self.best[1]})")
        if self.waiting and not self.running:
            parts.append(f"waiting for {self.waiting} that other processes train")
        elif self.samples_per_s:
            parts.append(f"{self.samples_per_s:,.0f} samples/s")
        left = self.left_s()
        time = human_time(self.elapsed_s()) + ("" if left is None else f", about {human_time(left)} left")
        return "; ".join([*parts, time])

    def elapsed_s(self) -> float:
        """Since the display began."""
        return monotonic() - self._start

    def left_s(self) -> float | None:
        """Seconds until this phase and the next are over; None while there is no pace to tell it by."""
        trained = self._trained + sum(entry.step / entry.steps for entry in self.running.values() if entry.steps)
        if self._began is None or trained < SETTLED:
            return None
        usual = sum(self._spent) / len(self._spent) if self._spent else self.epochs
        left = sum(max(0.0, entry.epochs - entry.epoch - entry.step / max(1, entry.steps)) for entry in self.running.values())
        left += max(0, self.total - sum(self.ended.values()) - len(self.running)) * usual
        if self.phase == "search":
            left += FINALISTS * self.seeds * self.epochs
        return left * (monotonic() - self._began) / trained if left else None

    def _hear_sweep(self, event: Mapping[str, Any]) -> str:
        self.total, self.seeds, self.epochs = event["trials"], event["seeds"], event["epochs"]
        for row in event["rows"]:
            if row.state in STATES:
                self.ended[row.state] += 1
                self._spent.append(max(row.epochs, default=0))
            if row.state == "complete":
                self._better(row.value, f"trial {row.number}")
        known = f", {len(event['rows'])} of them begun before" if event["rows"] else ""
        others = event["others"]
        joined = f"; {others} other process{'es are' if others > 1 else ' is'} at it" if others else ""
        return f"sweep {event['folder']}: {event['trials']} trials{known}{joined}"

    def _hear_phase(self, event: Mapping[str, Any]) -> str:
        self.phase, self.total = event["phase"], event["total"]
        self._began, self._trained = None, 0
        if event["phase"] == "search":
            return ""
        self.ended, self._spent, self.running = dict.fromkeys(STATES, 0), [], {}
        return f"the best trials once more, with {self.seeds} new seeds each: {event['total']} runs"

    def _hear_trial(self, event: Mapping[str, Any]) -> None:
        name = f"trial {event['number']}" if "values" in event else f"trial {event['of']} seed {event['seed']}"
        self.running[event["number"]] = Entry(name, drawn_text(event.get("values", {})), epochs=self.epochs)
        self.waiting = 0

    def _hear_start(self, event: Mapping[str, Any]) -> None:
        if entry := self.running.get(event["trial"]):
            entry.epoch, entry.epochs, entry.steps = event["done_epochs"], event["epochs"], event["steps"]

    def _hear_step(self, event: Mapping[str, Any]) -> None:
        if entry := self.running.get(event["trial"]):
            entry.step, entry.steps, entry.loss = event["step"], event["steps"], event["loss"]

    def _hear_epoch(self, event: Mapping[str, Any]) -> None:
        if entry := self.running.get(event["trial"]):
            entry.epoch, entry.step, entry.best = event["epoch"], 0, event["best"]
            entry.course.append(event["val"][event["metric"]])
            self._trained += 1

    def _hear_lane(self, event: Mapping[str, Any]) -> None:
        self._began = self._began or monotonic()

    def _hear_pass(self, event: Mapping[str, Any]) -> None:
        old = self.samples_per_s or event["samples_per_s"]
        self.samples_per_s = 0.9 * old + 0.1 * event["samples_per_s"]

    def _hear_waiting(self, event: Mapping[str, Any]) -> str:
        new, self.waiting = not self.waiting, event["others"]
        return f"nothing left to begin: waiting for {self.waiting} that other processes train" if new else ""

    def _hear_note(self, event: Mapping[str, Any]) -> str:
        if event["message"] in self._notes:  # what one trial says, its like say too
            return ""
        self._notes.add(event["message"])
        return event["message"]

    def _hear_ended(self, event: Mapping[str, Any]) -> str:
        entry = self.running.pop(event["number"], None)
        self.ended[event["state"]] += 1
        name = entry.name if entry else f"trial {event['number']}"
        epochs = entry.epoch if entry else 0
        self._spent.append(epochs)
        if event["state"] == "failed":
            return f"{name} failed: {event['error']}"
        value = event["value"] if event["value"] is not None else entry.best if entry else None
        better = event["state"] == "complete" and self.phase == "search" and self._better(value, name)
        star = ", the best so far" if better else ""
        reached = "" if value is None else f", validation AUC {value:.4f}{star}"
        return f"{name} {STATES[event['state']]} after {epochs} of {self.epochs} epochs{reached}" + (
            f": {entry.about}" if entry and entry.about else ""
        )

    def _better(self, value: float | None, name: str) -> bool:
        if value is None or (self.best is not None and value <= self.best[0]):
            return False
        self.best = value, name
        return True


def drawn_text(values: Mapping[str, Any]) -> str:
    """What a trial drew, briefly: the last part of each key, numbers of three digits."""
    lasts = [_short(key) for key in values]
    names = [last if lasts.count(last) == 1 else key for key, last in zip(values, lasts, strict=True)]
    return " ".join(f"{name}={_brief(value)}" for name, value in zip(names, values.values(), strict=True))


def sparkline(values: list[float], *, width: int) -> str:
    """The course of some numbers in block characters, the newest `width` of them."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    return "".join(BARS[round((value - low) / (high - low) * 7) if high > low else 3] for value in shown)


def _short(key: str) -> str:
    return "adapter" if key == "adapter.name" else key.rsplit(".", 1)[-1]


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)
