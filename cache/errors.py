"""Every error that d2st raises on purpose.

    D2stError                 says what is wrong, where, and how to mend it; the CLI prints it and exits with 1
    ├── ConfigError           (ValueError)         a recipe, an option or a combination of them makes no sense
    │   └── UsageError                             an option is wrong whatever the files hold; the CLI exits with 2
    ├── UnknownNameError      (KeyError)           a registry has no such name; lists the known ones; the CLI exits with 2
    ├── ManifestError         (ValueError)         a manifest breaks its schema or a rule such as the leakage guard
    ├── MediaError            (OSError)            one media file can't be used; carries a reason code
    ├── StoreError            (OSError)            a cache store is missing, damaged, busy or full
    │   └── FingerprintError  (ValueError)         a store was built with another config; names the field
    ├── WeightsError          (OSError)            weights can't be found, or are not what they claim to be
    └── RunError              (OSError)            a run directory or checkpoint can't be used

It lives in `cache` because that is the one room which every other room may import.
"""

import re

__all__ = [
    "ConfigError",
    "D2stError",
    "FingerprintError",
    "ManifestError",
    "MediaError",
    "RunError",
    "StoreError",
    "UnknownNameError",
    "UsageError",
    "WeightsError",
]

_ESCAPED = re.compile("[\udc80-\udcff]")  # what Python makes of such bytes


class D2stError(Exception):
    """What is wrong and where (`message`), and how to mend it (`fix`, one imperative sentence or "").

    Bytes of a file's name that are no text stand in the message as \\xff, so that it can be printed and stored anywhere.
    """

    def __init__(self, message: str, *, fix: str = "") -> None:
        message = _ESCAPED.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", message)
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}" if self.fix else self.message


class ConfigError(D2stError, ValueError):
    """A recipe, an option or a combination of them makes no sense."""


class UsageError(ConfigError):
    """An option or a combination of options is wrong whatever the files hold."""


class UnknownNameError(D2stError, KeyError):
    """A registry has no such name."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        super().__init__(f"there is no {kind} named {name!r}", fix=f"Known: {', '.join(sorted(known))}")

    __str__ = D2stError.__str__  # KeyError would print the repr


class ManifestError(D2stError, ValueError):
    """A manifest breaks its schema or one of its rules."""


class MediaError(D2stError, OSError):
    """One media file can't be used. `reason` is a code of `d2st.pipeline.reasons`."""

    def __init__(self, reason: str, message: str, *, fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.reason = reason

    __str__ = D2stError.__str__


class StoreError(D2stError, OSError):
    """A cache store is missing, damaged, busy or full."""

    __str__ = D2stError.__str__


class FingerprintError(StoreError, ValueError):
    """A store was built with another configuration. `fields` names what differs."""

    def __init__(self, message: str, *, fields: list[str], fix: str = "") -> None:
        super().__init__(message, fix=fix)
        self.fields = fields


class WeightsError(D2stError, OSError):
    """Weights can't be found, or are not what they claim to be."""

    __str__ = D2stError.__str__


class RunError(D2stError, OSError):
    """A run directory or a checkpoint can't be used."""

    __str__ = D2stError.__str__
