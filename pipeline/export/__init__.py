"""A lake for other tools: replayed to experiment trackers, or as a dataset of the Hub."""

from pipeline.export.dataset import prepare_dataset, upload_dataset
from pipeline.export.trackers import TRACKER_VIEW_COMMANDS, replay_runs

__all__ = ["TRACKER_VIEW_COMMANDS", "prepare_dataset", "replay_runs", "upload_dataset"]
