"""What `test_ranks` asks two processes at once: `torchrun two_ranks.py STORE RUNS OUT`. Writes OUT/RANK.json; what `d2st train` said
lies in OUT/RANK.out and OUT/RANK.err."""

import json
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import torch

from d2st.adapter.train import exchange, ranks, run_training, step
from d2st.cache import Store
from d2st.cache.errors import ConfigError, RunError
from d2st.cli import main

torch.set_num_threads(1)
STORE, RUNS, OUT = (Path(argument) for argument in sys.argv[1:4])
OVERRIDES = json.loads(os.environ["OVERRIDES"])
said = {}


def caught(name, call):
    """Note what `call` ends with."""
    try:
        call()
        said[name] = "nothing"
    except (RunError, ConfigError, SystemExit, KeyboardInterrupt) as error:
        said[name] = f"{type(error).__name__}: {error}"
    (OUT / f"{me.rank}.json").write_text(json.dumps(said))


def train(name, **options):
    return run_training(Store.open(STORE), stages=[1], runs=RUNS, name=name, overrides=OVERRIDES, device="cpu", **options)


def at_step(number, action):
    """Do something on the second rank alone, in the midst of one step."""
    real, steps = step._clips, iter(range(1000))

    def clips(*args, **options):
        made = real(*args, **options)
        if next(steps) == number and me.rank == 1:
            action(made)
        return made

    step._clips = clips
    return lambda: setattr(step, "_clips", real)


def collectives():
    """Sums and gathered rows, and their gradient, against one process."""
    whole = torch.arange(15.0).view(5, 3).requires_grad_()
    own = whole.detach()[ranks.own_part(me, 5)].requires_grad_()
    gathered = exchange.gather_rows(me, own, 5)
    assert torch.equal(gathered, whole)
    (whole.square().sum(1) ** 2).mean().backward()
    ((gathered.square().sum(1) ** 2).mean() / me.size).backward()
    total = torch.zeros(5, 3)
    total[ranks.own_part(me, 5)] = own.grad
    half = torch.full((2,), float(me.rank + 1), dtype=torch.bfloat16)
    exchange.sum_over(me, [total, half])
    assert torch.allclose(total, whole.grad)
    assert half.tolist() == [3.0, 3.0]
    # one rank's clips used the first parameter, the other's the second; none used the third
    trained = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    trained[me.rank].grad = torch.full((2,), me.rank + 1.0)
    loss = torch.tensor(0.5)
    exchange.sum_gradients(me, trained, [loss])
    assert (trained[0].grad.tolist(), trained[1].grad.tolist(), trained[2].grad) == ([1.0, 1.0], [2.0, 2.0], None)
    assert loss == 1.0
    assert exchange.any_of(me, flag=me.rank == 1)
    assert not exchange.any_of(me, flag=False)
    assert exchange.everyone(me, me.rank) == [0, 1]
    assert exchange.from_first(me, f"from {me.rank}") == "from 0"
    layer = torch.nn.Linear(2, 2)
    layer.weight.data.fill_(float(me.rank))
    exchange.same_weights(me, layer)
    assert not layer.weight.any()


@contextmanager
def written_down():
    """What this process prints goes into its two files."""
    kept = {number: os.dup(number) for number in (1, 2)}
    for number, ending in ((1, "out"), (2, "err")):
        with (OUT / f"{me.rank}.{ending}").open("wb") as file:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in kept.items():
            os.dup2(old, number)
            os.close(old)


def command(name, *words):
    sys.argv = ["d2st", "train", "--cache", str(STORE), "--runs", str(RUNS), "--name", name, *words]
    main()


def one_fails():
    with exchange.alike(me):
        if me.rank == 1:
            raise ConfigError("only here", fix="Mend it")


with ranks.joined() as me:
    collectives()
    with written_down():
        words = [word for item in OVERRIDES for word in ("--set", item)]
        caught("two", lambda: command("two", "--stage", "all", "--device", "cpu", *words))
    caught("wrong", lambda: command("wrong", "--set", "optim.lrr=3"))
    caught("one fails", one_fails)
    restore = at_step(4, lambda clips: os.kill(os.getpid(), signal.SIGINT))
    caught("interrupt", lambda: train("stopped"))
    restore()
    restore = at_step(2, lambda clips: clips.tokens["block_1"].fill_(float("nan")))
    caught("nan", lambda: train("nan"))
    restore()
    # the last: one of them ends without a word to the other, nor to torchrun, which would end the other too
    at_step(2, lambda clips: os._exit(0))
    caught("death", lambda: train("death"))
    os._exit(0)
