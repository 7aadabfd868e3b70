"""The reward rises for the wrong reason: several metrics say so together."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    CRITICAL,
    EVAL,
    INFO,
    KL,
    LENGTH,
    OURS,
    REWARD,
    TRUNCATED,
    WARNING,
    above,
    at_its_best,
    fallen,
    times,
    zeros,
)

__all__ = ["ROWS"]

GAO = "Gao et al. 2022, arXiv:2210.10760"
BIAS = "Singhal et al. 2023, arXiv:2310.03716"
WELLECK = "Welleck et al. 2019, arXiv:1908.04319"
READ = (
    "Read samples from before and after: what is longer, repeated or off topic and yet rewarded is the hole. Mend the "
    "reward, raise --algo.kl.init_coef or lower --actor.adam.lr, and resume from the checkpoint with the best "
    "evaluation (--ckpt.best_metric_key)."
)
PENALISE = (
    "Length is paid for: penalise it (--reward.overlong_buffer_len, --reward.overlong_penalty_factor, "
    "--reward.stop_properly_penalty_coef) or correct the reward model for length."
)
FLUENT = (
    "Answers repeat themselves: read samples, forbid it in the reward, raise --algo.kl.init_coef, or lower "
    "--actor.adam.lr; resume from before (--ckpt.load_enable)."
)

ROWS = (
    row(
        "reward_up_eval_down", "The reward is at its best and the evaluation falls", "hacking", WARNING,
        (fallen(EVAL, 0.5, 2), at_its_best(REWARD, 0.1), times(KL, 1.3, 10)), hold=(2, 2), after=5,
        summary="the evaluation has lost {value} of what it had gained, while the reward is at its best and KL rises",
        remedy=READ, source=f"{GAO}: the proxy rises on while what is meant falls; the numbers are our choice",
        false_positives="Evaluations of few prompts scatter.",
    ),
    row(
        "reward_kl_length_up", "Reward, KL and length rise together", "hacking", WARNING,
        (above(KL, 0.05), above(KL, 1.6, "median", 5, "baseline"), at_its_best(REWARD, 0.1, 5), times(LENGTH, 1.25)),
        hold=(4, 6), after=55,
        requires=("reference_model",),
        explains=("truncated_often", "length_cap_reached", "reward_up_eval_down", "level_change", "trend_change"),
        summary="train/kl rises to {value}, answers become longer, and the reward is at its best",
        remedy=READ + " " + PENALISE, source=f"{GAO}; {BIAS}; the numbers are our choice",
        false_positives="Reasoning that becomes longer for good reason: the evaluation rises with it.",
    ),
    row(
        "length_hacking", "Longer answers are rewarded, and they become longer", "hacking", WARNING,
        (above("rlhfd/correlation/reward_length", 0.3), above("rlhfd/correlation/reward_length", 0.5, "mean", 20),
         times(LENGTH, 1.3), at_its_best(REWARD)),
        hold=(3, 5), after=55,
        explains=("truncated_often", "length_cap_reached", "reward_kl_length_up"),
        summary="reward and length correlate with {value}, and answers become longer",
        remedy=PENALISE, source=f"{BIAS}; the numbers are our choice",
        false_positives="Tasks whose right answers are longer.",
    ),
    row(
        "reward_follows_length", "The reward follows the length", "hacking", INFO,
        (above("rlhfd/correlation/reward_length", 0.4), above("rlhfd/correlation/reward_length", 0.6, "mean", 20)),
        hold=(8, 10), after=20,
        explains=("length_hacking",),
        summary="reward and length of the samples correlate with {value} (mean of 20 steps)",
        remedy=PENALISE, source=f"{BIAS}; the limit is our choice",
        false_positives="Tasks whose right answers are longer.",
    ),
    row(
        "reward_follows_kl", "The reward is paid for by distance from the reference", "hacking", INFO,
        (above("rlhfd/correlation/kl_reward", 0.4), above("rlhfd/correlation/kl_reward", 0.6, "mean", 20),
         times(KL, 1.2, 10)),
        hold=(5, 10), after=55,
        requires=("reference_model",),
        explains=("kl_high",),
        summary="reward and KL of the samples correlate with {value}, and KL rises",
        remedy=READ, source=f"{GAO}; the numbers are our choice",
    ),
    row(
        "truncation_rewarded", "Answers are cut off and the reward is at its best", "hacking", WARNING,
        (above(TRUNCATED, 0.3), at_its_best(REWARD, 0.1, 5), times(LENGTH, 1.2)), hold=(3, 5), after=55,
        explains=("truncated_often", "length_at_the_cap"),
        summary="{value} of the answers are cut off at the limit, and the reward is at its best",
        remedy="An answer without its end earns as much: " + PENALISE,
        source=f"{BIAS}; Yu et al. 2025 (DAPO), arXiv:2503.14476; the numbers are our choice",
    ),
    row(
        "repeated_tokens", "Answers repeat single tokens", "hacking", WARNING,
        (above("rlhfd/repetition/consecutive_ratio", 0.3),), hold=(4, 5), after=5,
        explains=("truncated_often", "entropy_low"),
        summary="{value} of the tokens equal the one before", remedy=FLUENT, source=f"{WELLECK}; {OURS}",
    ),
    row(
        "repeated_phrases", "Answers repeat phrases", "hacking", WARNING,
        (above("rlhfd/repetition/seq_rep_4", 0.75),), hold=(4, 5), after=5,
        explains=("truncated_often", "entropy_low"),
        summary="{value} of the 4-grams of an answer have been there before", remedy=FLUENT,
        source=f"{WELLECK}; the limit is our choice",
        false_positives="Very long chains of thought and tables.",
    ),
    row(
        "repetition_rewarded", "Answers repeat themselves more and the reward is at its best", "hacking", WARNING,
        (above("rlhfd/repetition/seq_rep_4", 0.3), times("rlhfd/repetition/seq_rep_4", 2.0),
         at_its_best(REWARD, 0.1, 5)),
        hold=(3, 5), after=55,
        explains=("truncated_often", "repeated_phrases"),
        summary="{value} of the 4-grams of an answer have been there before, twice as many as usual, and the reward is "
        "at its best",
        remedy=FLUENT, source=f"{WELLECK}; the numbers are our choice",
    ),
    row(
        "dead_run", "Nothing is learnt any more", "reward", CRITICAL,
        (*zeros("train/actor_grad_norm", 25, 1e-6), *zeros("train/group_reward_std", 25, 1e-5)), after=25,
        requires=("groups",),
        summary="the gradient and the spread of rewards within groups have been 0 for 25 steps",
        remedy="All samples of a prompt get the same reward. Stop: read samples, mend the reward or the prompts, and "
        "resume from before the entropy was gone (--ckpt.load_enable).",
        source="measured on a public log of a run that was dead from its second step",
        false_positives="The end of a run that has solved its prompts.",
    ),
)  # fmt: skip
