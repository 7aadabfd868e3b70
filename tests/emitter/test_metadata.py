"""What a run says about itself, and that no secret is in it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhfd_emitter.metadata import REDACTED, flatten, host, redact, redact_url, versions

SECRETS = [
    "use_wandb", "wandb.key", "logger.wandb.key", "wandb_key", "api_key", "apikey", "wandb_api_key", "WANDB_API_KEY",
    "reward.api_key", "reward.api_key_file", "hf_token", "token", "hub_token", "HF_TOKEN", "auth_token", "access_token",
    "secret", "client_secret", "aws_secret_access_key", "aws_access_key_id", "private_key", "ssh_private_key",
    "password", "passwd", "db_password", "credential", "credentials", "google_credentials", "authorization", "auth",
    "logger.swanlab.api_key", "bearer_token",
]  # fmt: skip
HARMLESS = [
    "input_key", "label_key", "data.input_key", "output_key", "prompt_key", "chosen_key", "image_key", "pretrain",
    "apply_chat_template", "pad_token", "eos_token", "bos_token", "unk_token", "tokenizer.pad_token", "image_token",
    "max_token", "wandb_project", "wandb.project", "wandb.run_name", "wandb_org", "tokenizer", "max_new_tokens",
    "monkey", "keyboard", "actor.lr", "num_episodes",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_is_redacted_under_every_spelling_of_its_name(key: str) -> None:
    assert redact(key, "hunter2") == REDACTED
    assert redact(key.upper(), "hunter2") == REDACTED
    assert "hunter2" not in repr(redact(key, ["hunter2", ("hunter2",)]))
    assert "hunter2" not in repr(redact(key, {"value": "hunter2"}))
    assert "hunter2" not in repr(redact(key, b"hunter2"))
    assert "hunter2" not in repr(redact(key, PurePosixPath("hunter2")))


@pytest.mark.parametrize("key", HARMLESS)
def test_names_that_only_look_like_secrets_keep_their_values(key: str) -> None:
    assert redact(key, "value") == "value"


@pytest.mark.parametrize("value", [None, True, False, ""])
def test_whether_a_secret_is_set_at_all_may_be_known(value: object) -> None:
    assert redact("use_wandb", value) == value


def test_secrets_inside_a_mapping_go_by_their_own_names() -> None:
    assert redact(
        "agent.kwargs", {"api_key": "hunter2", "model": "m", "X-Api-Key": "hunter2", "deep": [{"password": "p"}]}
    ) == {
        "api_key": REDACTED,
        "X-Api-Key": REDACTED,
        "model": "m",
        "deep": [{"password": REDACTED}],
    }


URLS = [
    ("http://host:5000/get_reward", "http://host:5000/get_reward"),
    ("http://user:pass@host:5000/x", "http://host:5000/x"),
    ("https://token@host/x", "https://host/x"),
    ("https://host/x?key=abc&y=1", f"https://host/x?{REDACTED}"),
    ("https://host/x#secret", f"https://host/x#{REDACTED}"),
    ("https://host?a=1,2", f"https://host?{REDACTED}"),
    ("http://one?a=b,http://two?c=d", f"http://one?{REDACTED},http://two?{REDACTED}"),
    ("a://https://u:p@host", "a://https://host"),
    ("postgres://u:p@ss@host/db", "postgres://host/db"),
    ("s3://bucket/path", "s3://bucket/path"),
    ("http://u:p@[::1]:80/", "http://[::1]:80/"),
    ("http://u:p@[broken", "http://[broken"),
    ("http://u:p@one/x,http://u:p@two/y", "http://one/x,http://two/y"),
    ("one http://u:p@one/x two https://t@two", "one http://one/x two https://two"),
    ("no url", "no url"),
    ("openai/gsm8k@0.5,other", "openai/gsm8k@0.5,other"),
]


@pytest.mark.parametrize(("url", "expected"), URLS)
def test_credentials_and_queries_are_cut_out_of_urls(url: str, expected: str) -> None:
    assert redact_url(url) == expected
    assert redact("reward.remote_url", [url]) == [expected]


@given(password=st.from_regex(r"[A-Z0-9?#,:@]{0,3}[A-Z0-9]{6}", fullmatch=True), around=st.text("ab:/@?#, "))
def test_a_password_in_a_url_never_comes_through(password: str, around: str) -> None:
    text = f"{around}https://u:{password}@h.example/x?{password[-6:]}"
    assert password[-6:] not in str(redact("data", text))


def test_nested_and_flat_arguments_become_dotted_names() -> None:
    nested = Namespace(actor=Namespace(lr=1e-6, adam=Namespace(betas=(0.9, 0.95))), seed=42, ckpt=Namespace())
    assert flatten(nested) == {"actor.lr": 1e-6, "actor.adam.betas": [0.9, 0.95], "seed": 42}
    assert flatten(Namespace(actor_lr=1e-6, use_wandb="hunter2")) == {"actor_lr": 1e-6, "use_wandb": REDACTED}


def test_values_that_are_no_plain_ones_become_short_texts_and_functions_do_not_unfold() -> None:
    flat = flatten(Namespace(path=PurePosixPath("/data"), cls=dict, raw=b"hunter2"))
    assert flat == {"path": "/data", "cls": "<class 'dict'>", "raw": "<bytes>"}


def test_arguments_that_refer_to_themselves_end() -> None:
    loop: Any = Namespace(a=1)
    loop.self = loop
    flat = flatten(loop)
    assert flat["a"] == 1
    assert len(flat) < 20
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "<dict>" in repr(flatten(Namespace(endless=endless)))


def test_a_secret_deeper_than_the_limit_stays_inside() -> None:
    inner: Any = Namespace(api_key="hunter2")
    for _ in range(12):
        inner = Namespace(next=inner)
    assert "hunter2" not in repr(flatten(inner))


def test_a_group_of_arguments_under_a_secret_name_is_a_secret() -> None:
    assert flatten(Namespace(credentials=Namespace(user="hunter2"))) == {"credentials": REDACTED}


def test_versions_are_of_what_is_installed() -> None:
    found = versions()
    assert "rlhfd" in found
    assert "deepspeed" not in found
    assert set(host()) == {"hostname", "python", "machine", "cwd"}
