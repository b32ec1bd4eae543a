"""Settings: who wins, under which names, and what is refused."""

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import MODEL_KNOBS, SAMPLE_MODEL, SERVER_KNOBS, ModelSpec, Settings, SettingsError, load_settings
from app.settings.knobs import NOT_YET, Knob, variable_of
from tests.settings.examples import write_access_files

KEY = "sk-very-secret-123"

# For every setting but `config` a text that is not its default; a new setting needs one here.
SAMPLES = {
    "models_dir": "models",
    "serve_hub_cache": "true",
    "allow_models": "owner/*",
    "allow_model_deletion": "true",
    "host": "localhost",
    "port": "9001",
    "api_key": KEY,
    "api_keys_file": "keys.yaml",
    "allow_unauthenticated": "true",
    "allowed_origins": "https://chat.example.com",
    "ssl_certfile": "server.crt",
    "ssl_keyfile": "server.key",
    "open_metrics": "true",
    "allow_remote_media": "true",
    "media_root": ".",
    "max_media": "3",
    "max_media_bytes": "1MiB",
    "media_timeout": "2",
    "max_context_tokens": "4096",
    "max_loaded_models": "2",
    "memory_budget": "50%",
    "max_body_bytes": "1MB",
    "heartbeat_interval": "2.5",
    "shutdown_timeout": "0",
    "cache_dir": "cache",
    "store_path": "store.sqlite3",
    "store_in_memory": "true",
    "store_ttl": "60",
    "store_max_bytes": "1MiB",
    "conversation_logs_dir": "conversation_logs",
    "debug": "yes",
    "log_level": "warning",
    "no_log_file": "1",
    "log_file": "server.log",
    "log_json": "on",
    "log_prompts": "true",
    "otlp_endpoint": "http://localhost:4318",
    "model_path": "org/model",
    "model_type": "whisper",
    "served_model_name": "mine",
    "warmup": "false",
    "on_demand": "true",
    "on_demand_idle_timeout": "0",
    "trust_remote_code": "true",
    "chat_template_file": "template.jinja",
    "adapter_path": "adapter",
    "adapters": "mine=adapters/mine,other=/adapters/other",
    "context_length": "2048",
    "max_concurrency": "3",
    "queue_size": "0",
    "queue_timeout": "1",
    "request_timeout": "0",
    "worker_hang_timeout": "none",
    "prefill_step_size": "256",
    "tool_call_parser": "hermes",
    "reasoning_parser": "qwen3",
    "reasoning": "strip",
    "draft_model_path": "small-model",
    "config_name": "z-image-turbo",
    "quantize": "4",
    "lora_paths": "style.safetensors",
    "lora_scales": "0.5",
    "max_image_pixels": "65536",
    "max_input_pixels": "1000000",
    "disable_auto_resize": "true",
    "max_audio_seconds": "60",
    "num_draft_tokens": "4",
    "max_kv_bytes": "1GiB",
    "max_kv_size": "4096",
    "kv_bits": "4",
    "kv_group_size": "32",
    "quantized_kv_start": "0",
    "prompt_cache_bytes": "1MiB",
    "prompt_cache_size": "7",
    "prompt_cache_ttl": "60",
    "prompt_cache_dir": "prompts",
    "prompt_cache_dir_bytes": "1GB",
    "default_max_tokens": "77",
    "default_temperature": "0",
    "default_top_p": "1",
    "default_top_k": "0",
    "default_min_p": "0.1",
    "default_repetition_penalty": "1.2",
    "default_presence_penalty": "-1",
    "default_frequency_penalty": "2",
    "default_seed": "0",
}
KNOBS = [knob for knob in (*SERVER_KNOBS, *MODEL_KNOBS) if knob.field != "config"]
NAMES = [(knob, name) for knob in KNOBS for name in knob.names]


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


def value_of(settings: Settings, knob: Knob) -> object:
    return getattr(settings.models[0] if knob in MODEL_KNOBS else settings, knob.field)


def test_every_setting_has_a_sample() -> None:
    assert {knob.field for knob in KNOBS} == set(SAMPLES)
    others = {"config", "models", "found_spec", "named_keys"}
    assert {knob.field for knob in KNOBS} | others == set(Settings.model_fields) | set(ModelSpec.model_fields)


