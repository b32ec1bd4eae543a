"""The response object: how it stands, its output, and what was asked for."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from app.api.responses.ids import new_id
from app.core.events import Usage
from app.errors import InvalidRequest, QueueFull, ServerError
from app.schemas.responses import ReasoningOptions, ResponseRequest, TextOptions
from app.schemas.responses_tools import FunctionTool, NamedToolChoice, WireTool

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Standing:
    """How a response stands; `output` are finished items, `completed_at` is in Unix seconds."""

    status: Status
    output: Sequence[object] = ()
    usage: Usage | None = None
    error: ServerError | None = None
    completed_at: int | None = None


class ResponseObject:
    """One response's id, time and terms, and its encoding in one piece."""

    def __init__(self, body: ResponseRequest, model: str, conversation_id: str | None = None) -> None:
        self.id = new_id("resp")
        self.created_at = int(time.time())
        self.is_stored = body.store is not False
        self._terms = _terms(body, model, conversation_id)

    def encode(self, standing: Standing) -> bytes:
        """The whole object."""
        shown: dict[str, object] = {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": standing.completed_at,
            "status": standing.status,
            "error": error_json(standing.error) if standing.error is not None else None,
            "incomplete_details": {"reason": "max_output_tokens"} if standing.status == "incomplete" else None,
            "output": standing.output,
            "usage": _usage(standing.usage) if standing.usage is not None else None,
            "store": self.is_stored,
        }
        return _json(shown | self._terms)


def error_json(error: ServerError) -> dict[str, object]:
    """Why a response failed, under the codes that OpenAI has for it."""
    match error:
        case InvalidRequest():
            code = "invalid_prompt"
        case QueueFull():
            code = "rate_limit_exceeded"
        case _:
            code = "server_error"
    return {"code": code, "message": error.message}


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _terms(body: ResponseRequest, model: str, conversation_id: str | None) -> dict[str, object]:
    """What was asked for; where the request is silent, what OpenAI shows then."""
    choice = body.tool_choice or "auto"
    return {
        "background": bool(body.background),
        "conversation": {"id": conversation_id} if conversation_id is not None else None,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": _reasoning(body.reasoning or ReasoningOptions()),
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": _text(body.text or TextOptions()),
        "tool_choice": choice.model_dump(exclude_unset=True) if isinstance(choice, NamedToolChoice) else choice,
        "tools": [_tool(tool) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": body.truncation or "disabled",
        "user": body.user,
    }


def _reasoning(asked: ReasoningOptions) -> dict[str, object]:
    return {"effort": asked.effort, "summary": summary_of(asked)}


def summary_of(asked: ReasoningOptions) -> str | None:
    """The kind of summary asked for, also under the field's older name."""
    return asked.summary or asked.generate_summary


def _text(asked: TextOptions) -> dict[str, object]:
    form = asked.format.model_dump(exclude_none=True, by_alias=True) if asked.format is not None else {"type": "text"}
    return {"format": form, "verbosity": asked.verbosity or "medium"}


def _tool(tool: WireTool) -> dict[str, object]:
    shown = tool.model_dump(exclude_unset=True)
    if isinstance(tool, FunctionTool):
        # Clients look for each of them.
        return {"description": None, "parameters": None, "strict": False, **shown}
    return shown
