"""SFT, reward models and DPO."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, OURS, WARNING, above, below

__all__ = ["ROWS"]

PAIRS = "Ouyang et al. 2022, arXiv:2203.02155; Rafailov et al. 2023, arXiv:2305.18290"
PAIR_DATA = (
    "Look whether chosen and rejected answers are mixed up (--data.chosen_key, --data.rejected_key), at the chat "
    "template (--data.apply_chat_template), and lower --adam.lr."
)

ROWS = (
    row(
        "pair_loss_high", "The preference loss is worse than guessing", "reward", WARNING,
        (above("train/loss_mean", 1.2), above("train/acc_mean", -1.0), above("train/loss_mean", 1.2, "mean", 20)),
        hold=(6, 10), after=40,
        explains=("pair_accuracy_low",),
        summary="train/loss_mean is {value}, and above 1.2 in the mean of 20 steps; guessing gives 0.69",
        remedy=PAIR_DATA, source=f"{PAIRS}: ln 2 is guessing; {OURS}",
    ),
    row(
        "pair_accuracy_low", "Chosen answers are rewarded lower than rejected ones", "reward", WARNING,
        (below("train/acc_mean", 0.4), below("train/acc_mean", 0.4, "mean", 50)), hold=(10, 20), after=100,
        summary="the chosen answer of {value} of the pairs is rewarded higher, and less than 0.4 in the mean of 50 "
        "steps",
        remedy=PAIR_DATA, source=f"{PAIRS}; {OURS}",
    ),
    row(
        "pair_accuracy_chance", "Nothing is learnt of the preferences", "reward", INFO,
        (below("train/acc_mean", 0.7), below("train/acc_mean", 0.53, "mean", 50), above("train/acc_mean", 0.4, "mean",
        50)), hold=(25, 50),
        after=300,
        summary="the chosen answer of {value} of the pairs is rewarded higher, after hundreds of steps",
        remedy=PAIR_DATA, source=f"{PAIRS}; {OURS}", false_positives="Preferences that are noise.",
    ),
    row(
        "sft_loss_high", "The loss of SFT is that of noise", "reward", WARNING,
        (above("train/gpt_loss", 15.0),), hold=(4, 6), after=20,
        explains=("level_change",),
        summary="train/gpt_loss is {value} nats per token; a uniform guess among 150,000 tokens gives 12",
        remedy="The model is broken: look at the tokenizer, the chat template (--data.apply_chat_template) and "
        "--adam.lr.",
        source=OURS,
    ),
)  # fmt: skip
