"""Rollout engine and training engine that disagree, and samples that are older than they should be."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import INFO, MEASURED, OURS, STEP_KL, WARNING, above, below, times
from rlhfd_daemon.rules.rule import Argument

__all__ = ["ROWS"]

ENGINE_KL, DIFFERENCE = "train/vllm_kl", "rlhfd/mismatch/prob_diff_mean"
FAQ, CORRECTION = "verl documentation, FAQ", "verl documentation, Rollout Correction"
AGREE = (
    "Both engines must have the same weights, precision and sampling: look at the weight sync, --ds.param_dtype, "
    "vLLM's version, --rollout.temperature and --rollout.top_p; correct what is left with "
    "--algo.advantage.is_correction_level token."
)
SYNC = (
    "The engines sample from weights that are not those of the policy: look for a sync that failed in the log of "
    "RolloutRayActor, at rlhfd/engine/weight_sync/calls, and at --vllm.sync_backend. Restart the engines by resuming "
    "(--ckpt.load_enable)."
)

ROWS = (
    row(
        "probabilities_differ", "Rollout and training give tokens other probabilities", "mismatch", WARNING,
        (above(DIFFERENCE, 0.02),), hold=(4, 5), after=5, critical=0.2,
        explains=("gradient_rises", "importance_filter_busy", "gradient_and_mismatch_rise", "mismatch_ess_low"),
        summary="rollout and training differ by {value} in the mean probability of a token",
        remedy=AGREE, source=f"{FAQ}: 0.005, critical above 0.01; {MEASURED}: 0.001 to 0.003. Experts in mixtures "
        f"differ more, therefore twice the critical value",
    ),
    row(
        "engine_kl_high", "Rollout policy and trained policy are apart", "mismatch", WARNING,
        (above(ENGINE_KL, 0.03, absolute=True),), hold=(4, 5), after=5, critical=0.5,
        explains=("importance_filter_busy", "kl_negative", "gradient_rises", "level_change", "trend_change"),
        summary="|train/vllm_kl| is {value} nats per token, above {limit}",
        remedy=AGREE, source=f"{CORRECTION}: 0.1; {MEASURED}: at most 0.007",
        false_positives="Asynchronous training with old samples.",
    ),
    row(
        "weights_not_synced", "The engines seem to have kept old weights", "mismatch", WARNING,
        (above(ENGINE_KL, 0.01, absolute=True), above(ENGINE_KL, 5.0, "mean", 5, "baseline", absolute=True),
         below(STEP_KL, 0.03, "mean", 5, absolute=True)),
        hold=(3, 5), after=30,
        explains=("engine_kl_high", "importance_filter_busy", "kl_negative", "level_change", "trend_change"),
        summary="|train/vllm_kl| has risen to {value}, five times its level of the 50 steps before, while the "
        "policy's own steps are as small as ever",
        remedy=SYNC, source="Open-Reasoner-Zero/Open-Reasoner-Zero#28, OpenRLHF/OpenRLHF#660; the numbers are our "
        "choice",
    ),
    row(
        "mismatch_k3_high", "Rollout and training are apart, by estimator k3", "mismatch", WARNING,
        (above("rlhfd/mismatch/k3", 0.1),), hold=(4, 5), after=5, critical=2.0,
        explains=("importance_filter_busy", "mismatch_ess_low", "mismatch_chi2_high"),
        summary="KL between rollout and training is {value} nats per token (k3)",
        remedy=AGREE, source=f"{CORRECTION}; the limit is our choice",
    ),
    row(
        "mismatch_ess_low", "Few samples still count after the correction", "mismatch", WARNING,
        (below("rlhfd/mismatch/ess_ratio", 0.3),), hold=(5, 10), after=5, critical=0.05,
        explains=("importance_filter_busy",),
        summary="the effective sample size of the importance weights is {value} of the tokens",
        remedy=AGREE, source=f"{CORRECTION}: 0.3",
    ),
    row(
        "mismatch_chi2_high", "Importance weights scatter", "mismatch", WARNING,
        (above("rlhfd/mismatch/chi2", 1.0),), hold=(6, 10), after=5,
        explains=("mismatch_ess_low",),
        summary="the variance of the importance weights is {value}",
        remedy=AGREE, source=f"{CORRECTION}: 1.0",
        false_positives="A single token with a huge weight.",
    ),
    row(
        "mismatch_token_flipped", "Single tokens are certain in one engine and impossible in the other", "mismatch",
        INFO, (above("rlhfd/mismatch/prob_diff_max", 0.99),), hold=(9, 10), after=10,
        explains=("ratio_extreme",),
        summary="the probability of a token differs by {value} between the engines",
        remedy=AGREE, source=f"{MEASURED}: 0.16 to 0.98",
    ),
    row(
        "importance_filter_busy", "The correction drops much of the data", "mismatch", WARNING,
        (above("train/is_filter_ratio", 0.2),), hold=(4, 5), after=5, critical=0.9,
        explains=("samples_shrunk",),
        summary="the importance-sampling correction drops or clips {value} of the data",
        remedy=AGREE + " --algo.advantage.is_correction_threshold says what is dropped.",
        source=f"Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training; {OURS}",
        false_positives="--algo.advantage.is_correction_level seq with narrow bounds.",
    ),
    row(
        "gradient_and_mismatch_rise", "The gradient rises with the mismatch", "mismatch", WARNING,
        (times(DIFFERENCE, 1.5, 10), times("train/actor_grad_norm", 2.0, 10)), hold=(3, 5), after=60,
        explains=("gradient_rises", "gradient_explodes", "policy_step_large"),
        summary="the engines' difference is {value} times its level of the 50 steps before, and the gradient rises",
        remedy=AGREE, source=f"{FAQ}; the numbers are our choice",
    ),
    row(
        "stale_in_sync", "Synchronous training on old samples", "mismatch", WARNING,
        (above("rlhfd/policy_lag/mean", 0.5),), hold=(4, 5), after=5, excludes=("async",),
        explains=("engine_kl_high", "ratio_mean_high", "ratio_mean_low"),
        summary="samples are {value} weight updates old although training is synchronous",
        remedy=SYNC, source=f"Noukhovitch et al. 2024, arXiv:2410.18252; {OURS}",
        false_positives="Nodes whose clocks differ by more than a broadcast.",
    ),
    row(
        "samples_too_old", "Samples wait too long in the queue", "mismatch", INFO,
        (above("rlhfd/policy_lag/max", Argument(("train.async_queue_size", "async_queue_size"), 3.0)),), hold=(5, 10),
        after=10, strictly=("async",),
        explains=("engine_kl_high", "policy_step_large"),
        summary="the oldest sample is {value} weight updates old, three times the queue's size",
        remedy="Generation is ahead of training: lower --train.async_queue_size, or give training more GPUs.",
        source=f"Noukhovitch et al. 2024, arXiv:2410.18252; {OURS}",
        false_positives="--train.partial_rollout_enable keeps samples longer.",
    ),
)  # fmt: skip
