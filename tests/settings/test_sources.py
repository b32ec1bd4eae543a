"""Settings from files, and whatever else people write."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.settings import MODEL_KNOBS, SERVER_KNOBS, Settings, SettingsError, load_settings
from app.settings.knobs import NOT_YET, variable_of

KEY = "sk-very-secret-123"


def load(directory: Path, flags: Mapping[str, object] | None = None, **environ: str) -> Settings:
    return load_settings(flags or {}, environ, directory)


def refusal(directory: Path, flags: Mapping[str, object] | None = None, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(directory, flags, **environ)
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


def yaml(directory: Path, text: str) -> str:
    (directory / "c.yaml").write_text(text)
    return "c.yaml"


def test_a_list_of_models(tmp_path: Path) -> None:
    config = yaml(
        tmp_path,
        "models:\n  - {model_path: a/b, queue_size: 7}\n  - {model_path: c, served_model_name: d, model_type: tts}\n",
    )
    first, second = load(tmp_path, CONFIG=config).models
    assert (first.name, first.queue_size, second.name, second.model_type) == ("a/b", 7, "d", "tts")
    assert [model.queue_size for model in load(tmp_path, {"queue_size": "3"}, CONFIG=config).models] == [3, 3]


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_named_model_replaces_the_list(tmp_path: Path, by: str) -> None:
    config = yaml(tmp_path, "models:\n  - {model_path: a, queue_size: 7}\n  - {model_path: b}\n")
    flags, environ = ({"model_path": "x"}, {}) if by == "flag" else ({}, {"MODEL_PATH": "x"})
    models = load(tmp_path, flags, CONFIG=config, **environ).models
    assert [(model.name, model.queue_size) for model in models] == [("x", 100)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:\n  prot: 1", "server.prot in c.yaml is not a known setting: did you mean port?"),
        ("models: [{model_path: a, kv_bits: 5}]", "models[0].kv_bits in c.yaml must be 4, 6 or 8, not 5"),
        ("models: [{model_path: a, quantized_kv_start: 9}]", "models[0].quantized_kv_start in c.yaml must be 0, not 9"),
        ("models: [{message_converter: b}]", "models[0].message_converter in c.yaml is not supported yet"),
        ("port: 1", "port in c.yaml belongs in the server section"),
        ("server: {queue_size: 1}", "server.queue_size in c.yaml belongs in an entry of models"),
        ("models:\n  - {model_path: a, port: 1}", "models[0].port in c.yaml belongs in the server section"),
        ("modles: []", "modles in c.yaml is not a known setting: did you mean models?"),
        ("server: {config: other.yaml}", "server.config in c.yaml is not a known setting"),
        ("models: []", "models in c.yaml must be a list with an entry for each model"),
        ("models: [{queue_size: 1}]", "models[0] in c.yaml needs a model_path"),
        ("server: [1]", "server in c.yaml must hold keys and values (key: value)"),
        ("server: {port: on}", "server.port in c.yaml must be a number or a text in quotes, not true"),
        ("server: {port: 70000}", "server.port in c.yaml must be less than or equal to 65535, not 70000"),
        ("models: [{model_path: 7}]", "models[0].model_path in c.yaml must be text (put it in quotes), not 7"),
        ("models: [{model_path: a}, {model_path: a}]", "two models would be served as 'a'"),
        ("server: {1: 2}", "server.1 in c.yaml is not a known setting"),
    ],
)
def test_a_wrong_yaml_file(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(tmp_path, CONFIG=yaml(tmp_path, text)).startswith(said)


def test_yaml_without_values_is_unset(tmp_path: Path) -> None:
    config = yaml(tmp_path, "server:\n  port:\nmodels:\n")
    assert load(tmp_path, CONFIG=config).model_copy(update={"config": None}) == load(tmp_path)


def test_yaml_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path, {"config": "none.yaml"}) == f"{str(tmp_path / 'none.yaml')!r} does not exist"
    assert "cannot be read" in refusal(tmp_path, {"config": "."})
    assert "larger" in refusal(tmp_path, {"config": yaml(tmp_path, "#" * 2**20 + "\n")})
    assert "not YAML" in refusal(tmp_path, {"config": yaml(tmp_path, "[" * 100_000)})
    assert "in line 2" in refusal(tmp_path, {"config": yaml(tmp_path, "a: b\nc: !!python/object:os.system x")})


def test_a_broken_file_does_not_show_its_secrets(tmp_path: Path) -> None:
    for text in (f"server: {{api_key: {KEY}, port: [1}}", f"server:\n  api_key: '{KEY}\n", f"api_key: {KEY}"):
        assert KEY not in refusal(tmp_path, CONFIG=yaml(tmp_path, text))
    (tmp_path / ".env").write_text(f"PORT=1\nAPI_KEY='{KEY}\n")
    assert refusal(tmp_path) == f"line 2 of {tmp_path / '.env'} must be NAME=value"


def test_env_files(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nexport PORT='9'\n\nSOMEBODY_ELSES=1\nHOST\nLOG_FILE=$HOME/x # why\n")
    settings = load(tmp_path)
    assert (settings.port, settings.host, settings.log_file) == (9, "127.0.0.1", tmp_path / "$HOME/x")
    (tmp_path / ".env").write_bytes(b"PORT=\xff")
    assert refusal(tmp_path).endswith("must be UTF-8 text")
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()
    assert load(tmp_path).port == 8000


ANY_TEXT = st.text() | st.sampled_from(["nan", "1e999", "-0", "9" * 5000, "\0", "\udc80", "~nobody/x", "a" * 5000])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=8) | st.just(10**4000),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ANY_NAME = st.sampled_from(
    [name for knob in (*SERVER_KNOBS, *MODEL_KNOBS) for name in knob.names] + sorted(NOT_YET)
) | st.text(max_size=8)
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal_or_none(directory: Path, flags: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    try:
        load_settings(flags, environ, directory)
    except SettingsError as error:
        return str(error)
    return None


@RELAXED
@given(flags=st.dictionaries(ANY_NAME, ANYTHING, max_size=2), environ=st.dictionaries(ANY_NAME, ANY_TEXT, max_size=2))
@example(flags={"default_temperature": 10**4000}, environ={})
@example(flags={"cache_dir": float("nan")}, environ={"max_body_size": "9" * 400 + "MB"})
def test_strange_values_raise_nothing_but_settings_error(
    tmp_path: Path, flags: dict[str, object], environ: dict[str, str]
) -> None:
    said = refusal_or_none(tmp_path, flags, {variable_of(name): text for name, text in environ.items()})
    # However long a path or name is that they quote.
    assert said is None or 0 < len(said) < 4000


@RELAXED
@given(data=st.binary(max_size=60) | ANY_TEXT.map(lambda text: text.encode(errors="surrogatepass")))
@example(data=b"server: {port: 2024-99-99}")
@example(data=b"server: {port: !!int ''}")
@example(data=b"server: &a {port: *a}")
@example(data=b"server: {api_key: &a [*a]}")
@example(data=b"server: {? [1] : 2}")
@example(data=b"server: {port: 0x" + b"f" * 9000 + b"}")
@example(data=b'server: {log_file: "\\0"}')
@example(data=b"=: 1")
def test_strange_files_raise_nothing_but_settings_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    (tmp_path / ".env").write_bytes(data)
    for environ in ({"CONFIG": "c.yaml"}, {}):
        said = refusal_or_none(tmp_path, {}, environ)
        # However long a path or name is that they quote.
    assert said is None or 0 < len(said) < 4000
