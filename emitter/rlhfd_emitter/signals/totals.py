"""What the micro-batches of one training call add up to, kept on the tensors' own device and read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from rlhfd_emitter.signals.statistics import Tensor


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
        """Take in one micro-batch; what it could not compute is not in ``values``."""
        self._batches += 1
        for name, value in values.items():
            held = self._held.get(name)
            self._held[name] = value if held is None else self._together(name, held, value)
            self._times[name] += 1

    def _together(self, name: str, held: Tensor, value: Tensor) -> Tensor:
        return held.maximum(value) if name in self._greatest else held + value

    def complete(self) -> dict[str, Tensor]:
        """The totals over all micro-batches; one that lacks a micro-batch is not the truth, and is left out."""
        return {name: value for name, value in self._held.items() if self._times[name] == self._batches}


def read(values: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors without a dimension, and of plain numbers among them, in one transfer from the device."""
    first = next((value for value in values if hasattr(value, "new_empty")), None)
    if first is None:
        return [float(value) for value in values]
    row = first.double().new_empty(len(values))
    for place, value in enumerate(values):
        row[place] = value
    return [float(value) for value in row.tolist()]


def masked(tensor: Tensor, mask: Tensor) -> Tensor:
    """``tensor`` without its history, as float64, with 0 where ``mask`` (bool) is not set.

    :raises ValueError: the shapes differ.
    """
    if tuple(tensor.shape) != tuple(mask.shape):
        raise ValueError(f"{tuple(tensor.shape)} is not like action_mask {tuple(mask.shape)}")
    return tensor.detach().double().masked_fill(~mask, 0.0)
