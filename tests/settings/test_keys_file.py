"""The file of API keys: what it may say, and what is said when it does not."""

from pathlib import Path

import pytest

from app.settings import Settings, SettingsError, load_settings

LIMITED = """
alice: sk-alice
"bob@example.com":
  key: sk-bob
  requests_per_minute: 60
  tokens_per_minute: 100000
  max_concurrency: 2
root: {key: "sk-root", admin: true}
"""


def load(directory: Path, text: str, **flags: object) -> Settings:
    (directory / "keys.yaml").write_text(text)
    return load_settings({"api_keys_file": "keys.yaml", **flags}, {}, directory)


def refusal(directory: Path, text: str, **flags: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(directory, text, **flags)
    return str(caught.value)


def test_keys_have_names_and_limits(tmp_path: Path) -> None:
    alice, bob, root = load(tmp_path, LIMITED).access_keys
    assert (alice.name, alice.key.get_secret_value(), alice.admin) == ("alice", "sk-alice", False)
    assert (alice.requests_per_minute, alice.tokens_per_minute, alice.max_concurrency) == (None, None, None)
    assert (bob.name, bob.key.get_secret_value()) == ("bob@example.com", "sk-bob")
    assert (bob.requests_per_minute, bob.tokens_per_minute, bob.max_concurrency) == (60, 100_000, 2)
    assert (root.name, root.admin) == ("root", True)


def test_plain_keys_stand_beside_them(tmp_path: Path) -> None:
    keys = load(tmp_path, "alice: sk-alice", api_key=("one", "two")).access_keys
    assert [key.name for key in keys] == ["alice", "api_key#1", "api_key#2"]
    assert not any(key.admin for key in keys)


def test_they_guard_an_address_that_others_reach(tmp_path: Path) -> None:
    assert load(tmp_path, "alice: sk-alice", host="0.0.0.0").host == "0.0.0.0"


def test_they_do_not_show(tmp_path: Path) -> None:
    settings = load(tmp_path, LIMITED, api_key=("sk-plain",))
    assert "sk-" not in f"{settings!r} {settings} {settings.access_keys}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "keys.yaml must name at least one key, as in alice: KEY"),
        ("- sk-1", "keys.yaml must hold keys and values (key: value)"),
        ("alice:", "alice in keys.yaml needs a key, as in alice: KEY"),
        ("alice: {admin: true}", "alice in keys.yaml needs a key, as in alice: KEY"),
        ("alice: 12345", "alice.key in keys.yaml must be text (put it in quotes)"),
        ("alice: [sk-1]", "alice.key in keys.yaml must be text (put it in quotes)"),
        ("alice: 'sk 1'", "alice.key in keys.yaml must be printable ASCII without spaces, and not empty"),
        ("alice: sk-1\nalice: sk-2", "alice is in keys.yaml twice: give each key a name of its own"),
        ("alice: sk-1\nbob: sk-1", "alice and bob are the same API key: give each client a key of its own"),
        ("a b: sk-1", "the name of a key in keys.yaml must be up to 64 letters, digits and . _ @ -"),
        ("'': sk-1", "the name of a key in keys.yaml must be up to 64 letters, digits and . _ @ -"),
        ("a: {key: sk-1, rpm: 3}", "a.rpm in keys.yaml is not a known setting"),
        ("a: {key: sk-1, max_concurency: 3}", "a.max_concurency in keys.yaml is not a known setting: did you mean"),
        ("a: {key: sk-1, requests_per_minute: 0}", "a.requests_per_minute in keys.yaml must be greater than or equal"),
        ("a: {key: sk-1, tokens_per_minute: many}", "a.tokens_per_minute in keys.yaml must be a whole number"),
        ("a: {key: sk-1, admin: 3}", "a.admin in keys.yaml must be true or false"),
        ("a: sk-1: x", "is not YAML"),
    ],
)
def test_mistakes_are_one_sentence_without_the_key(tmp_path: Path, text: str, said: str) -> None:
    sentence = refusal(tmp_path, text)
    assert said in sentence
    assert "\n" not in sentence
    assert not any(key in sentence for key in ("sk-1", "sk-2", "sk 1", "12345"))


def test_a_plain_key_that_is_also_a_named_one_is_refused(tmp_path: Path) -> None:
    assert "alice and api_key#1 are the same API key" in refusal(tmp_path, "alice: sk-1", api_key=("sk-1",))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings({"api_keys_file": "none.yaml"}, {}, tmp_path)
