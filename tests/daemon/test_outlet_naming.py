"""From metric names to Prometheus families: placeholders become labels, units the end of the name, nothing collides."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from rlhfd_daemon.metrics import TABLE
from rlhfd_daemon.metrics.metric import Metric, metric, observed
from rlhfd_daemon.outlets.naming import USER, Family, family, series


def row(name: str, unit: str, **changes: object) -> Metric:
    return observed(name, unit, "node", "What it is.", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "unit", "expected", "kind"),
    [
        ("train/kl", "nats_per_token", "rlhfd_train_kl", "gauge"),
        ("train/response_length", "tokens", "rlhfd_train_response_length_tokens", "gauge"),
        ("train/ppo_clip_ratio", "ratio", "rlhfd_train_ppo_clip_ratio", "gauge"),
        ("gpu/<n>/power_watts", "watts", "rlhfd_gpu_power_watts", "gauge"),
        ("gpu/<n>/mig/<n>/memory_used_bytes", "bytes", "rlhfd_gpu_mig_memory_used_bytes", "gauge"),
        ("phase/<phase>/seconds", "seconds", "rlhfd_phase_seconds", "gauge"),
        ("disk/<device>/written_total", "bytes", "rlhfd_disk_written_bytes", "counter"),
        ("host/oom_kills_total", "count", "rlhfd_host_oom_kills", "counter"),
        ("rlhfd/ratio_of/kl_policy_loss", "1", "rlhfd_ratio_of_kl_policy_loss", "gauge"),
        ("eval/eval_<datasource>_pass<n>", "1", "rlhfd_eval_datasource_pass_n", "gauge"),
        ("eval/eval gpt_loss", "nats_per_token", "rlhfd_eval_gpt_loss", "gauge"),
        ("host/FD_count", "count", "rlhfd_host_fd_count_value", "gauge"),
    ],
)
def test_a_row_has_the_name_that_prometheus_users_expect(name: str, unit: str, expected: str, kind: str) -> None:
    found = family(row(name, unit))
    assert (found.name, found.kind) == (expected, kind)


def test_only_what_rlhfd_counts_is_a_counter() -> None:
    found = family(metric("train/timing/step_total", "seconds", "PPOTrainer", "Sum of the timings."))
    assert found == Family(
        "rlhfd_train_timing_step_total_seconds", "gauge", "seconds", "Sum of the timings. Unit: seconds."
    )
    assert family(metric("train/samples_total", "count", "PPOTrainer", "Samples.")).kind == "gauge"
    assert family(metric("train/samples_total", "count", "PPOTrainer", "Samples.")).name.endswith("_total_value")


@pytest.mark.parametrize(
    ("name", "expected", "labels"),
    [
        ("train/kl", "rlhfd_train_kl", {}),
        ("kl", "rlhfd_train_kl", {}),
        ("eval/eval_math_pass1", "rlhfd_eval_datasource_pass1", {"datasource": "math"}),
        ("eval/eval_a_pass9/b_pass16", "rlhfd_eval_datasource_pass_n", {"datasource": "a_pass9/b", "n": "16"}),
        ("eval/eval_math_truncated_rate", "rlhfd_eval_datasource_truncated_rate_ratio", {"datasource": "math"}),
        ("eval/eval_truncated_rate", "rlhfd_eval_truncated_rate_ratio", {}),
        ("gpu/7/power_watts", "rlhfd_gpu_power_watts", {"gpu": "7"}),
        ("process/PolicyModelActor-0/rss_bytes", "rlhfd_process_rss_bytes", {"process": "PolicyModelActor-0"}),
        ("disk/nvme0n1/free_bytes", "rlhfd_disk_free_bytes", {"device": "nvme0n1"}),
        ("judge/score", "rlhfd_user_metric", {"name": "judge/score"}),
        ("gpu/x/power_watts", "rlhfd_user_metric", {"name": "gpu/x/power_watts"}),
        ("gpu/<n>/power_watts", "rlhfd_user_metric", {"name": "gpu/<n>/power_watts"}),
        ('"\n\\', "rlhfd_user_metric", {"name": '"\n\\'}),
    ],
)
def test_a_metric_s_name_says_family_and_labels(name: str, expected: str, labels: dict[str, str]) -> None:
    found = series(name)
    assert (found.family.name, dict(found.labels)) == (expected, labels)


def test_no_two_rows_of_the_table_share_a_family() -> None:
    counts = Counter(family(one).name for one in TABLE)
    assert [name for name, count in counts.items() if count > 1] == []
    assert USER.name not in counts


def test_every_name_and_label_of_the_table_is_one_that_prometheus_takes() -> None:
    for one in TABLE:
        filled = re.sub(r"<(?!n>)\w+>", "x", one.name).replace("<n>", "3")
        found = series(filled)
        assert found.family == family(one), one.name
        assert re.fullmatch(r"rlhfd_[a-z0-9_]*[a-z0-9]", found.family.name)
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) and value in "x3" for label, value in found.labels)
        assert len(found.labels) == one.name.count("<")
        assert found.family.name.endswith(found.family.unit)
