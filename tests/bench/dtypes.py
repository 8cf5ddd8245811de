"""What each way of storing token maps costs and keeps, by hand:

    python tests/bench/dtypes.py STORE [--run RUN] [--train NAME,NAME --seeds 0,1,2]

STORE is a float16 store, such as the demo's. All of its maps are encoded and decoded by each candidate:

    bytes       a frame and layer, against float16
    error       relative RMS error, in per cent; 1 - cosine to the original, mean and worst token
    seen        RMS error of the maps as the network sees them, whitened (`WhitenedLinear`), in per cent of their deviation there
    weak        the same in the tenth of the directions that holds the least variance: at 100 the noise is as large as the signal
    GB/s        of float16 maps, encoding float32 and decoding to float32, on this CPU's threads

then the same on synthetic float32 maps with the outliers of large trained ViTs. With --run, the stages of a run that was trained on STORE
score the test split from maps stored so. With --train, stages 1 and 2 are trained and tested on maps stored so, as in `d2st demo`, one seed
after another: a single training's AUC moves by 0.02 with anything, hence the mean difference to float16 over seeds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from dtype_codes import CODES, Code, Facts, through
from torch import Tensor

from d2st.adapter.evaluate.score import score_samples
from d2st.adapter.evaluate.summary import summarise
from d2st.adapter.nets.conditioning import whitening_matrix
from d2st.adapter.train import load_detector, run_training
from d2st.cache import Batch, Request, Store, TokenLoader
from d2st.cli.demo import OVERRIDES

FIT_FRAMES = 256  # as many as the encoder calibrates int8 by


class Memory:
    """A whole store in memory behind the interface of `TokenLoader`: layer -> (rows,H,W,C), and (rows,C) for CLS."""

    def __init__(self, maps: dict[str, Tensor], cls: dict[str, Tensor]) -> None:
        self.maps, self.cls = maps, cls

    @classmethod
    def read(cls, store: Store, frames: np.ndarray) -> "Memory":
        parts = np.array_split(frames, -(-len(frames) // 64))
        maps, tokens = {}, {}
        for batch in TokenLoader(store).stream(Request(part[:, None], part) for part in parts):
            for target, values in ((maps, batch.tokens), (tokens, batch.cls)):
                for layer, found in values.items():
                    if layer not in target:
                        target[layer] = torch.zeros((int(frames.max()) + 1, *found.shape[2:]))
                    target[layer][torch.from_numpy(batch.tag)] = found[:, 0].float()
        return cls(maps, tokens)

    def stored_as(self, codes: dict[str, Code]) -> "Memory":
        return Memory({layer: through(codes[layer], maps) for layer, maps in self.maps.items()}, self.cls)

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        for request in requests:
            rows, mask = torch.from_numpy(np.maximum(request.rows, 0)), torch.from_numpy(request.rows >= 0)
            maps = {layer: values[rows] * mask[..., None, None, None] for layer, values in self.maps.items()}
            yield Batch(maps, {layer: values[rows] * mask[..., None] for layer, values in self.cls.items()}, mask, request.tag)

    def close(self) -> None:
        """There are no files to close."""


def errors(maps: Tensor, facts: Facts, name: str) -> list[float]:
    """The columns of the table but the first, for float32 maps (n,H,W,C)."""
    code, weak = CODES[name](facts), facts.directions[:, : max(1, len(facts.mean) // 10)].float()
    white = whitening_matrix((facts.directions * facts.variances) @ facts.directions.T).float()
    sums, count, worst = torch.zeros(7, dtype=torch.float64), 0, 0.0
    for part in maps.split(64):
        x, difference = part.flatten(0, -2), (through(code, part) - part).flatten(0, -2)
        lost = 1 - torch.cosine_similarity(x.double(), x.double() + difference, dim=-1)
        z, d = (x - facts.mean) / facts.std, difference / facts.std
        pairs = [difference, x, d @ white, z @ white, d @ weak, z @ weak]
        sums += torch.stack([*(value.double().square().sum() for value in pairs), lost.sum()])
        count, worst = count + len(x), max(worst, lost.max().item())
    parts, pieces, out = code.encode(maps[:64]), maps[:64], torch.empty_like(maps[:64])
    size = sum(part.nbytes for part in parts) / len(pieces)
    speeds = [pieces.numel() * 2e-9 / quickest(run) for run in (lambda: code.encode(pieces), lambda: code.decode(parts, out))]
    error, seen, faint = (100 * (sums[i] / sums[i + 1]).sqrt().item() for i in (0, 2, 4))
    return [size, error, sums[6].item() / count, worst, seen, faint, *speeds]


def quickest(run: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def outlier_maps(frames: int = 64, channels: int = 768) -> Tensor:
    """Correlated channels whose variances fall as k^-1.5, six outlier channels 50 times as large as the others, in mean and deviation, and
    one token in a hundred whose outlier channels are 20 times larger still (massive activations: Sun et al., 2024)."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(channels, channels, generator=rng)).Q
    values = torch.randn(frames, 14, 14, channels, generator=rng) * torch.arange(1, channels + 1) ** -0.75 @ basis
    gain = torch.randn(channels, generator=rng).mul(0.5).exp()
    gain[:6] = 50
    maps = (values / values.std(dim=(0, 1, 2)) + torch.randn(channels, generator=rng)) * gain
    massive = torch.rand(frames, 14, 14, generator=rng) < 0.01
    maps[..., :6] *= torch.where(massive, 20.0, 1.0).unsqueeze(-1)
    return maps