@pytest.mark.parametrize(("knob", "name"), NAMES, ids=[name for _, name in NAMES])
def test_every_name_works_in_every_source(tmp_path: Path, knob: Knob, name: str) -> None:
    (tmp_path / "template.jinja").write_text("{{ messages }}")
    write_access_files(tmp_path)
    default = value_of(load(tmp_path), knob)
    text = SAMPLES[knob.field]
    by_flag = value_of(load(tmp_path, {name: (text,) if knob.kind in ("list", "paths") else text}), knob)
    by_variable = value_of(load(tmp_path, {}, **{variable_of(name): text}), knob)
    section = (
        f"server:\n  {name}: {text}\n"
        if knob in SERVER_KNOBS
        else f"models:\n  - {name}: {text}\n" + ("" if name == "model_path" else "    model_path: m\n")
    )
    by_yaml = value_of(load(tmp_path, CONFIG=yaml(tmp_path, section)), knob)
    (tmp_path / ".env").write_text(f"{variable_of(name)}={text}\n")
    by_file = value_of(load(tmp_path), knob)
    assert by_flag == by_variable == by_yaml == by_file
    assert by_flag != default


@pytest.mark.parametrize("name", ["port", "heartbeat_interval", "max_context_tokens"])
def test_flag_environment_env_file_yaml_default_in_that_order(tmp_path: Path, name: str) -> None:
    config = yaml(tmp_path, f"server:\n  {name}: 4\n")
    (tmp_path / ".env").write_text(f"{variable_of(name)}=3\n")
    environ = {variable_of(name): "2", "CONFIG": config}
    found = [getattr(load(tmp_path, {name: "1"}, **environ), name), getattr(load(tmp_path, {}, **environ), name)]
    found.append(getattr(load(tmp_path, CONFIG=config), name))
    (tmp_path / ".env").unlink()
    found.append(getattr(load(tmp_path, CONFIG=config), name))
    found.append(getattr(load(tmp_path), name))
    assert found == [1, 2, 3, 4, Settings.model_fields[name].default]


def test_a_second_name_in_a_stronger_source_wins(tmp_path: Path) -> None:
    assert load(tmp_path, {"max_tokens": "5"}, DEFAULT_MAX_TOKENS="6").models[0].default_max_tokens == 5
    assert load(tmp_path, {"host": "localhost"}, HOST="127.0.0.2", SERVER_HOST="127.0.0.3").host == "localhost"


def test_two_names_with_two_values_in_one_source_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, PORT="1", SERVER_PORT="2") == "PORT and SERVER_PORT mean the same: give one of them"
    assert load(tmp_path, PORT="1", SERVER_PORT="1").port == 1


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_is_unset_in_the_environment_and_wrong_as_a_flag(tmp_path: Path, blank: str) -> None:
    assert load(tmp_path, PORT=blank, MODEL_PATH=blank, API_KEY=blank, KV_BITS=blank, CONFIG=blank) == load(tmp_path)
    assert refusal(tmp_path, {"port": blank}) == "--port must not be empty"
    assert "--api-key" in refusal(tmp_path, {"api_key": (blank,)})


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.host, settings.port, settings.api_key, settings.allowed_origins) == ("127.0.0.1", 8000, (), ("*",))
    assert (settings.max_body_bytes, settings.log_level, settings.log_file) == (64 * 2**20, "INFO", None)
    assert settings.cache_dir.is_absolute()
    assert [model.name for model in settings.models] == [SAMPLE_MODEL]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[(name, text) for name in ("default_temperature", "queue_timeout") for text in ("nan", "inf", "-inf", "x")],
        ("default_temperature", "2.01"),
        ("default_temperature", "-0.01"),
        ("default_top_p", "0"),
        ("default_top_p", "1.01"),
        ("default_top_k", "-1"),
        ("default_min_p", "1.5"),
        ("default_repetition_penalty", "0"),
        ("default_presence_penalty", "2.5"),
        ("default_frequency_penalty", "-2.5"),
        ("default_max_tokens", "0"),
        ("default_seed", "-1"),
        ("context_length", "0"),
        ("max_concurrency", "0"),
        ("queue_size", "-1"),
        ("queue_timeout", "0"),
        ("request_timeout", "-1"),
        ("worker_hang_timeout", "-1"),
        ("prefill_step_size", "1.5"),
        ("port", "65536"),
        ("port", "-1"),
        ("max_body_size", "64XB"),
        ("max_body_size", "0"),
        ("max_loaded_models", "0"),
        ("memory_budget", "0%"),
        ("memory_budget", "101%"),
        ("memory_budget", "much"),
        ("memory_budget", "0"),
        ("on_demand_idle_timeout", "-1"),
        ("heartbeat_interval", "0"),
        ("log_level", "loud"),
        ("model_type", "video"),
        ("mlx_warmup", "maybe"),
        ("host", "http://localhost"),
        ("host", "localhost:80"),
        ("allowed_origins", "https://a.example/path"),
        ("chat_template_file", "missing.jinja"),
        ("media_root", "missing"),
        ("log_file", "."),
    ],
)
def test_values_out_of_range_are_refused_with_the_name_that_was_used(tmp_path: Path, name: str, text: str) -> None:
    flag = "--" + name.replace("_", "-")
    assert refusal(tmp_path, {name: text}).startswith(f"{flag} must be ")
    assert refusal(tmp_path, {}, **{variable_of(name): text}).startswith(f"{variable_of(name)} must be ")
    (tmp_path / ".env").write_text(f"{variable_of(name)}={text}\n")
    assert refusal(tmp_path).startswith(f"{variable_of(name)} in .env must be ")


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("64MB", 64_000_000), ("64MiB", 67_108_864), ("64 mib", 67_108_864), ("1000", 1000), ("1.5GB", 1_500_000_000)],
)
def test_body_sizes(tmp_path: Path, text: str, num_bytes: int) -> None:
    assert load(tmp_path, MAX_BODY_SIZE=text).max_body_bytes == num_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"), [("75%", 750), ("0.5 %", 5), ("64MiB", 67_108_864), ("1000", 1000), ("100%", 1000)]
)
def test_memory_budgets(tmp_path: Path, text: str, num_bytes: int) -> None:
    assert load(tmp_path, MEMORY_BUDGET=text).memory_budget.num_bytes(1000) == num_bytes


