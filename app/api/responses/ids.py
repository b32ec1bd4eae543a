"""Ids of what a response is made of."""

import secrets


def new_id(prefix: str) -> str:
    """An id that nobody guesses: the prefix says what it is of, as OpenAI's do."""
    return f"{prefix}_{secrets.token_hex(24)}"
