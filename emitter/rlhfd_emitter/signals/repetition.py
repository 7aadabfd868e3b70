"""How much of the responses repeats itself, from their tokens."""

from __future__ import annotations

from collections.abc import Mapping

from rlhfd_emitter.signals.batch import Batch, matrix
from rlhfd_emitter.signals.statistics import Tensor

N = 4
# A 4-gram as one number: its tokens as digits to this base, modulo 2**64. Two different ones of a response of 10,000
# tokens get the same number once in 10**11 responses.
BASE = 6_364_136_223_846_793_005
SQUARE = (BASE * BASE + 2**63) % 2**64 - 2**63  # as a signed number
NOTHING = -(2**63)


def repetition(batch: Batch) -> Mapping[str, float]:
    """``consecutive_ratio``: of the response tokens behind another, the share that equals it. ``seq_rep_4``: 1 less the
    share of different 4-grams, mean over the responses that have one. Both within one span of response tokens."""
    same = behind = 0
    shares: list[float] = []
    for index, (experience, mask) in enumerate(zip(batch.experiences, batch.masks, strict=True)):
        sequences = getattr(experience, "sequences", None)
        if sequences is None:
            return {}
        tokens = batch.part(index, _aligned(sequences, mask)).long()
        wanted = batch.part(index, mask)
        pairs = wanted[:, 1:] & wanted[:, :-1]
        behind += int(pairs.sum())
        same += int((pairs & (tokens[:, 1:] == tokens[:, :-1])).sum())
        shares += _repeated_shares(tokens, pairs)
    values = {"rlhfd/repetition/consecutive_ratio": same / behind} if behind else {}
    if shares:
        values["rlhfd/repetition/seq_rep_4"] = sum(shares) / len(shares)
    return values


def _aligned(sequences: Tensor, mask: Tensor) -> Tensor:
    """The tokens that the mask's positions stand for: position ``i`` is token ``i + 1``, which is predicted there."""
    tokens = matrix(sequences)
    if tokens.shape[1] != mask.shape[1] + 1:
        raise ValueError(f"sequences {tuple(tokens.shape)} are not one token longer than {tuple(mask.shape)}")
    return tokens[:, 1:]


def _repeated_shares(tokens: Tensor, pairs: Tensor) -> list[float]:
    """The share of each row's 4-grams that occurred before in it; rows without one are left out. ``pairs``: where a
    wanted token is behind another."""
    if tokens.shape[1] < N or not tokens.shape[0]:
        return []
    twos = tokens[:, :-1] * BASE + tokens[:, 1:]
    grams = twos[:, :-2] * SQUARE + twos[:, 2:]
    whole = pairs[:, :-2] & pairs[:, 2:]
    ranked = grams.masked_fill(~whole, NOTHING).sort(1).values
    changes = (ranked[:, 1:] != ranked[:, :-1]).sum(1).tolist()
    counts = whole.sum(1).tolist()
    # What is not wanted is one value more, at the front of the row.
    width = grams.shape[1]
    return [
        1 - (1 + change - int(count < width)) / count for change, count in zip(changes, counts, strict=True) if count
    ]
