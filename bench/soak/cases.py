"""What the soak asks: requests of every kind, whose answers can be judged."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from app.bench.prompts import Prompts

Kind = Literal[
    "plain",
    "seeded",
    "filtered",
    "json",
    "regex",
    "choice",
    "logprobs",
    "choices",
    "penalised",
    "long",
    "keyed",
    "stop",
    "fresh",
    "too long",
    "bad",
]
# What the server is told: prompts longer than that are refused.
CONTEXT_TOKENS: Final = 4096
_TOO_LONG_WORDS: Final = 6000
_LENGTHS: Final = (5, 20, 60, 200)
_FORM_TOKENS: Final = 120

_PERSON: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
_TREE: Final[dict[str, Any]] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"enum": ["red", "green", 7, None]},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
_PAIR: Final[dict[str, Any]] = {
    "type": "array",
    "items": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"type": "string", "pattern": "^[a-f]{2,4}$"}]},
    "minItems": 2,
    "maxItems": 4,
}
_SCHEMAS: Final = (_PERSON, _TREE, _PAIR)
_PATTERNS: Final = ("[A-Z][a-z]{2,8} [0-9]{3}-[0-9]{4}", "(yes|no|maybe)(, (yes|no|maybe)){0,4}[.]", "#[0-9a-f]{6}")
_CHOICES: Final = (("left", "right"), ("one", "two", "twenty-two"))
_FILTERS: Final[tuple[Mapping[str, object], ...]] = (
    {"top_k": 40},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"typical_p": 0.9},
    {"xtc_probability": 0.5, "xtc_threshold": 0.05},
    {"dry_multiplier": 0.8},
)
_PENALTIES: Final[Mapping[str, object]] = {
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
}
_HELLO: Final = [{"role": "user", "content": "hello"}]
_BAD: Final[tuple[Mapping[str, object], ...]] = (
    {},
    {"messages": []},
    {"messages": _HELLO, "temperature": 3},
    {"messages": _HELLO, "n": 1000},
    {"messages": _HELLO, "stop": ""},
    {"messages": _HELLO, "logit_bias": {"fox": 1}},
    {"messages": _HELLO, "guided_regex": "("},
    {"messages": _HELLO, "guided_json": {"$ref": "#/$defs/nowhere"}},
)


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer must be, one of the three."""

    schema: Mapping[str, Any] | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A request. `repeats`: whoever its neighbours are, its answer is the one it gets alone."""

    kind: Kind
    body: Mapping[str, object]
    repeats: bool = True
    form: Form = field(default_factory=Form)
    status: int = 200

    def request(self, *, streams: bool) -> bytes:
        """The bytes of its body."""
        how = {"stream": True, "stream_options": {"include_usage": True}} if streams else {}
        return json.dumps({**self.body, **how}).encode()


def cases(seed: int, num_of_each: int) -> list[Case]:
    """A fixed set of all kinds but those that are made while the soak runs."""
    draw, prompts = random.Random(seed), Prompts(seed)
    systems = [prompts.words(length) for length in (10, 80, 200, 600, 1200)]
    return [case for _ in range(num_of_each) for case in _one_of_each(draw, prompts, systems)]


def _one_of_each(draw: random.Random, prompts: Prompts, systems: list[str]) -> Iterator[Case]:
    def ask(system: str, **fields: object) -> dict[str, object]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": prompts.story()}]
        return {"messages": messages, "max_tokens": draw.choice(_LENGTHS), "temperature": 0, **fields}

    def short(**fields: object) -> dict[str, object]:
        return ask(draw.choice(systems[:3]), **fields)

    sampled: dict[str, object] = {"temperature": 1, "seed": draw.randrange(1000)}
    schema, pattern, choices = draw.choice(_SCHEMAS), draw.choice(_PATTERNS), draw.choice(_CHOICES)
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    bound: dict[str, object] = {"temperature": 1, "max_tokens": _FORM_TOKENS}
    yield Case("plain", short())
    yield Case("seeded", short(**sampled))
    yield Case("filtered", short(**sampled, **draw.choice(_FILTERS)))
    yield Case("json", short(**bound, response_format=wanted), repeats=False, form=Form(schema=schema))
    yield Case("regex", short(**bound, guided_regex=pattern), repeats=False, form=Form(pattern=pattern))
    yield Case("choice", short(**bound, seed=1, guided_choice=choices), form=Form(choices=choices))
    yield Case("logprobs", short(logprobs=True, top_logprobs=3))
    yield Case("choices", short(**sampled, n=3))
    yield Case("penalised", short(**_PENALTIES))
    yield Case("long", ask(draw.choice(systems[3:]), max_tokens=_LENGTHS[-1]))
    yield Case("keyed", short(prompt_cache_key=draw.choice("ab")))
    yield Case("too long", ask(prompts.words(_TOO_LONG_WORDS)), status=400)
    yield Case("bad", draw.choice(_BAD), status=400)


def stopped(plain: Case, text: str, draw: random.Random) -> tuple[Case, str]:
    """The same request with a stop string out of its answer, and what must come: the answer up to there."""
    start = draw.randrange(len(text))
    stop = text[start : start + 4]
    return Case("stop", {**plain.body, "stop": [stop, "never said"]}), text[: text.index(stop)]


def fresh(prompts: Prompts) -> Case:
    """A prompt that nobody has asked before, so that the prefix cache must let go of others."""
    message = {"role": "user", "content": prompts.words(60)}
    return Case("fresh", {"messages": [message], "max_tokens": 20, "temperature": 0.8}, repeats=False)
