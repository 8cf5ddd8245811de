"""The known trackers. Their packages are extras: each is imported only when asked for, and then before any work starts."""

from collections.abc import Callable, Sequence
from importlib import import_module

from d2st.adapter.train.track.protocol import Stage, Tracker
from d2st.cache.errors import ConfigError, UnknownNameError

__all__ = ["find_opener", "refuse_missing", "tracker_names"]

# name, which is also the extra's and the module's -> what its package must offer
_NEEDS = {
    "tensorboard": ("torch.utils.tensorboard", "SummaryWriter"),
    "wandb": ("wandb", "init"),  # not the bare name: a folder wandb/ in the working directory imports as an empty package
    "mlflow": ("mlflow", "MlflowClient"),
}


def tracker_names() -> list[str]:
    """The known trackers."""
    return list(_NEEDS)


def refuse_missing(names: Sequence[str]) -> None:
    """Raise UnknownNameError for an unknown tracker, ConfigError for one whose package can't be imported."""
    for name in names:
        if name not in _NEEDS:
            raise UnknownNameError("tracker", name, tracker_names())
    for name in names:
        module, item = _NEEDS[name]
        try:
            getattr(import_module(module), item)
        except Exception as error:  # a broken installation may raise anything
            raise ConfigError(
                f"tracker {name!r} can't be imported: {error or type(error).__name__}", fix=f"pip install 'd2st[{name}]'"
            ) from error


def find_opener(name: str) -> Callable[[Stage], Tracker]:
    """`open_tracker` of a known tracker."""
    return import_module(f"d2st.adapter.train.track.{name}").open_tracker
