"""The command line: one thin file a command; heavy imports stay inside the functions, so that `d2st --help` is instant."""

import io
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the `d2st` command. Exit codes: 0 done, 1 a clear error (`D2stError`), 2 wrong usage or an unknown name, 130 interrupted."""
    # read when torch loads: waiting threads sleep instead of spinning, 1.6 times faster where cores are shared and no slower elsewhere
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from d2st.cache.errors import D2stError, UnknownNameError, UsageError
    from d2st.cli.app import app
    from d2st.cli.show import print_error

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an arrow or a file's name must not end a command that has done its work
            stream.reconfigure(errors="backslashreplace" if "utf" in stream.encoding.lower() else "replace")
    try:
        app(prog_name="d2st")
    except D2stError as error:
        print_error(error)
        sys.exit(2 if isinstance(error, UsageError | UnknownNameError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
