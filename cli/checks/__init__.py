"""What `d2st doctor` looks at, in groups. Each group runs in a process of its own: `python -P -m d2st.cli.checks GROUP`.

A broken wheel or driver can end a process or hang it, and then the doctor must still speak: so a group yields a line as soon as it
knows one, and the parent reports what a dead child did not get to.
"""

from d2st.cli.checks.check import Check

__all__ = ["GROUPS", "MARK", "Check"]

GROUPS = ("system", "packages", "compute", "media", "store")  # a module each, with `checks()`
MARK = "d2st-check "  # tells the results from what libraries print
