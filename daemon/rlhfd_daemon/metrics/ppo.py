"""What the PPO trainer logs about actor, critic and rollouts; GRPO, RLOO and REINFORCE++ are the same trainer."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, metric

__all__ = ["CRITIC", "GONE", "POLICY", "ROLLOUT"]

ACTOR, CRITIC_ACTOR, TRAINER = "PolicyModelActor", "CriticModelActor", "PPOTrainer"
PPO = "Schulman et al. 2017, arXiv:1707.06347"
KL_PENALTY = "Ziegler et al. 2019, arXiv:1909.08593"
KL_ESTIMATORS = "Schulman 2020, Approximating KL Divergence"
DAPO = "Yu et al. 2025 (DAPO), arXiv:2503.14476"
GRPO = "Shao et al. 2024 (GRPO), arXiv:2402.03300"
CLIPPING = "Pascanu et al. 2013, arXiv:1211.5063"
MISMATCH = "Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"
N_DETAILS = "Huang et al. 2024, arXiv:2403.17031"

POLICY: tuple[Metric, ...] = (
    metric(
        "train/policy_loss", "1", ACTOR,
        "Clipped surrogate loss, after importance weights, token-weighted mean. About 0 on-policy, so its size says "
        "little; NaN is the signal.",
        note="from 0.10.4 normalised by the token count of the whole optimizer step",
        source=PPO, trl=("policy_loss", "loss/policy_avg"), verl=("actor/pg_loss",),
    ),
    metric(
        "train/entropy_loss", "nats_per_token", ACTOR,
        "Mean token entropy of the policy: positive, and no loss. Logged only with --actor.entropy_coef; 0 only logs.",
        first="0.7.2", source="Mnih et al. 2016, arXiv:1602.01783",
        healthy="starts at 0.12 to 0.51, ends at 0.02 to 0.31",
        trl=("entropy", "policy/entropy_avg"), verl=("actor/entropy", "actor/entropy_loss"),
    ),
    metric(
        "train/ppo_clip_ratio", "ratio", ACTOR,
        "Share of tokens whose clipped branch is active. 0 is normal with one optimizer step per rollout; NaN inputs "
        "also count as not clipped.",
        first="0.8.3", source=PPO, healthy="at most 0.009",
        trl=("clip_ratio/region_mean", "policy/clipfrac_avg"), verl=("actor/pg_clipfrac",),
    ),
    metric(
        "train/ppo_kl", "nats_per_token", ACTOR,
        "Mean of old minus new log-probability: estimator k1 of KL(old || new) since the rollout, may be negative.",
        first="0.8.8", source=KL_ESTIMATORS, healthy="within ±0.006", verl=("actor/ppo_kl",),
    ),
    metric(
        "train/vllm_kl", "nats_per_token", ACTOR,
        "Mean of rollout minus training log-probability: estimator k1 of KL(vLLM || training engine). Logged only with "
        "importance-sampling correction on.",
        first="0.8.9", source=MISMATCH, verl=("rollout_corr/kl",),
    ),
    metric(
        "train/is_filter_ratio", "ratio", ACTOR,
        "Share of tokens or sequences that the importance-sampling correction drops or clips. Logged only with it on.",
        first="0.11.2", source=MISMATCH,
    ),
    metric(
        "train/kl", "nats_per_token", f"{TRAINER}; {ACTOR} with --algo.kl.use_loss",
        "KL of the policy to the reference model by the chosen estimator (k1, k2, k3), per token clamped to ±10. "
        "0 without a reference model: unknown then. TRL's objective/kl is per sequence and is no alias.",
        note="weighted by tokens through 0.9.7, mean over samples from 0.9.8",
        source=KL_PENALTY, healthy="ends at 0.05 to 0.32; k1 may be slightly negative",
        trl=("kl",), verl=("actor/kl_loss", "actor/reward_kl_penalty"),
    ),
    metric(
        "train/logprobs_diff", "nats_per_token", f"{TRAINER}; {ACTOR} with --algo.kl.use_loss",
        "Mean of policy minus reference log-probability: estimator k1 without the clamp. 0 without a reference model: "
        "unknown then.",
        first="0.9.2", source=KL_ESTIMATORS,
    ),
    metric(
        "train/actor_grad_norm", "1", ACTOR,
        "Global L2 norm of the gradient before clipping, of the step's last optimizer step only. DeepSpeed's None "
        "reads 0.",
        first="0.9.6", source=CLIPPING, healthy="medians 0.003 to 4.3; single spikes of 24 to 151 medians occur",
        verl=("actor/grad_norm",),
    ),
    metric(
        "train/actor_lr", "1", ACTOR, "Learning rate of the actor's first parameter group.", verl=("actor/lr",),
    ),
)  # fmt: skip

CRITIC: tuple[Metric, ...] = (
    metric(
        "train/critic_loss", "1", CRITIC_ACTOR,
        "Half the clipped squared error of the values, mean over micro-batches. Only with advantage estimator gae.",
        source=PPO, trl=("loss/value_avg",), verl=("critic/vf_loss",),
    ),
    metric(
        "train/values", "1", CRITIC_ACTOR, "Mean value that the critic predicts per token, in training.",
        source="Schulman et al. 2015 (GAE), arXiv:1506.02438", verl=("critic/vpred_mean",),
    ),
    metric(
        "train/critic_grad_norm", "1", CRITIC_ACTOR,
        "Global L2 norm of the critic's gradient before clipping, mean over micro-batches (the actor's is the last).",
        first="0.9.6", source=CLIPPING, healthy="from 950 down to 8 within one run", verl=("critic/grad_norm",),
    ),
    metric(
        "train/critic_lr", "1", CRITIC_ACTOR, "Learning rate of the critic's first parameter group.",
        verl=("critic/lr",),
    ),
)  # fmt: skip

ROLLOUT: tuple[Metric, ...] = (
    metric(
        "train/rollout/reward_mean", "1", TRAINER,
        "Mean raw reward over the step's samples, before batches are split. Prefer it to train/reward.",
        first="0.9.8", source=KL_PENALTY,
        trl=("reward", "objective/scores"), verl=("critic/score/mean",),
    ),
    metric(
        "train/rollout/reward_std", "1", TRAINER,
        "Standard deviation of the raw reward over the step's samples; 0 for a single sample.",
        first="0.9.8", trl=("reward_std",),
    ),
    metric(
        "train/rollout/response_length_mean", "tokens", TRAINER,
        "Mean response length over the step's samples. Prefer it to train/response_length.",
        first="0.9.8", trl=("completions/mean_length",), verl=("response_length/mean",),
    ),
    metric(
        "train/rollout/truncated_rate", "ratio", TRAINER,
        "Share of responses that ended at the token limit. 0 for multi-turn agents through 0.11.0: unknown then.",
        first="0.9.8", source=DAPO, healthy="at most 0.02",
        trl=("completions/clipped_ratio",), verl=("response_length/clip_ratio",),
    ),
    metric("train/rollout/num_samples", "count", TRAINER, "Samples of the step.", first="0.9.8"),
    metric(
        "train/reward", "1", TRAINER,
        "Mean raw reward as training sees it: after length penalties, before clipping, baseline and KL. Dynamic "
        "batches weight it.",
        source=KL_PENALTY,
    ),
    metric(
        "train/score", "1", TRAINER, "Mean score that dynamic filtering judges by.", first="0.8.3", source=DAPO,
    ),
    metric(
        "train/return", "1", TRAINER,
        "Mean over samples of the summed shaped reward: clipped, baseline taken off, minus coefficient times KL. Not "
        "the discounted returns.",
        source=N_DETAILS,
    ),
    metric(
        "train/group_reward_std", "1", TRAINER,
        "Mean standard deviation of the raw reward within a prompt's group; a group at 0 teaches nothing. Only with "
        "more than one sample per prompt.",
        first="0.8.3", source=GRPO,
    ),
    metric(
        "train/response_length", "tokens", TRAINER,
        "Mean response length as training sees it. Multi-turn: from the first to the last action token, feedback "
        "included.",
    ),
    metric("train/total_length", "tokens", TRAINER, "Mean length of prompt and response."),
    metric(
        "train/response_clip_ratio", "ratio", TRAINER,
        "Share of samples whose total length reaches the maximum. Nothing to do with PPO's clipping.",
        first="0.8.3", source=DAPO,
    ),
    metric(
        "train/truncated", "ratio", TRAINER,
        "Share of responses that ended at the token limit. 0 for multi-turn agents through 0.11.0: unknown then.",
        first="0.9.2", note="from 0.11.1 also set for multi-turn agents, by the last turn", source=DAPO,
        healthy="at most 0.02",
    ),
    metric(
        "train/dynamic_filtering_pass_rate", "ratio", TRAINER,
        "Share of prompts whose group passes dynamic filtering. As logged: percent of samples through 0.9.0, percent "
        "of prompts through 0.9.8, since then percent times samples per prompt.",
        first="0.8.1", note="absent when the step is served from the buffer", source=DAPO,
    ),
)  # fmt: skip

GONE: tuple[Metric, ...] = (
    metric("train/num_actions", "tokens", ACTOR, "Response tokens.", last="0.6.4"),
    metric(
        "train/ptx_loss", "nats_per_token", ACTOR, "Cross-entropy on the pretraining mix.", last="0.7.0",
        source="Ouyang et al. 2022, arXiv:2203.02155",
    ),
    metric(
        "perf/experience_maker/generate_time", "seconds", ACTOR, "Generation, with --perf.", last="0.6.2",
    ),
    metric(
        "perf/experience_maker/actor_value_rm_time", "seconds", ACTOR, "Forward passes of the models, with --perf.",
        last="0.7.0",
    ),
    metric(
        "perf/experience_maker/wait_time", "seconds", ACTOR, "Waiting for remote models, with --perf.", last="0.7.0",
    ),
)  # fmt: skip
