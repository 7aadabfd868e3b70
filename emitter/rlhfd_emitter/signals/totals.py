"""What the micro-batches of one training call add up to, kept on the tensors' own device and read once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rlhfd_emitter.signals.statistics import Tensor

CAPACITY = 65_536  # positions that are held before the signals are computed, 2 MiB


class Rows:
    """The tensors of several micro-batches one behind the other, as rows of float64 on their own device.

    So that signals are computed over many micro-batches at once: on a small one, an operation costs the same. Copies,
    since what OpenRLHF does to its tensors later must not change them. The memory is taken once.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._held: Tensor | None = None
        self.filled = 0

    def has_room_for(self, positions: int) -> bool:
        """Whether so many more fit, or would not fit into empty rows, either."""
        return not self.filled or self.filled + positions <= self._capacity

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Take a micro-batch in: one tensor for each row, all of one shape, the last is the mask.

        :raises ValueError: the shapes differ.
        """
        shape = tuple(tensors[-1].shape)
        for tensor in tensors:
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{tuple(tensor.shape)} is not like action_mask {shape}")
        flat = [tensor.detach().flatten() for tensor in tensors]
        end = self.filled + math.prod(shape)
        if self._held is None or end > self._held.shape[1]:
            self._held = flat[0][:0].double().new_empty((len(flat), max(end, self._capacity)))
        for place, tensor in enumerate(flat):
            self._held[place, self.filled : end] = tensor
        self.filled = end

    def take(self) -> tuple[Tensor, Tensor]:
        """The rows with 0 where the mask is not set, and the mask as bool; the rows are empty from now on."""
        if self._held is None:
            raise ValueError("no micro-batch")
        filled, self.filled = self.filled, 0
        mask = self._held[-1, :filled].bool()
        return self._held[:-1, :filled].masked_fill(~mask, 0.0), mask


class Totals:
    """Sums by name, and of the names in ``greatest`` the greatest value. All are tensors without a dimension.

    Nothing is read from the device here, and a thousand micro-batches take as much memory as one.
    """

    def __init__(self, greatest: Collection[str] = ()) -> None:
        self._greatest = greatest
        self._held: dict[str, Tensor] = {}
        self._times: Counter[str] = Counter()
        self._batches = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in what was computed at once; what could not be computed is not in ``values``."""
        self._batches += 1
        for name, value in values.items():
            held = self._held.get(name)
            self._held[name] = value if held is None else self._together(name, held, value)
            self._times[name] += 1

    def _together(self, name: str, held: Tensor, value: Tensor) -> Tensor:
        return held.maximum(value) if name in self._greatest else held + value

    def complete(self) -> dict[str, Tensor]:
        """The totals over all that was added; one that was missing once is not the truth, and is left out."""
        return {name: value for name, value in self._held.items() if self._times[name] == self._batches}


def read(values: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors without a dimension, and of plain numbers among them, in one transfer from the device."""
    first = next((value for value in values if hasattr(value, "new_empty")), None)
    if first is None or getattr(getattr(first, "device", None), "type", "cpu") == "cpu":
        return [float(value) for value in values]
    row = first.double().new_empty(len(values))
    for place, value in enumerate(values):
        row[place] = value
    return [float(value) for value in row.tolist()]
