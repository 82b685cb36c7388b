"""What `shapelake status` says: per model what is committed, what failed, what stands quarantined."""

from datetime import UTC, datetime
from typing import Any

from pipeline.lake.lake import Lake


def status(lake: Lake) -> dict[str, Any]:
    return {}
