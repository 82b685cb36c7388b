"""A lake for other tools: replayed to experiment trackers, or as a dataset of the Hub."""

from pipeline.export.dataset import prepare, upload
from pipeline.export.trackers import TRACKERS, replay

__all__ = ["TRACKERS", "prepare", "replay", "upload"]
