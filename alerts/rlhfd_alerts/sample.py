"""A notification to try a target with: as real ones look, and plainly a test."""

from __future__ import annotations

import secrets
from dataclasses import replace

from rlhfd_alerts.alert import Alert, AlertState, Episode, News, Notification, Transition, fingerprint
from rlhfd_alerts.canonical import canonical_json
from rlhfd_alerts.content import body
from rlhfd_alerts.finding import Finding, Severity

__all__ = ["sample"]

_BEGUN_SECONDS = 240.0
_KL = (0.021, 0.019, 0.024, 0.022, 0.031, 0.058, 0.117, 0.24, 0.46, 0.75)
_REWARD = (0.41, 0.43, 0.42, 0.44, 0.45, 0.52, 0.63, 0.71, 0.78, 0.83)
_FIRST_STEP = 111


def sample(host: str, resolved: bool, now: float) -> tuple[str, bytes]:
    """Return id and body of a test: an episode of two alerts that opened some minutes before ``now`` (unix seconds),
    or its end. Of one host it is always the same episode, so that the end belongs to what was sent before."""
    findings = (
        _finding(
            host, now, "kl_runaway", "kl", "train/kl", Severity.CRITICAL, _KL,
            "TEST: train/kl is 0.75 at step 120, 34 times its baseline, and still rising",
            "This is a test of rlhfd's alerts, nothing is wrong. A real one would say: raise --algo.kl.init_coef.",
        ),
        _finding(
            host, now, "level_change", "reward", "train/reward", Severity.WARNING, _REWARD,
            "TEST: train/reward is 0.83 at step 120, where 0.43 was to be expected", "",
        ),
    )  # fmt: skip
    state = AlertState.RESOLVED if resolved else AlertState.FIRING
    alerts = tuple(_alert(finding, state, now) for finding in findings)
    episode = Episode(
        id=f"ep_test_{fingerprint(findings[0])}",
        state=state,
        severity=Severity.CRITICAL,
        opening=1,
        opened_step=_FIRST_STEP + 5,
        opened_time=now - _BEGUN_SECONDS,
        ended_step=_FIRST_STEP + 9 if resolved else None,
        ended_time=now if resolved else None,
        members=alerts,
        more=0,
        firing=0 if resolved else len(alerts),
        confidence=0.97,
        news=(News.RESOLVED if resolved else News.OPENED,),
    )
    transitions = tuple(Transition(alert, state, 0, now, episode) for alert in alerts)
    identity = f"msg_test_{secrets.token_hex(8)}"
    notification = Notification(identity, "rlhfd-test", "test", Severity.CRITICAL, state, transitions, episode)
    return identity, canonical_json(body(notification))


def _finding(
    host: str, now: float, rule: str, family: str, metric: str, severity: Severity, values: tuple[float, ...],
    summary: str, remedy: str,
) -> Finding:  # fmt: skip
    onset = 5
    return Finding(
        run="rlhfd-test",
        boot="test",
        rule=rule,
        family=family,
        metric=metric,
        severity=severity,
        active=True,
        step=_FIRST_STEP + len(values) - 1,
        time=now,
        value=values[-1],
        baseline=values[0],
        onset_step=_FIRST_STEP + onset,
        onset_time=now - _BEGUN_SECONDS,
        summary=summary,
        remedy=remedy,
        evidence=tuple((_FIRST_STEP + index, value) for index, value in enumerate(values)),
        labels=(("role", "PPOTrainer"), ("rank", "0"), *((("host", host),) if host else ())),
    )


def _alert(finding: Finding, state: AlertState, now: float) -> Alert:
    alert = Alert(
        fingerprint=fingerprint(finding),
        finding=finding,
        starts_at=now - _BEGUN_SECONDS,
        last_value=finding.value,
        last_step=finding.step,
        ends_at=None,
        state=state,
    )
    return alert if state is AlertState.FIRING else replace(alert, ends_at=now)