def test_idle_models_may_stay(tmp_path: Path) -> None:
    assert load(tmp_path, ON_DEMAND_IDLE_TIMEOUT="none").models[0].on_demand_idle_timeout == 0


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_what_is_not_supported_yet_is_refused_everywhere(tmp_path: Path, name: str) -> None:
    variable = variable_of(name)
    assert refusal(tmp_path, {}, **{variable: "1"}) == f"{variable} is not supported yet"
    assert refusal(tmp_path, {name: "1"}) == f"--{name.replace('_', '-')} is not supported yet"
    assert refusal(tmp_path, CONFIG=yaml(tmp_path, f"server: {{{name}: 1}}")).endswith("is not supported yet")
    (tmp_path / ".env").write_text(f"{variable}=1\n")
    assert refusal(tmp_path) == f"{variable} in .env is not supported yet"


def test_supported_and_not_yet_supported_are_apart() -> None:
    assert not NOT_YET & {name for knob in (*SERVER_KNOBS, *MODEL_KNOBS) for name in knob.names}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-mac.local", "128.0.0.1", "2130706433"])
def test_an_address_that_others_reach_needs_a_key_or_a_word(tmp_path: Path, host: str) -> None:
    sentence = refusal(tmp_path, {"host": host})
    assert "--api-key" in sentence
    assert "--allow-unauthenticated" in sentence
    assert load(tmp_path, {"host": host}, API_KEY=KEY).host == host
    assert load(tmp_path, {"host": host, "allow_unauthenticated": "true"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LocalHost"])
def test_this_machine_needs_no_key(tmp_path: Path, host: str) -> None:
    settings = load(tmp_path, {"host": host})
    assert settings.host.lower() == "localhost" or ipaddress.ip_address(settings.host).is_loopback


def test_api_keys_are_many_and_never_shown(tmp_path: Path) -> None:
    settings = load(tmp_path, API_KEY=f"{KEY}, other-key,")
    assert [key.get_secret_value() for key in settings.api_key] == [KEY, "other-key"]
    assert [key.get_secret_value() for key in load(tmp_path, {"api_key": ("a,b", "c")}).api_key] == ["a,b", "c"]
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()
    assert "must name at least one value" in refusal(tmp_path, API_KEY=",")


@pytest.mark.parametrize("wrong", [KEY + " x", [KEY + "ü"], [[KEY]], {"a": KEY}])
def test_a_wrong_api_key_is_not_repeated(tmp_path: Path, wrong: object) -> None:
    sentence = refusal(tmp_path, {"api_key": wrong})
    assert sentence.startswith("--api-key must be")
    assert KEY not in sentence
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"api_key": wrong})
    assert KEY not in str(caught.value)


def test_debug_and_no_log_file_respect_the_order_of_sources(tmp_path: Path) -> None:
    assert load(tmp_path, DEBUG="1", LOG_LEVEL="ERROR").log_level == "DEBUG"
    assert load(tmp_path, {"verbose": "true"}, LOG_LEVEL="ERROR").log_level == "DEBUG"
    assert load(tmp_path, {"log_level": "error"}, DEBUG="1").log_level == "ERROR"
    assert load(tmp_path, {"debug": "false"}, VERBOSE="1").log_level == "INFO"
    assert load(tmp_path, {"no_log_file": "true"}, LOG_FILE="x.log").log_file is None
    assert load(tmp_path, {"log_file": "x.log"}, NO_LOG_FILE="1").log_file == tmp_path / "x.log"
    assert Settings(debug=True).log_level == "DEBUG"


