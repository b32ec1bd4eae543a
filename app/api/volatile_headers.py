"""Lines that agents put into a prompt for others than the model, and that change with every request."""

import re

# Claude Code starts its system prompt with `x-anthropic-billing-header: cc_version=...; cch=...;`, another in each
# request: left in, no two prompts of a conversation would begin alike, and nothing of any would ever be reused.
_VOLATILE = re.compile(r"\s*x-anthropic-billing-header:[^\n]*\n*", re.IGNORECASE)


def without_volatile_headers(text: str) -> str:
    """A system prompt, or the first piece of one, without such a line at its start."""
    match = _VOLATILE.match(text)
    return text[match.end() :] if match else text
