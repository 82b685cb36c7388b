"""Export of a lake to experiment trackers, or to a dataset on the Hugging Face Hub."""

from pipeline.export.dataset import prepare_dataset, upload_dataset
from pipeline.export.tracker_runs import TRACKER_VIEW_COMMANDS, replay_runs

__all__ = ["TRACKER_VIEW_COMMANDS", "prepare_dataset", "replay_runs", "upload_dataset"]
