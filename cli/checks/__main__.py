"""Runs one group of checks and prints a line of JSON for each, at once."""

import json
import sys
from dataclasses import asdict
from importlib import import_module

from d2st.cli.checks import MARK

if __name__ == "__main__":
    for check in import_module(f"d2st.cli.checks.{sys.argv[1]}").checks():
        print(MARK + json.dumps(asdict(check)), flush=True)
