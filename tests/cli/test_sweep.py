"""`d2st sweep` from the command line: what it shows while it runs, at the end, and when it is stopped. The search itself is played."""

import json
from types import SimpleNamespace

import pytest

from d2st.adapter.sweep import run
from d2st.cli import sweep as command
from d2st.cli.sweep_board import Board, drawn_text, sparkline

OUTCOME = {
    "sweep": "first",
    "folder": "runs/first",
    "winner": 7,
    "metric": "video_auc",
    "trials": {"complete": 5, "pruned": 10, "failed": 1},
    "finalists": [
        {"trial": 7, "drawn": {"optim.lr": 0.00312}, "first": 0.91, "values": {"1": 0.88, "2": 0.9}, "mean": 0.89, "sd": 0.014},
        {"trial": 2, "drawn": {"optim.lr": 0.001}, "first": 0.90, "values": {"1": 0.87, "2": None}, "mean": 0.87, "sd": None},
    ],
    "noise": {
        "lead": 0.02,
        "interval": [-0.03, 0.07],
        "chance": 0.21,
        "is_noise": True,
        "seed_sd": 0.01,
        "video_sd": 0.02,
        "seeds": 2,
        "videos": 60,
        "runner_up": 2,
    },
    "overstated": {"7": 0.02},
    "importances": {"optim.lr": 1.0},
}


@pytest.fixture
def d2st(monkeypatch, tmp_path):
    monkeypatch.setattr("d2st.cache.store.Store.open", lambda path, tokens: SimpleNamespace(path=path))

    def call(*, ends=lambda options: OUTCOME, **options):
        monkeypatch.setattr(run, "run_sweep", lambda store, space, **given: ends(given))
        return command.sweep(tmp_path / "space.toml", tmp_path / "faces.d2st", **options)

    return call


def test_the_end_names_the_winner_its_noise_and_the_next_command(d2st, tmp_path, capsys):
    d2st()
    said = capsys.readouterr().out
    assert "5 finished, 10 pruned, 1 failed" in said
    assert "0.8900 ± 0.0140" in said
    assert "0.870 failed" in said
    assert "no more than noise" in said
    assert "the first score was 0.0200 too high" in said
    assert f"next: d2st train --cache {tmp_path / 'faces.d2st'} --recipe runs/first/best.toml" in said


