"""What a level of the cache was built with, as canonical JSON of declared values, and its digest.

Only values that change the stored bytes belong here: never paths, times, host names, worker counts or pickles, so that moving a store
or building it on another machine changes nothing, and any real change is refused by name.
"""

import hashlib
import json
from typing import Any

from d2st.cache.errors import FingerprintError

__all__ = ["canonical_json", "check_same", "differing_fields", "fingerprint"]


def canonical_json(config: dict[str, Any]) -> str:
    """Sorted keys, no spaces, no NaN: equal configs give equal text."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(config: dict[str, Any]) -> str:
    """blake2b-128 of the canonical JSON, 32 hex digits."""
    return hashlib.blake2b(canonical_json(config).encode(), digest_size=16).hexdigest()


def differing_fields(stored: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields whose values differ, or that only one side has."""
    names = []
    for key in sorted(stored.keys() | wanted.keys()):
        left, right = stored.get(key), wanted.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names += differing_fields(left, right, f"{prefix}{key}.")
        elif left != right or (key in stored) != (key in wanted):
            names.append(prefix + key)
    return names


def check_same(stored: dict[str, Any], wanted: dict[str, Any], *, where: str, fix: str) -> None:
    """Raise FingerprintError, naming each differing field with both values, unless the two configs are equal."""
    # both through JSON, so that a tuple equals a list
    stored, wanted = json.loads(canonical_json(stored)), json.loads(canonical_json(wanted))
    fields = differing_fields(stored, wanted)
    if fields:
        shown = "; ".join(f"{name} is {_at(stored, name)!r} there, {_at(wanted, name)!r} here" for name in fields[:5])
        raise FingerprintError(f"{where} was built with another configuration: {shown}", fields=fields, fix=fix)


def _at(config: dict[str, Any], dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = value.get(key, "absent") if isinstance(value, dict) else "absent"
    return value
