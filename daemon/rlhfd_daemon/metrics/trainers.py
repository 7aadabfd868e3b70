"""What PPO logs about its phases and evaluations, and what the SFT, reward-model and DPO trainers log."""

from __future__ import annotations

from rlhfd_daemon.metrics.metric import Metric, metric

__all__ = ["EVALUATION", "SUPERVISED", "TIMING"]

TRAINER = "PPOTrainer"
SFT, RM, DPO = "SFTTrainer", "RewardModelTrainer", "DPOTrainer"
PAIRS = f"{RM}, {DPO}"
ALL = f"{SFT}, {RM}, {DPO}"
PAIR_LOSS = "Ouyang et al. 2022, arXiv:2203.02155 (RM); Rafailov et al. 2023, arXiv:2305.18290 (DPO)"
CLIPPING = "Pascanu et al. 2013, arXiv:1211.5063"
PASS = "Chen et al. 2021, arXiv:2107.03374"
DAPO = "Yu et al. 2025 (DAPO), arXiv:2503.14476"

TIMING: tuple[Metric, ...] = (
    metric(
        "train/timing/generation", "seconds", f"{TRAINER}; async GenerateSamplesActor",
        "Generation of the step's samples, with reward calls and the retries of dynamic filtering.",
        first="0.9.6", note="async from 0.9.7", verl=("timing_s/gen",),
    ),
    metric(
        "train/timing/make_experience", "seconds", TRAINER,
        "Forward passes of actor, critic, reference and reward model, then advantages.", first="0.9.6",
    ),
    metric(
        "train/timing/ppo_train", "seconds", TRAINER, "Training of actor and critic.", first="0.9.6",
    ),
    metric(
        "train/timing/broadcast", "seconds", TRAINER, "Sending the actor's weights to the vLLM engines.",
        first="0.9.6", verl=("timing_s/update_weights",),
    ),
    metric(
        "train/timing/step_total", "seconds", TRAINER,
        "Sync: sum of the other timings, without logging, checkpoints and evaluation. Async: wall time with the wait "
        "for samples. Never compare the two.",
        first="0.9.6", note="async from 0.9.7", healthy="99th percentile at most twice the median",
        trl=("step_time",), verl=("timing_s/step",),
    ),
)  # fmt: skip

EVALUATION: tuple[Metric, ...] = (
    metric(
        "eval/eval_<datasource>_pass1", "1", TRAINER,
        "Mean over prompts of the mean raw reward of their samples: a pass rate only if the reward is 0 or 1.",
        first="0.7.0", source=PASS,
        verl=("val-core/<datasource>/reward/mean@<n>", "val-core/<datasource>/acc/mean@<n>"),
    ),
    metric(
        "eval/eval_<datasource>_pass<n>", "1", TRAINER,
        "Mean over prompts of the best raw reward among their n samples.", first="0.7.0", source=PASS,
    ),
    metric(
        "eval/eval_<datasource>_response_length_mean", "tokens", TRAINER, "Mean response length of one data set.",
        first="0.9.7",
    ),
    metric(
        "eval/eval_<datasource>_truncated_rate", "ratio", TRAINER,
        "Share of one data set's responses that ended at the token limit. 0 for multi-turn agents through 0.11.0: "
        "unknown then.",
        first="0.9.7", source=DAPO,
    ),
    metric(
        "eval/eval_response_length_mean", "tokens", TRAINER, "Mean response length of all evaluation samples.",
        first="0.9.7",
    ),
    metric(
        "eval/eval_truncated_rate", "ratio", TRAINER,
        "Share of all evaluation responses that ended at the token limit. 0 for multi-turn agents through 0.11.0: "
        "unknown then.",
        first="0.9.7", source=DAPO,
    ),
    metric("eval/eval_num_samples", "count", TRAINER, "Samples of the evaluation.", first="0.9.7"),
)  # fmt: skip

SUPERVISED: tuple[Metric, ...] = (
    metric(
        "train/gpt_loss", "nats_per_token", SFT, "Cross-entropy of the last micro-batch.", verl=("train/loss",),
    ),
    metric(
        "train/loss", "nats", PAIRS, "Preference loss of the last micro-batch, per pair: ln 2 is guessing.",
        source=PAIR_LOSS,
    ),
    metric(
        "train/loss_mean", "nats", ALL,
        "Mean of the loss over the step's micro-batches; per token for SFT, per pair else.",
    ),
    metric(
        "train/acc", "ratio", PAIRS, "Share of the last micro-batch's pairs whose chosen answer is rewarded higher.",
        source=PAIR_LOSS, trl=("rewards/accuracies", "accuracy"),
    ),
    metric("train/acc_mean", "ratio", PAIRS, "Mean of acc over the step's micro-batches.", source=PAIR_LOSS),
    metric(
        "train/chosen_reward", "1", PAIRS,
        "Mean reward of the chosen answers; for DPO the implicit one, beta times the log-ratio to the reference.",
        source=PAIR_LOSS, trl=("rewards/chosen",),
    ),
    metric(
        "train/reject_reward", "1", PAIRS, "Mean reward of the rejected answers, as for chosen_reward.",
        source=PAIR_LOSS, trl=("rewards/rejected",),
    ),
    metric(
        "train/nll_loss", "nats_per_token", DPO, "Cross-entropy of the chosen answers. Only with its coefficient set.",
        source="Pang et al. 2024, arXiv:2404.19733",
    ),
    metric(
        "train/aux_loss", "1", f"{SFT}, {RM}", "Load-balancing loss of the experts. Only with its coefficient set.",
        source="Shazeer et al. 2017, arXiv:1701.06538", trl=("aux_loss",),
    ),
    metric(
        "train/lr", "1", ALL, "Learning rate of the first parameter group.",
        trl=("learning_rate", "lr"), verl=("train/lr",),
    ),
    metric(
        "train/grad_norm", "1", ALL, "Global L2 norm of the gradient before clipping.",
        first="0.9.6", source=CLIPPING, trl=("grad_norm",), verl=("train/grad_norm",),
    ),
    metric(
        "eval/eval gpt_loss", "nats_per_token", SFT, "Cross-entropy on the evaluation set. The space is OpenRLHF's.",
        verl=("val/loss",),
    ),
    metric("eval/eval_loss", "nats", PAIRS, "Preference loss on the evaluation set, per pair.", source=PAIR_LOSS),
    metric(
        "eval/acc_mean", "ratio", PAIRS, "Share of evaluation pairs whose chosen answer is rewarded higher.",
        source=PAIR_LOSS, trl=("eval/rewards/accuracies", "eval/accuracy"),
    ),
    metric(
        "eval/reward_mean", "1", RM, "Mean reward of all evaluation answers, chosen and rejected.",
        trl=("eval/mean_reward",),
    ),
    metric("eval/reward_std", "1", RM, "Standard deviation of the reward over all evaluation answers."),
)  # fmt: skip