def test_the_next_command_trains_on_what_was_swept(d2st, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("d2st.pipeline.manifest.read_manifest", lambda path: None)
    d2st(tokens="l14", manifest=tmp_path / "all.parquet", as_json=True)
    chosen = f"--cache {tmp_path / 'faces.d2st'} --tokens l14 --manifest {tmp_path / 'all.parquet'}"
    assert json.loads(capsys.readouterr().out)["next"] == f"d2st train {chosen} --recipe runs/first/best.toml"


def test_json_is_one_document(d2st, capsys):
    d2st(as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["winner"] == 7
    assert document["recipe"] == "runs/first/best.toml"


def test_ctrl_c_says_how_to_go_on(d2st, tmp_path, capsys):
    def stopped(options):
        options["on_event"](started(rows=[], others=0))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        d2st(ends=stopped, init="runs/faces/stage1", in_memory=True)
    said = capsys.readouterr().err
    assert (
        f"d2st sweep {tmp_path / 'space.toml'} --cache {tmp_path / 'faces.d2st'} --init runs/faces/stage1 --in-memory" in said
    )
    assert said.rstrip().endswith("--runs runs --name first")


def started(**others):
    return {"event": "sweep", "name": "first", "folder": "runs/first", "trials": 4, "seeds": 2, "epochs": 3, **others}


def test_a_board_follows_the_trials(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("d2st.cli.sweep_board.monotonic", lambda: next(clock))
    board = Board()
    before = SimpleNamespace(number=0, state="complete", value=0.8, epochs={1: 0.7, 2: 0.8, 3: 0.8})
    assert (
        board.hear(started(rows=[before], others=1))
        == "sweep runs/first: 4 trials, 1 of them begun before; 1 other process is at it"
    )
    board.hear({"event": "phase", "phase": "search", "total": 4})
    for number in (1, 2):
        board.hear({"event": "trial", "number": number, "values": {"optim.lr": 0.1}, "resumed": False})
        board.hear({"event": "start", "trial": number, "done_epochs": 0, "epochs": 3, "steps": 5})
    assert board.left_s() is None
    board.hear({"event": "lane", "epoch": 1, "steps": 5})
    for number in (1, 2):
        board.hear({"event": "step", "trial": number, "step": 2, "steps": 5, "loss": 0.6})
    assert board.left_s() > 0  # though no pass has been told yet: 2 of 5 steps took 10 s by this clock
    board.hear({"event": "pass", "samples_per_s": 100.0})
    for number, value in ((1, 0.7), (2, 0.6)):
        record = {"epoch": 1, "best": value, "metric": "video_auc", "val": {"video_auc": value}}
        board.hear({"event": "epoch", "trial": number, **record})
    assert board.left_s() > 0
    assert board.counts() == "search: 1 finished, 2 running of 4"
    assert board.hear({"event": "ended", "number": 2, "state": "pruned", "value": None, "error": ""}) == (
        "trial 2 pruned after 1 of 3 epochs, validation AUC 0.6000: lr=0.1"
    )
    said = board.hear({"event": "ended", "number": 1, "state": "complete", "value": 0.9, "error": ""})
    assert "0.9000, the best so far" in said
    assert (
        board.hear({"event": "ended", "number": 3, "state": "failed", "value": None, "error": "NaN"}) == "trial 3 failed: NaN"
    )
    assert board.counts() == "search: 2 finished, 1 pruned, 1 failed, 0 running of 4"
    assert board.pace().startswith("best 0.9000 (trial 1); 100 samples/s; ")


def test_what_many_trials_say_alike_is_said_once():
    board = Board()
    note = {"event": "note", "message": "no parameter with 'spatial'"}
    assert [board.hear({**note, "trial": number}) for number in range(3)] == [note["message"], "", ""]
    assert board.hear({"event": "something new"}) == ""


def test_draws_are_brief_and_told_apart():
    values = {"adapter.name": "d2st", "optim.lr": 0.0031234, "adapter.layers": ["block_1", "block_5"], "loss.gamma": 2.0}
    assert drawn_text(values) == "adapter=d2st lr=0.00312 layers=block_1+block_5 gamma=2"
    assert drawn_text({"a.x": 1, "b.x": 2}) == "a.x=1 b.x=2"


def test_a_sparkline_spans_its_range():
    assert sparkline([0.1, 0.2, 0.3, 0.8], width=3) == "▁▂█"
    assert sparkline([0.5, 0.5], width=3) == "▄▄"
    assert sparkline([], width=3) == ""


def test_a_terminal_gets_a_table_that_fits(monkeypatch):
    import io

    from rich.console import Console

    from d2st.cli import sweep_display

    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=80, height=12, color_system=None)
    monkeypatch.setattr(sweep_display, "stderr", lambda: console)
    with sweep_display.show_sweep() as show:
        show(started(rows=[], others=0))
        show({"event": "phase", "phase": "search", "total": 9})
        for number in range(9):
            show({"event": "trial", "number": number, "values": {"optim.lr": 0.1, "adapter.name": "x" * 90}, "resumed": False})
            record = {"epoch": 1, "best": 0.7, "metric": "auc", "val": {"auc": 0.7}}
            show({"event": "epoch", "trial": number, **record})
        show({"event": "ended", "number": 3, "state": "pruned", "value": None, "error": ""})
        show({"event": "ended", "number": 4, "state": "failed", "value": None, "error": "a loss is not finite"})
        console.print(sweep_display._picture(_board_of(8), console))
    lines = shown.getvalue().replace("\r", "\n").splitlines()
    assert any("trial 4 failed: a loss is not finite" in line for line in lines)
    assert not any("pruned after" in line for line in lines)  # the table shows that
    assert any(line.startswith(" +4") for line in lines)
    assert max(len(line) for line in lines if "\x1b" not in line) <= 80


def _board_of(count):
    board = Board()
    for number in range(count):
        board.hear({"event": "trial", "number": number, "values": {"optim.lr": 0.1}, "resumed": False})
    return board
