"""Experiment trackers: the trainer's events as curves in TensorBoard, Weights & Biases or MLflow.

They are consumers of the trainer's events and nothing else, each in a thread of its own, so that a slow network or a full disk costs a
curve and never an hour of training. A new tracker is one file with `open_tracker`, and one line in `registry`.
"""

from d2st.adapter.train.track.events import tracked
from d2st.adapter.train.track.protocol import Outcome, Point, Stage, Tracker
from d2st.adapter.train.track.registry import refuse_missing, tracker_names

__all__ = ["Outcome", "Point", "Stage", "Tracker", "refuse_missing", "tracked", "tracker_names"]
