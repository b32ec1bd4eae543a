"""How well-known clients are pointed at this server: what to write where, and how to start them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

# A variable of ours, so that no client's own key is sent to this server or overwritten.
_KEY_VARIABLE: Final = "MLX_OPENAI_SERVER_KEY"
_PROVIDER: Final = "mlx"


@dataclass(frozen=True, slots=True)
class Target:
    """A running server as clients see it: its address without a path, the model to use, its key if it wants one."""

    url: str
    model: str
    api_key: str | None = None

    @property
    def base_url(self) -> str:
        """Where the OpenAI API is."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        """A key to send: clients insist on one, servers without keys ignore it."""
        return self.api_key or "none"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start: its arguments, and the variables that it needs in its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A client: what a person has to do, and what to start where it can be started with nothing written anywhere."""

    title: str
    explain: Callable[[Target], str]
    program: Callable[[Target], Program] | None = None


def _exports(environment: Mapping[str, str]) -> str:
    return "\n".join(f"export {name}={json.dumps(value)}" for name, value in environment.items())


def _claude(target: Target) -> Program:
    models = ("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL")
    return Program(
        ("claude",),
        {
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key,
            **dict.fromkeys((*models, "ANTHROPIC_DEFAULT_HAIKU_MODEL"), target.model),
            # Titles and the like would wait in the same line as the answers.
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # A long prompt takes a local model minutes.
            "API_TIMEOUT_MS": "3000000",
        },
    )


def _explain_claude(target: Target) -> str:
    return f"{_exports(_claude(target).environment)}\nclaude"


def _codex_settings(target: Target) -> dict[str, str]:
    provider = f"model_providers.{_PROVIDER}"
    return {
        "model": target.model,
        "model_provider": _PROVIDER,
        f"{provider}.name": "mlx-openai-server",
        f"{provider}.base_url": target.base_url,
        f"{provider}.wire_api": "responses",
        f"{provider}.env_key": _KEY_VARIABLE,
    }


def _codex(target: Target) -> Program:
    settings = _codex_settings(target).items()
    options = (word for name, value in settings for word in ("-c", f"{name}={json.dumps(value)}"))
    return Program(("codex", *options), {_KEY_VARIABLE: target.key})


def _explain_codex(target: Target) -> str:
    own = {name.rpartition(".")[2]: value for name, value in _codex_settings(target).items()}
    top = "\n".join(f"{name} = {json.dumps(own.pop(name))}" for name in ("model", "model_provider"))
    provider = "\n".join(f"{name} = {json.dumps(value)}" for name, value in own.items())
    return (
        f"In ~/.codex/config.toml:\n\n{top}\n\n[model_providers.{_PROVIDER}]\n{provider}\n\n"
        f"Then:\n\n{_exports({_KEY_VARIABLE: target.key})}\ncodex"
    )


def _opencode_config(target: Target) -> dict[str, object]:
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "mlx-openai-server",
        "options": {"baseURL": target.base_url, "apiKey": target.key},
        "models": {target.model: {"name": target.model}},
    }
    return {
        "$schema": "https://opencode.ai/config.json",
        "model": f"{_PROVIDER}/{target.model}",
        "provider": {_PROVIDER: provider},
    }


def _opencode(target: Target) -> Program:
    return Program(("opencode",), {"OPENCODE_CONFIG_CONTENT": json.dumps(_opencode_config(target))})


def _explain_opencode(target: Target) -> str:
    return f"In opencode.json of the project:\n\n{json.dumps(_opencode_config(target), indent=2)}\n\nThen:\n\nopencode"


def _explain_continue(target: Target) -> str:
    return (
        "In ~/.continue/config.yaml:\n\n"
        "models:\n"
        f"  - name: {json.dumps(target.model)}\n"
        "    provider: openai\n"
        f"    model: {json.dumps(target.model)}\n"
        f"    apiBase: {target.base_url}\n"
        f"    apiKey: {json.dumps(target.key)}\n"
        "    roles: [chat, edit, apply]"
    )


def _explain_cline(target: Target) -> str:
    return (
        "In Cline's settings choose the API provider 'OpenAI Compatible' and fill in:\n\n"
        f"Base URL:  {target.base_url}\n"
        f"API Key:   {target.key}\n"
        f"Model ID:  {target.model}"
    )


def _open_webui(target: Target) -> Program:
    return Program(
        ("open-webui", "serve", "--port", "8080"),
        {"OPENAI_API_BASE_URL": target.base_url, "OPENAI_API_KEY": target.key, "ENABLE_OLLAMA_API": "false"},
    )


def _explain_open_webui(target: Target) -> str:
    program = _open_webui(target)
    return f"{_exports(program.environment)}\n{' '.join(program.arguments)}"


def _explain_langchain(target: Target) -> str:
    return (
        "from langchain_openai import ChatOpenAI\n\n"
        f"model = ChatOpenAI(base_url={target.base_url!r}, api_key={target.key!r}, model={target.model!r})\n"
        'print(model.invoke("Hello!").content)'
    )


def _explain_llm(target: Target) -> str:
    return (
        'In extra-openai-models.yaml of the folder that `dirname "$(llm logs path)"` prints:\n\n'
        "- model_id: mlx\n"
        f"  model_name: {json.dumps(target.model)}\n"
        f"  api_base: {target.base_url}\n"
        "  api_key_name: mlx\n"
        "  supports_tools: true\n"
        "  supports_schema: true\n\n"
        f"Then:\n\nllm keys set mlx --value {json.dumps(target.key)}\nllm -m mlx 'Hello!'"
    )


def _explain_python(target: Target) -> str:
    return (
        "from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={target.base_url!r}, api_key={target.key!r})\n"
        f"reply = client.responses.create(model={target.model!r}, input='Hello!')\n"
        "print(reply.output_text)"
    )


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "claude": Recipe("Claude Code", _explain_claude, _claude),
        "codex": Recipe("Codex CLI", _explain_codex, _codex),
        "opencode": Recipe("opencode", _explain_opencode, _opencode),
        "continue": Recipe("Continue", _explain_continue),
        "cline": Recipe("Cline", _explain_cline),
        "open-webui": Recipe("Open WebUI", _explain_open_webui, _open_webui),
        "langchain": Recipe("LangChain", _explain_langchain),
        "llm": Recipe("llm", _explain_llm),
        "python": Recipe("OpenAI's Python library", _explain_python),
    }
)
