"""One line of the doctor, and how any check becomes one."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["REINSTALL", "Check", "attempt"]

REINSTALL = "Install it again: pip install --force-reinstall {}"


@dataclass(frozen=True)
class Check:
    """One line. status: "ok", "warning" (works, but slower or with less) or "problem" (d2st can't do its main job)."""

    name: str
    status: str
    detail: str
    fix: str = ""


def attempt(name: str, work: Callable[[], str | Check], *, fix: str, status: str = "problem") -> Check:
    """Run one check; whatever it raises becomes its line."""
    try:
        made = work()
    except Exception as error:  # a broken installation raises anything; the line shows it
        return Check(name, status, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", fix)
    return made if isinstance(made, Check) else Check(name, "ok", made)
