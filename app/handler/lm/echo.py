"""A prompt said again before its answers, with its log-probabilities where they are asked for."""

from app.core.events import Candidate, EchoDelta, PromptToken
from app.handler.lm.row import Prompt
from app.handler.lm.sampling.logprobs import StepLogprobs


def echo_start(prompt: Prompt) -> list[EchoDelta]:
    """The prompt's text, once for each choice that wants it, and its first token, which nothing predicts."""
    if prompt.asked.echo is None:
        return []
    first = PromptToken(prompt.rows[0].detokenizer.bytes_of(prompt.tokens[0]), None, [])
    logprobs = [first] if prompt.tells_logprobs else None
    return [EchoDelta(prompt.asked.echo, row.choice, logprobs) for row in prompt.rows]


def echo_tokens(prompt: Prompt, logprobs: list[StepLogprobs]) -> list[EchoDelta]:
    """The tokens that those which were fed last have predicted, for each choice."""
    if not logprobs:
        return []
    name = prompt.rows[0].detokenizer.bytes_of
    end = prompt.num_prefilled + 1
    tokens = [
        PromptToken(name(token), one.chosen, [Candidate(name(other), value) for other, value in one.top])
        for token, one in zip(prompt.tokens[end - len(logprobs) : end], logprobs, strict=True)
    ]
    return [EchoDelta("", row.choice, tokens) for row in prompt.rows]
