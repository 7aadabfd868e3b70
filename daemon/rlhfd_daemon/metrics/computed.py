"""What rlhfd computes in the trainer's process from each step's samples and experiences (``rlhfd_emitter.signals``)."""

from __future__ import annotations

from collections.abc import Sequence

from rlhfd_daemon.metrics.metric import Metric, Unit, observed

__all__ = ["EXPERIENCE"]

TRAINER, GENERATOR = "PPOTrainer", "PPOTrainer or GenerateSamplesActor"
GAE = "Schulman et al. 2015 (GAE), arXiv:1506.02438"
KL_ESTIMATORS = "Schulman 2020, Approximating KL Divergence"
KL_PENALTY = "Ziegler et al. 2019, arXiv:1909.08593"
MISMATCH = "Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
ROLLOUT_CORRECTION = "verl documentation, Rollout Correction (rollout_corr)"
ESS = "Kong 1992, A Note on Importance Sampling using Standardized Weights; Liu 2001"
DAPO = "Yu et al. 2025 (DAPO), arXiv:2503.14476"
N_DETAILS = "Huang et al. 2024, arXiv:2403.17031"
UNLIKELIHOOD = "Welleck et al. 2019, arXiv:1908.04319"
OVER_OPTIMISATION = "Gao et al. 2022, arXiv:2210.10760"
LENGTH_BIAS = "Singhal et al. 2023, arXiv:2310.03716"
STALENESS = "Noukhovitch et al. 2024, arXiv:2410.18252"

PER_TOKEN: Unit = "nats_per_token"
RHO = "ρ is training over rollout probability of a token, its logarithm clamped to ±20"


def _row(
    name: str,
    unit: Unit,
    meaning: str,
    source: str = "",
    *,
    healthy: str = "",
    role: str = TRAINER,
    trl: Sequence[str] = (),
    verl: Sequence[str] = (),
) -> Metric:
    return observed(f"rlhfd/{name}", unit, role, meaning, source=source, healthy=healthy, trl=trl, verl=verl)


ADVANTAGES = (
    _row(
        "advantage/mean", "1",
        "Mean advantage over response tokens before whitening: returns less values with gae, the returns with every "
        "other estimator.", GAE,
    ),
    _row("advantage/std", "1", "Standard deviation (of the population) of the advantages before whitening.", GAE),
    _row("advantage/min", "1", "Least advantage of a token before whitening.", GAE),
    _row("advantage/max", "1", "Greatest advantage of a token before whitening.", GAE),
    _row("advantage/abs_mean", "1", "Mean size of the advantages before whitening.", GAE),
    _row(
        "advantage/outlier_ratio", "ratio",
        "Share of response tokens whose advantage, as trained on, is more than 5 standard deviations from 0. Absent if "
        "all are equal.", N_DETAILS,
    ),
    _row(
        "advantage/trained_mean", "1",
        "Mean advantage as trained on. 0 where OpenRLHF whitens (gae, reinforce, reinforce_baseline).", GAE,
        verl=("critic/advantages/mean",),
    ),
    _row("advantage/trained_std", "1", "Standard deviation (of the population) of the advantages as trained on.", GAE),
    _row(
        "return/mean", "1",
        "Mean over response tokens of the discounted sum of what is still to come, KL penalty included. train/return "
        "is another quantity: the undiscounted sum of a sample.", GAE, verl=("critic/returns/mean",),
    ),
    _row("return/std", "1", "Standard deviation (of the population) of the returns over response tokens.", GAE),
    _row("return/min", "1", "Least return of a token.", GAE, verl=("critic/returns/min",)),
    _row("return/max", "1", "Greatest return of a token.", GAE, verl=("critic/returns/max",)),
    _row(
        "value/mean", "1", "Mean value that the critic predicted per response token before training on the step.", GAE,
        verl=("critic/values/mean",),
    ),
    _row("value/std", "1", "Standard deviation (of the population) of the predicted values.", GAE),
    _row(
        "explained_variance", "1",
        "1 - Var(returns - values) / Var(returns) over response tokens: 1 is a perfect critic, 0 or less one that is "
        "no better than a constant. Absent without a critic, or if all returns are equal.",
        "Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization",
        healthy="from -0.65 early to 0.59 in the median",
        verl=("critic/vf_explained_var",),
    ),
)  # fmt: skip

