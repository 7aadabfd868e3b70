"""docs/receivers.md: every example is a good configuration, every receiver and every name of a template is there."""

from __future__ import annotations

import re
from pathlib import Path

from rlhfd_alerts.receivers import RECEIVERS
from rlhfd_alerts.template import NAMES
from rlhfd_daemon.config import load

PAGE = (Path(__file__).parents[2] / "docs" / "receivers.md").read_text("utf-8")


def test_all_examples_together_are_a_good_configuration(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) >= len(RECEIVERS)
    path = tmp_path / "rlhfd.toml"
    path.write_text("\n".join(examples))
    config = load(path, {"STATE_DIRECTORY": "/var/lib/rlhfd"})
    assert {one.__struct_config__.tag for one in config.targets.values()} == set(RECEIVERS)
    assert config.links.dashboard_url
    assert config.heartbeat.enabled


def test_every_receiver_has_a_section_and_every_name_of_a_template_is_listed() -> None:
    assert {name for name in RECEIVERS if f"\n## {name}\n" not in PAGE} == set()
    assert {name for name in NAMES if f"`{{{name}}}`" not in PAGE} == set()