def score_split(source: Memory, store: Store, stage: Path, split: str) -> tuple[np.ndarray, float, list[float]]:
    """Logits of a split, AUC over its videos and images, and the AUC's 95 % interval."""
    network, meta = load_detector(stage)
    kept = Memory({layer: source.maps[layer] for layer in meta["layers"]}, source.cls)
    samples = store.samples().filter(split=split)
    predictions = score_samples(network, kept, samples, clip_frames=meta["clip_frames"])
    level = summarise(predictions, clip_frames=meta["clip_frames"])["overall"]["video"]
    return predictions["logit"].to_numpy(), level["auc"], level["intervals"]["auc"]


def transfer(memory: Memory, store: Store, run: Path, facts: dict[str, Facts], names: list[str]) -> None:
    cases = [(stage, split) for stage in sorted(run.glob("stage*")) for split in ("val", "test")]
    before = {case: score_split(memory, store, *case) for case in cases}
    for (stage, split), (logits, auc, (low, high)) in before.items():
        print(f"{stage.name} {split}: AUC {auc:.4f} ({low:.3f}-{high:.3f}), deviation of its logits {logits.std():.2f}")
    for name in names:
        source = memory.stored_as({layer: CODES[name](found) for layer, found in facts.items()})
        cells = []
        for case in cases:
            logits, auc, _ = score_split(source, store, *case)
            moved = np.std(logits - before[case][0])
            cells.append(f"{case[0].name} {case[1]} {auc - before[case][1]:+.4f} (logits {moved:.3f})")
        print(f"{name:14}", "  ".join(cells), flush=True)


def retrain(memory: Memory, store: Store, facts: dict[str, Facts], names: list[str], seeds: list[int]) -> None:
    """Trains float16 and the codes seed by seed, and prints each AUC; then the mean differences and their standard errors."""
    found: dict[tuple[str, str], list[float]] = {}
    names = ["float16", *(name for name in names if name != "float16")]
    for seed in seeds:
        for name in names:
            source = memory.stored_as({layer: CODES[name](fact) for layer, fact in facts.items()})

            def loader(_: Store, layers: list[str], source: Memory = source, **options: object) -> Memory:
                return Memory({layer: source.maps[layer] for layer in layers}, source.cls)

            with tempfile.TemporaryDirectory() as runs, patch("d2st.adapter.train.prepare.TokenLoader", loader):
                options = {"stages": (1, 2), "runs": Path(runs), "name": name, "seed": seed, "device": "cpu"}
                for result in run_training(store, overrides=[o for o in OVERRIDES if "stage3" not in o], **options):
                    test = score_split(source, store, result.best.parent, "test")[1]
                    for split, auc in (("val", result.value), ("test", test)):
                        found.setdefault((f"stage {result.stage} {split}", name), []).append(auc)
            print(f"seed {seed} {name:14}", *(f"{what} {found[what, n][-1]:.4f}" for what, n in found if n == name), flush=True)
    for (what, name), values in found.items():
        change = np.array(values) - found[what, "float16"]
        spread = change.std(ddof=1) / len(change) ** 0.5 if len(seeds) > 1 else float("nan")
        print(f"{what:13} {name:14} {np.mean(values):.4f}  {change.mean():+.4f} +- {spread:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--train", default="", help="names of candidates, with commas")
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    store = Store.open(options.store)
    samples = store.samples().sort("start")
    rows, training = (
        np.concatenate(
            [np.arange(start, start + frames) for start, frames in table.select("start", "frames_cached").iter_rows()]
        )
        for table in (samples, samples.filter(split="train"))
    )
    memory = Memory.read(store, rows)
    fitted = torch.from_numpy(np.random.default_rng(0).choice(training, FIT_FRAMES, replace=False))
    facts = {layer: Facts.of(maps[fitted]) for layer, maps in memory.maps.items()}
    synthetic = outlier_maps()
    measured = {layer: (maps[torch.from_numpy(rows[::7])], facts[layer]) for layer, maps in memory.maps.items()}
    for title, (maps, known) in {**measured, "outlier channels (float32)": (synthetic, Facts.of(synthetic))}.items():
        print(f"\n{title:28} bytes  ratio  error %  1 - cos      worst  seen %   weak %  encode  decode GB/s")
        full = maps[0].nbytes / 2
        for name in CODES:
            size, error, lost, worst, seen, weak, *speeds = errors(maps, known, name)
            print(
                f"{name:24} {size:9.0f} {size / full:6.3f} {error:8.3f} {lost:8.1e} {worst:10.1e} {seen:7.2f} {weak:8.2f}",
                end="",
            )
            print(*(f"{speed:7.2f}" for speed in speeds), flush=True)
    if options.run is not None:
        transfer(memory, store, options.run, facts, list(CODES))
    if options.train:
        retrain(memory, store, facts, options.train.split(","), [int(seed) for seed in options.seeds.split(",")])


if __name__ == "__main__":
    main()