DIVERGENCES = (
    _row(
        "kl/k1", PER_TOKEN,
        "Mean over response tokens of log π - log π_ref, unclamped. Absent without a reference model.",
        KL_ESTIMATORS,
    ),
    _row(
        "kl/k3", PER_TOKEN,
        "Mean over response tokens of exp(-d) - 1 + d with d = log π - log π_ref, unclamped: never negative.",
        KL_ESTIMATORS,
    ),
    _row("kl/max", "nats", "Greatest log π - log π_ref of one response token, unclamped.", KL_ESTIMATORS),
    _row("kl_coefficient", "1", "Coefficient of the KL penalty when the step's experiences were made.", KL_PENALTY),
    _row(
        "mismatch/prob_diff_mean", "ratio",
        "Mean difference between the probabilities that rollout engine and training engine give the same response "
        "token. Absent without rollout log-probabilities (--algo.advantage.is_correction_level off).",
        MISMATCH, healthy="0.001 to 0.003", verl=("training/rollout_probs_diff_mean",),
    ),
    _row(
        "mismatch/prob_diff_max", "ratio", "Greatest such difference of one response token.", MISMATCH,
        verl=("training/rollout_probs_diff_max",),
    ),
    _row("mismatch/k1", PER_TOKEN, f"Mean of -log ρ: estimator k1 of KL(rollout || training). {RHO}.", KL_ESTIMATORS),
    _row(
        "mismatch/k3", PER_TOKEN, f"Mean of ρ - 1 - log ρ: estimator k3 of KL(rollout || training). {RHO}.",
        KL_ESTIMATORS, verl=("rollout_corr/k3_kl",),
    ),
    _row(
        "mismatch/chi2", "1", f"Mean of ρ² - 1: χ² divergence, the variance of importance weights. {RHO}.",
        ROLLOUT_CORRECTION, healthy="below 1", verl=("rollout_corr/chi2_token",),
    ),
    _row(
        "mismatch/ess_ratio", "ratio",
        f"Effective sample size over number of tokens, (Σρ)² / (n Σρ²): 1 if both engines agree. {RHO}.",
        ESS, healthy="above 0.3",
    ),
    _row(
        "entropy/sampled", PER_TOKEN,
        "Mean of -log π over the sampled response tokens: an unbiased estimate of the policy's entropy as long as "
        "sampling follows the policy (no top-p, no top-k).",
        "Mnih et al. 2016, arXiv:1602.01783", healthy="starts at 0.12 to 0.51, ends at 0.02 to 0.31",
    ),
)  # fmt: skip

OUTCOMES = (
    _row(
        "reward/mean", "1",
        "Mean reward over the step's samples with length penalties, before baseline, clipping and KL penalty.",
        KL_PENALTY,
    ),
    _row("reward/std", "1", "Standard deviation (of the population) of the rewards.", KL_PENALTY),
    _row("reward/min", "1", "Least reward of a sample.", KL_PENALTY),
    _row("reward/max", "1", "Greatest reward of a sample.", KL_PENALTY),
    *(
        _row(f"reward/p{percent}", "1", f"{words} of the samples' rewards, linear between neighbours.", KL_PENALTY)
        for percent, words in ((10, "10th percentile"), (50, "Median"), (90, "90th percentile"))
    ),
    _row(
        "reward/clipped_ratio", "ratio",
        "Share of samples whose reward is at or beyond --reward.clip_range. With a group baseline OpenRLHF clips what "
        "is left after it.", N_DETAILS,
    ),
    _row("reward/missing_ratio", "ratio", "Share of samples whose reward is NaN; absent if none is."),
    _row(
        "group/zero_std_ratio", "ratio",
        "Share of prompts whose samples all got the same reward: group estimators learn nothing from them. Only with "
        "several samples per prompt.", DAPO, trl=("frac_reward_zero_std",),
    ),
    _row(
        "group/duplicate_ratio", "ratio",
        "Share of answers that repeat another one to their prompt, token by token: what a group learns from gets less. "
        "Only with several samples per prompt.",
    ),
    _row(
        "correlation/reward_length", "1",
        "Pearson's correlation of reward and response length over the step's samples. Absent if either is constant.",
        LENGTH_BIAS,
    ),
    _row(
        "correlation/advantage_reward", "1",
        "Pearson's correlation of a sample's mean advantage and its reward. Absent if either is constant.", GAE,
    ),
    _row(
        "correlation/kl_reward", "1",
        "Pearson's correlation of a sample's mean log π - log π_ref and its reward. Absent if either is constant.",
        OVER_OPTIMISATION,
    ),
    _row(
        "ratio_of/advantage_reward", "1",
        "Mean size of the advantages before whitening over mean size of the rewards. Absent if all rewards are 0.",
    ),
)  # fmt: skip

