"""Learning rates."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import OURS, WARNING, now_times, zeros

__all__ = ["ROWS"]

ENDED = (
    "The schedule has ended before the training, or was computed for fewer steps: look at --{which}.lr_scheduler, "
    "--{which}.min_lr_ratio and the number of steps it is made for (--train.num_episodes, --data.max_samples); after a "
    "resume also at the optimizer's state."
)
CHANGED = (
    "Look at what set it: a resume with another --{which}.adam.lr, a scheduler that began anew "
    "(--{which}.lr_scheduler), or code that changes it. Resume from before (--ckpt.load_enable) with the old one."
)
JUMP = 5.0
AFTER_JUMP = ("policy_step_large", "gradient_explodes", "kl_high", "clip_ratio_high", "reward_collapse", "level_change",
              "entropy_vanished", "gradient_zero", "length_collapsed")  # fmt: skip


def _supervised(text: str) -> str:
    return text.replace("--{which}.", "--").replace("--train.num_episodes", "--train.max_epochs")


ROWS = (
    row(
        "learning_rate_zero", "The learning rate of the policy is 0", "schedule", WARNING,
        zeros("train/actor_lr", 5), after=20,
        explains=("gradient_vanishes", "clip_never", "frozen_metric"),
        summary="train/actor_lr has been 0 for 5 steps",
        remedy=ENDED.replace("{which}", "actor"), source=OURS,
    ),
    row(
        "critic_learning_rate_zero", "The learning rate of the critic is 0", "schedule", WARNING,
        zeros("train/critic_lr", 5), after=20, requires=("critic",),
        explains=("explained_variance_negative",),
        summary="train/critic_lr has been 0 for 5 steps",
        remedy=ENDED.replace("{which}", "critic"), source=OURS,
    ),
    row(
        "supervised_learning_rate_zero", "The learning rate is 0 in supervised training", "schedule", WARNING,
        zeros("train/lr", 10), after=20,
        explains=("frozen_metric",),
        summary="train/lr has been 0 for 10 steps", remedy=_supervised(ENDED), source=OURS,
    ),
    row(
        "learning_rate_jumps", "The learning rate of the policy has jumped", "schedule", WARNING,
        (now_times("train/actor_lr", JUMP),), after=60, explains=AFTER_JUMP,
        summary="train/actor_lr is {value} times its level of the 50 steps before",
        remedy=CHANGED.replace("{which}", "actor"), source=OURS,
        false_positives="A schedule with restarts.",
    ),
    row(
        "critic_learning_rate_jumps", "The learning rate of the critic has jumped", "schedule", WARNING,
        (now_times("train/critic_lr", JUMP),), after=60, requires=("critic",),
        explains=("critic_loss_high", "critic_diverges", "explained_variance_negative", "critic_gradient_high"),
        summary="train/critic_lr is {value} times its level of the 50 steps before",
        remedy=CHANGED.replace("{which}", "critic"), source=OURS,
        false_positives="A schedule with restarts.",
    ),
    row(
        "supervised_learning_rate_jumps", "The learning rate has jumped in supervised training", "schedule", WARNING,
        (now_times("train/lr", JUMP),), after=60,
        explains=("supervised_gradient_explodes", "non_finite", "pair_loss_high", "level_change"),
        summary="train/lr is {value} times its level of the 50 steps before",
        remedy=_supervised(CHANGED), source=OURS, false_positives="A schedule with restarts.",
    ),
)  # fmt: skip
