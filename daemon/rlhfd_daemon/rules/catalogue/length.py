"""Answers that are cut off, empty, or change their length."""

from __future__ import annotations

from rlhfd_daemon.rules.catalogue.row import row
from rlhfd_daemon.rules.catalogue.terms import (
    INFO,
    LENGTH,
    MEASURED,
    OURS,
    REWARD,
    TRUNCATED,
    WARNING,
    above,
    every_above,
    fallen,
    now_below,
    now_times,
    times,
)
from rlhfd_daemon.rules.rule import Argument

__all__ = ["ROWS"]

CAP = Argument(("rollout.max_new_tokens", "generate_max_len"), 0.98)
CUT = (
    "Answers do not end in time: raise --rollout.max_new_tokens and --data.max_len, or penalise length "
    "(--reward.overlong_buffer_len). If they never end, the end-of-text token is not learnt: look at the chat template "
    "(--data.apply_chat_template) and at samples."
)

ROWS = (
    row(
        "truncated_often", "Many answers are cut off", "length", WARNING,
        (above(TRUNCATED, 0.4),), hold=(9, 10), after=5, critical=0.95,
        summary="{value} of the answers are cut off at the limit",
        remedy=CUT, source=f"Yu et al. 2025 (DAPO), arXiv:2503.14476; {MEASURED}: at most 0.02; 0.5 and 0.99 in runs "
        "that were lost",
        false_positives="A limit that is short on purpose, at the beginning.",
    ),
    row(
        "context_full", "Many samples fill the whole context", "length", WARNING,
        (above("train/response_clip_ratio", 0.4),), hold=(8, 10), after=5, critical=0.95,
        explains=("truncated_often",),
        summary="{value} of the samples are as long as the whole context",
        remedy=CUT, source=f"openrlhf/trainer/ppo_utils/samples_generator.py; {OURS}",
    ),
    row(
        "length_at_the_cap", "The mean length is at the limit", "length", WARNING,
        (above(LENGTH, CAP),), hold=(3, 5), after=3, strictly=("length_cap",),
        explains=("truncated_often",),
        summary="the mean answer has {value} tokens, the limit is reached",
        remedy=CUT, source=f"{MEASURED}: 256 of 256 tokens in a run that was dead",
    ),
    row(
        "all_at_the_cap", "Every single answer is cut off", "length", WARNING,
        (above("rlhfd/response_length/min", CAP),), hold=(3, 3), after=3, strictly=("length_cap",),
        explains=("truncated_often", "length_at_the_cap"),
        summary="the shortest answer has {value} tokens: none ends by itself",
        remedy=CUT, source="AgentR1/Agent-R1#30: least and greatest length were equal",
    ),
    row(
        "empty_answers", "Answers are empty", "length", WARNING,
        (above("rlhfd/response_length/zero_ratio", 0.05),), hold=(3, 5), critical=0.5,
        explains=("length_collapsed",),
        summary="{value} of the samples have no token at all",
        remedy="Look at the chat template (--data.apply_chat_template) and the prompts: the model ends the text at "
        "once. Samples without tokens shift the baselines of OpenRLHF before 0.11.0: update.",
        source="OpenRLHF/OpenRLHF#1239; the limit is our choice",
    ),
    row(
        "length_collapsed", "Answers have become far shorter", "length", WARNING,
        (now_below(LENGTH, 0.4),), hold=(5, 6), after=25,
        explains=("level_change", "reward_collapse"),
        summary="answers are {value} times as long as in the 50 steps before",
        remedy="Read samples: a short answer is rewarded, or the policy is broken. Look at the reward for empty "
        "answers; lower --actor.adam.lr; --reward.stop_properly_penalty_coef may pay for early ends.",
        source="alibaba/ROLL#303, huggingface/trl#986; the numbers are our choice",
        false_positives="A reward for brevity.",
    ),
    row(
        "length_up_reward_down", "Answers become longer and the reward falls", "length", WARNING,
        (times(LENGTH, 1.4), every_above(LENGTH, 1.0, 10), fallen(REWARD, 0.4)), hold=(5, 6), after=55,
        explains=("truncated_often", "level_change", "length_cap_reached"),
        summary="answers are {value} times as long as in the 50 steps before, and the reward falls",
        remedy="The policy runs on: look at samples, at the weight sync (rlhfd/mismatch/*) and at "
        "--reward.overlong_buffer_len; lower --actor.adam.lr.",
        source="langfengQ/verl-agent#188, huggingface/trl#3138; the numbers are our choice",
    ),
    row(
        "length_doubled", "Answers have become twice as long", "length", WARNING,
        (now_times(LENGTH, 2.0), every_above(LENGTH, 1.2, 6)), hold=(6, 8), after=25,
        explains=("truncated_often", "step_slow", "length_cap_reached", "level_change"),
        summary="answers are {value} times as long as in the 50 steps before",
        remedy="Read samples. If they ramble, penalise length (--reward.overlong_buffer_len) or look for a length bias "
        "of the reward; if they reason, raise --rollout.max_new_tokens in time.",
        source=f"{OURS}; {MEASURED}: a run whose length blew up",
        false_positives="Data whose answers are longer.",
    ),
    row(
        "length_cap_reached", "Answers will reach the limit", "length", INFO,
        analyzer="forecast", metrics=(LENGTH,), strictly=("length_cap",),
        explains=("truncated_often", "length_at_the_cap"),
        summary="at its pace the mean length reaches the limit soon",
        remedy=CUT, source=OURS,
    ),
    row(
        "evaluation_truncated", "Answers of the evaluation are cut off", "length", INFO,
        (above("eval/eval_truncated_rate", 0.4),), hold=(2, 3),
        summary="{value} of the evaluation's answers are cut off at the limit",
        remedy="The evaluation measures the limit: raise --rollout.max_new_tokens.", source=OURS,
    ),
)  # fmt: skip
