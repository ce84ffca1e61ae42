"""Credentials are hidden by their name and place, and everything else is left as it is."""

import time

import pytest

from implicit_prm.types import ImplicitPRMError
from implicit_prm.utils.secrets import HIDDEN, hide_argument, hide_secrets, is_secret, secret_values, without_secrets

SECRET = "s3same"


@pytest.mark.parametrize(
    "name",
    ["token", "hub_token", "apiKey", "X-API-Key", "AWS_SECRET_ACCESS_KEY", "password", "Authorization", "auth", "key"],
)
def test_names_of_credentials(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name", ["tokens", "tokenizer", "max_tokens", "eos_token", "stop_token", "api_key_env", "monkey", "step_labels"]
)
def test_other_names(name):
    assert not is_secret(name)


def test_options_are_copied_without_credentials():
    options = {
        "hub_token": SECRET,
        "token": None,
        "extra_body": {"api_key": SECRET, "top_k": 0, "headers": {"X-Mine": SECRET, "X-None": None}},
        "urls": [f"http://:{SECRET}@host/v1", f"https://host/p?a={SECRET}&b=1#k={SECRET}", "https://host/p#part"],
        "tokens": {"separator": "x"},
        "use_auth_token": True,
    }
    before = repr(options)
    hidden = without_secrets(options)
    assert SECRET not in repr(hidden)
    assert repr(options) == before
    assert hidden["extra_body"] == {"api_key": HIDDEN, "top_k": 0, "headers": {"X-Mine": HIDDEN, "X-None": None}}
    assert hidden["urls"][2] == "https://host/p#part"
    assert hidden["tokens"] == {"separator": "x"}
    assert hidden["use_auth_token"] is True
    assert set(secret_values(options)) == {SECRET}


@pytest.mark.parametrize(
    "text",
    [
        f"no reply of https://me:{SECRET}@host/v1",
        f"https://me:{SECRET}@x@host",
        f"ipr-train +trainer.hub_token={SECRET} loss=ce",
        f"policy.extra_body={{top_k: 1, api_key: {SECRET}}}",
        f"{{'password': '{SECRET} {SECRET}'}}",
        f"Authorization: Bearer {SECRET}",
        f"invalid key hf_{SECRET}{SECRET}",
        f"incorrect API key provided: sk-{SECRET}-{SECRET}",
    ],
)
def test_messages_are_free_of_credentials(text):
    assert SECRET not in hide_secrets(text)
    assert SECRET not in str(ImplicitPRMError(text))
    assert hide_secrets(hide_secrets(text)) == hide_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "data.max_length is -1; it must be at least 1",
        "token 5 has no embedding; eos_token=</s>, pad_token: <pad>",
        "see https://huggingface.co/docs/transformers/installation#offline-mode",
        "{problem: 'the token: x'}",
    ],
)
def test_other_messages_are_unchanged(text):
    assert hide_secrets(text) == text


def test_known_credentials_are_hidden_wherever_they_stand():
    assert SECRET not in hide_secrets(f"who is {SECRET}?", [SECRET])


def test_arguments_keep_their_names():
    assert hide_argument(f"+trainer.hub_token=a b {SECRET}") == f"+trainer.hub_token={HIDDEN}"
    assert hide_argument("loss=ce") == "loss=ce"


@pytest.mark.parametrize("unit", ["a.a-", "{,", "token", "x://", "?a=", "@", '"token', "hf_", "{ "])
def test_hiding_takes_linear_time(unit):
    start = time.process_time()
    hide_secrets(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 1