RESPONSES = (
    _row(
        "response_length/mean", "tokens",
        "Mean response length over the step's samples, from first to last response token as OpenRLHF counts it: an "
        "agent's observations in between count.",
    ),
    *(
        _row(f"response_length/p{percent}", "tokens", f"{words} of the response lengths, linear between neighbours.")
        for percent, words in ((50, "Median"), (90, "90th percentile"), (99, "99th percentile"))
    ),
    _row(
        "response_length/max", "tokens", "Longest response.", trl=("completions/max_length",),
        verl=("response_length/max",),
    ),
    _row(
        "response_length/min", "tokens", "Shortest response.", trl=("completions/min_length",),
        verl=("response_length/min",),
    ),
    _row(
        "response_length/truncated_ratio", "ratio",
        "Share of responses that ended at the token limit. 0 up to 0.11.0 with multi-turn agents: unknown then.", DAPO,
    ),
    _row("response_length/zero_ratio", "ratio", "Share of samples without a single response token."),
    _row(
        "repetition/consecutive_ratio", "ratio",
        "Of the response tokens that follow another one, the share that equals it.", UNLIKELIHOOD,
    ),
    _row(
        "repetition/seq_rep_4", "ratio",
        "1 less the share of different 4-grams among a response's 4-grams, mean over the responses that have one.",
        UNLIKELIHOOD,
    ),
    _row("tokens", "tokens", "Response tokens in the step's batch."),
    _row("samples", "count", "Samples in the step's batch."),
    _row(
        "sampled_ratio", "ratio",
        "Share of the sequences that the signals over tokens were computed from; only in batches of more than 4 "
        "million positions, padding included.",
    ),
)  # fmt: skip

ROLLOUTS = (
    _row(
        "generation/prompts", "count", "Prompts that a generation drew; absent where a buffer was enough.",
        role=GENERATOR,
    ),
    _row(
        "generation/samples", "count", "Samples that one generation gave, those dropped by a filter left out.",
        role=GENERATOR,
    ),
    _row(
        "generation/tokens_per_second", "tokens_per_second",
        "Response tokens of these samples over the time of the generation, in which rewards are computed, too.",
        role=GENERATOR,
    ),
    _row(
        "dynamic_filtering/pass_ratio", "ratio",
        "Share of the drawn prompts that dynamic filtering let pass. Only with it on.", DAPO, role=GENERATOR,
    ),
    _row(
        "policy_lag/mean", "count",
        "Weight broadcasts to vLLM between a sample's generation and the training on it, mean over the samples: 0 in "
        "synchronous training. Between two nodes it takes clocks that agree better than a generation or a broadcast "
        "lasts.", STALENESS,
    ),
    _row("policy_lag/max", "count", "The oldest sample's such number.", STALENESS),
    _row(
        "overhead/hooks_ratio", "ratio",
        "Share of the last minute or more in which rlhfd's own code ran in the hooks of this process.",
        role="every observed process",
    ),
    _row("overhead/experience_seconds", "seconds", "Time that rlhfd took for the signals of the step's experiences."),
)  # fmt: skip

EXPERIENCE: tuple[Metric, ...] = (*ADVANTAGES, *DIVERGENCES, *OUTCOMES, *RESPONSES, *ROLLOUTS)
