"""Point cloud: the sampled hidden states of one layer with context, token and group ids."""

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pipeline.geometry.device_copies import to_device

RowIds = Int[Tensor, " rows"] | Int[np.ndarray, " rows"]


class PointCloud:
    """Fixed-size buffer of rows for the k-NN graph, in the model's own dtype.

    Points are stored on the device. Context, token and group ids are stored on the host; reading one of these
    properties copies it to the device.

    Args:
        capacity: maximum number of rows.
        dim: width of the layer.
        dtype: dtype of the rows.
    """

    def __init__(self, capacity: int, dim: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self._points = torch.empty(capacity, dim, dtype=dtype, device=device)
        self._labels = torch.zeros(3, capacity, dtype=torch.int64)
        self._fill = 0
        self.has_context_ids = self.has_token_ids = capacity > 0

    def append(
        self,
        rows: Float[Tensor, "rows dim"],
        context: RowIds | None = None,
        token: RowIds | None = None,
        group: RowIds | None = None,
    ) -> None:
        """Append rows with the context id, the token id and the 0-based group of each row.

        `has_context_ids` and `has_token_ids` stay True only if every call gives these ids. Without `group`, the rows
        belong to group 0.

        Raises:
            ValueError: the rows exceed the capacity.
        """
        part = slice(self._fill, self._fill + len(rows))
        if part.stop > len(self._points):
            raise ValueError(f"{part.stop} rows exceed the capacity of the point cloud, {len(self._points)}")
        self._points[part] = rows
        for labels, given in zip(self._labels, (context, token, group), strict=True):
            if given is not None:
                labels[part] = torch.as_tensor(given)
        self.has_context_ids &= context is not None
        self.has_token_ids &= token is not None
        self._fill = part.stop

    def __len__(self) -> int:
        return self._fill

    @property
    def points(self) -> Shaped[Tensor, "points dim"]:
        return self._points[: self._fill]

    @property
    def context_ids(self) -> Int[Tensor, " points"]:
        return self._label(0)

    @property
    def token_ids(self) -> Int[Tensor, " points"]:
        return self._label(1)

    @property
    def group_ids(self) -> Int[Tensor, " points"]:
        return self._label(2)

    def _label(self, row: int) -> Int[Tensor, " points"]:
        return to_device(self._labels[row, : self._fill], self._points.device)
