"""Weights & Biases: one W&B run a stage, the stages of a run as one group.

It works offline: without a key (WANDB_API_KEY, or what `wandb login` left in the netrc file) and without WANDB_MODE, everything stays in
the stage's folder until `wandb sync`. WANDB_PROJECT and WANDB_ENTITY choose another place than the project "d2st"
(docs.wandb.ai/models/ref/python/functions/init).
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from d2st.adapter.train.track.memory import Memory
from d2st.adapter.train.track.protocol import Outcome, Point, Stage

if TYPE_CHECKING:
    from wandb import Run

__all__ = ["open_tracker"]

INIT_TIMEOUT_S = 30.0  # a server that does not answer by then is given up; training goes on meanwhile
SERVER = "https://api.wandb.ai"


def open_tracker(stage: Stage) -> "_Wandb":
    """A new W&B run, or the one that this stage had before it was stopped."""
    import wandb

    memory = Memory(stage.folder / "wandb.json")
    if memory.id is None:
        memory.keep_id(uuid.uuid4().hex[:12])
    offline = not os.environ.get("WANDB_MODE") and not _has_key()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "d2st",
        id=memory.id,
        resume=None if offline else "allow",  # offline it is the id alone that joins the parts
        name=f"{stage.run}-stage{stage.number}",
        group=stage.run,
        job_type=f"stage{stage.number}",
        dir=str(stage.folder),
        config=dict(stage.settings),
        mode="offline" if offline else None,
        settings=wandb.Settings(
            console="off",  # the terminal is ours
            silent=True,
            init_timeout=INIT_TIMEOUT_S,
            disable_git=True,
            disable_code=True,
        ),
    )
    folder = stage.folder.as_posix()
    return _Wandb(run, memory, view=f"wandb sync {folder}/wandb/offline-run-*" if run.offline else run.url)


class _Wandb:
    def __init__(self, run: "Run", memory: Memory, *, view: str) -> None:
        self.view = view
        self._run, self._memory = run, memory

    def log(self, points: Sequence[Point]) -> None:
        for point in self._memory.new(points):
            self._run.log(dict(point.values), step=point.step)

    def close(self, outcome: Outcome, result: Mapping[str, Any]) -> None:
        for name, value in result.items():
            self._run.summary[f"result/{name}"] = value
        self._run.finish(exit_code=0 if outcome == "finished" else 1)


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    from requests.utils import get_netrc_auth  # a dependency of wandb

    return get_netrc_auth(os.environ.get("WANDB_BASE_URL") or SERVER) is not None