def test_paths_are_relative_to_the_directory(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("")
    settings = load(tmp_path, CHAT_TEMPLATE_FILE="t.jinja", CACHE_DIR="~/c", LOG_FILE="/var/x.log", MODEL_PATH="~/m")
    assert settings.models[0].chat_template_file == tmp_path / "t.jinja"
    assert settings.cache_dir == Path("~/c").expanduser()
    assert settings.log_file == Path("/var/x.log")
    assert settings.models[0].model_path == str(Path("~/m").expanduser())


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError):
        ModelSpec.model_validate({"model_path": "a", "message_converter": "b"})


def test_adapters_are_paths_by_name(tmp_path: Path) -> None:
    expected = {"mine": tmp_path / "adapters/mine", "other": Path("/other")}
    assert load(tmp_path, {"adapter": ("mine=adapters/mine", "other=/other")}).models[0].adapters == expected
    assert load(tmp_path, LORA_MODULES="mine=adapters/mine, other=/other").models[0].adapters == expected
    text = "models:\n  - model_path: m\n    adapters:\n      mine: adapters/mine\n      other: /other\n"
    spec = load(tmp_path, CONFIG=yaml(tmp_path, text)).models[0]
    assert spec.adapters == expected
    assert spec.ids == ("m", "mine", "other")
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adapters: {mine: 3}", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: {mine: }", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: [mine]", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: [mine=]", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: [=a]", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: [[mine=a]]", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: true", "must be NAME=PATH, or in YAML names with a path each"),
        ("adapters: [mine=a, mine=b]", "gives 'mine' two paths: give each its own name"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path: Path, text: str, said: str) -> None:
    config = yaml(tmp_path, f"models:\n  - model_path: m\n    {text}\n")
    assert refusal(tmp_path, CONFIG=config) == f"models[0].adapters in c.yaml {said}"


def test_adapters_beside_a_fixed_one_or_of_another_kind_are_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, {"adapter": "mine=a", "adapter_path": "b"})
    assert said.startswith("a model with an adapter_path is served with that one only")
    assert "'mine'" in said
    said = refusal(tmp_path, {"adapter": "mine=a", "model_type": "embeddings"})
    assert said == "a model of type embeddings takes no adapters: leave out the adapter 'mine'"
    assert load(tmp_path, {"adapter": "mine=a", "model_type": "lm"}).models[0].adapters


def test_names_of_adapters_are_nobody_elses(tmp_path: Path) -> None:
    two = "models:\n  - {model_path: m, adapters: {mine: a}}\n  - {model_path: n, %s}\n"
    for other in ("served_model_name: mine", "adapters: {mine: b}"):
        said = refusal(tmp_path, CONFIG=yaml(tmp_path, two % other))
        assert "would be served as 'mine': give each its own" in said
    said = refusal(tmp_path, {"adapter": "m=a", "model_path": "m"})
    assert said == "a model and an adapter, or two adapters, would be served as 'm': give each its own name"


class TestModelsThatAreFound:
    def test_are_enough_without_the_sample(self, tmp_path: Path) -> None:
        assert load(tmp_path, {"models_dir": "m"}).models == ()
        assert load(tmp_path, SERVE_HUB_CACHE="true").models == ()
        assert load(tmp_path, {"serve_hub_cache": "false"}).models[0].name == SAMPLE_MODEL
        assert load(tmp_path, CONFIG=yaml(tmp_path, "server: {models_dir: m}")).models == ()
        assert [model.name for model in load(tmp_path, {"models_dir": "m", "model_path": "a"}).models] == ["a"]
        both = yaml(tmp_path, "server: {models_dir: m, allow_models: [a/*, b]}\nmodels: [{model_path: a}]")
        settings = load(tmp_path, CONFIG=both)
        assert ([model.name for model in settings.models], settings.allow_models) == (["a"], ("a/*", "b"))

    def test_get_what_flags_and_environment_say_of_every_model(self, tmp_path: Path) -> None:
        flags = {"models_dir": "m", "model_path": "a", "tool_call_parser": "hermes", "queue_size": "7"}
        config = yaml(tmp_path, "models: [{model_path: b, queue_timeout: 9}]")
        settings = load(tmp_path, flags, MAX_CONCURRENCY="2", ON_DEMAND_IDLE_TIMEOUT="60", CONFIG=config)
        expected = ModelSpec(on_demand=True, queue_size=7, max_concurrency=2, on_demand_idle_timeout=60)
        assert settings.found_spec == expected
        assert settings.models[0].tool_call_parser == "hermes"

    @pytest.mark.parametrize("name", ["served_model_name", "adapter_path", "tool_call_parser", "lora_paths"])
    def test_get_nothing_that_is_of_one_model(self, tmp_path: Path, name: str) -> None:
        sentence = refusal(tmp_path, {"models_dir": "m", name: "x"})
        assert sentence.startswith(f"--{name.replace('_', '-')} is of one model")
