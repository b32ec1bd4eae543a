"""What is asked: no two prompts begin alike, so that nothing comes out of a cache unless a cache is measured."""

import random

_TOPICS = (
    *("a fox in the snow", "a ship at sea", "a clockmaker", "two brothers", "the first winter", "a lost letter"),
    *("an old bridge", "a city of glass"),
)
_WORDS = (
    *("the", "a", "and", "of", "in", "on", "with", "from", "over", "under", "before", "after", "while", "because"),
    *("river", "mountain", "village", "garden", "window", "letter", "winter", "summer", "morning", "evening", "house"),
    *("road", "bridge", "forest", "sea", "ship", "captain", "teacher", "child", "friend", "old", "young", "quiet"),
    *("bright", "small", "long", "green", "white", "black", "red", "walked", "found", "opened", "carried", "followed"),
    *("crossed", "watched", "left", "returned", "then", "never", "always", "slowly", "again", "together"),
)


class Prompts:
    """An endless supply of texts."""

    def __init__(self, seed: int | None = None) -> None:
        self._draw = random.Random(seed)

    def stories(self, count: int) -> list[str]:
        """Of about the same length, and such as a small model answers at length."""
        years = [self._draw.randrange(1000, 10_000) for _ in range(count)]
        topics = [_TOPICS[i % len(_TOPICS)] for i in range(count)]
        return [
            f"It is the year {year}. Write a long story about {topic}."
            for year, topic in zip(years, topics, strict=True)
        ]

    def story(self) -> str:
        """One of them."""
        return self.stories(1)[0]

    def words(self, count: int) -> str:
        """A text of so many short words, about a token each."""
        return " ".join(self._draw.choices(_WORDS, k=count))
