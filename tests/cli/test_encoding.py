"""A terminal or pipe that is not UTF-8, and file names that are not: a command says what it has found, and JSON stays JSON."""

import io
import json
import sys

import pytest

from d2st import cli
from d2st.cli import app
from d2st.cli.show import print_json, stdout


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "0.21?0.18 f?"), ("utf-8", "0.21\u21920.18 f\u00f6")])
def test_what_the_encoding_lacks_ends_no_command(monkeypatch, encoding, shown):
    raw = io.BytesIO()

    def command(**_):
        stdout().print("0.21\u21920.18 f\u00f6")
        print_json({"path": "f\u00f6 \udcff"})

    monkeypatch.setattr(app, "app", command)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    cli.main()
    sys.stdout.flush()
    text, document = raw.getvalue().decode(encoding).split("\n", 1)
    assert text == shown
    assert json.loads(document) == {"path": "f\u00f6 \udcff"}
