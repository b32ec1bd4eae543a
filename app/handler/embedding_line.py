"""The embedding requests in the order they are served, and which of their inputs share a forward pass."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

# Inputs up to this length share a pass; above it, those that differ by less than a factor of two.
_SHORT_TOKENS = 64
_PASS_S = 0.1


@dataclass(frozen=True, slots=True)
class PreparedEmbedding:
    """An embedding request as tokens: each input has at least one, and fits the context."""

    inputs: list[list[int]]
    dimensions: int | None = None


@dataclass(slots=True)
class WaitingRequest:
    """A request from its arrival to its last vector."""

    id: int
    asked: PreparedEmbedding
    # Places of the inputs that were in no pass yet, by the class of their length; the longest of a class is last.
    left: dict[int, list[int]] = field(default_factory=dict)
    vectors: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        lengths = [len(tokens) for tokens in self.asked.inputs]
        self.vectors = [b""] * len(lengths)
        for place in sorted(range(len(lengths)), key=lengths.__getitem__):
            self.left.setdefault(_length_class(lengths[place]), []).append(place)

    def longest(self, length_class: int) -> int:
        """Tokens of the longest input left in a class."""
        return len(self.asked.inputs[self.left[length_class][-1]])

    def take(self, length_class: int) -> "Row":
        """That input, which is left no more."""
        place = self.left[length_class].pop()
        if not self.left[length_class]:
            del self.left[length_class]
        return Row(self, place)


@dataclass(frozen=True, slots=True)
class Row:
    """One input in a forward pass."""

    request: WaitingRequest
    place: int

    @property
    def tokens(self) -> list[int]:
        """What is fed."""
        return self.request.asked.inputs[self.place]


class PassSize:
    """Tokens of a forward pass, padding included: what this model on this device does in about a tenth of a second.

    So a newcomer soon has its turn, a request that is cancelled soon ends, and a fast device is kept busy.
    """

    def __init__(self, least: int = 256, most: int = 8192) -> None:
        self._least = least
        self._most = most
        self.num_tokens = least

    def note(self, num_tokens: int, elapsed_s: float) -> None:
        """Learn from a pass; one that was not full says nothing."""
        if num_tokens <= self.num_tokens // 2:
            return
        if elapsed_s < _PASS_S / 2:
            self.num_tokens = min(2 * self.num_tokens, self._most)
        elif elapsed_s > 2 * _PASS_S:
            self.num_tokens = max(self.num_tokens // 2, self._least)


class EmbeddingLine:
    """All requests that are not finished. Owned by the worker's main thread."""

    def __init__(self) -> None:
        self._requests: dict[int, WaitingRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request_id: int, asked: PreparedEmbedding) -> None:
        """Take a request in, at the end of the line."""
        self._requests[request_id] = WaitingRequest(request_id, asked)

    def remove(self, request_ids: Iterable[int]) -> None:
        """Forget requests; unknown ids are ignored."""
        for request_id in request_ids:
            self._requests.pop(request_id, None)

    def next_pass(self, num_tokens: int) -> list[Row]:
        """Inputs of about one length: the longest of the request in front, then one of each in turn while they fit.

        They are padded to the longest, and fit while that makes no more than `num_tokens`. The line must not be empty.
        """
        front_id = next(iter(self._requests))
        front = self._requests[front_id]
        length_class = max(front.left)
        width = front.longest(length_class)
        candidates = [request for request in self._requests.values() if length_class in request.left]
        # Those most like the front one, which is itself the first: the less there is to pad.
        sources = deque(sorted(candidates, key=lambda request: abs(request.longest(length_class) - width)))
        # To the end of the line, so that each request is in front once in as many passes as there are requests.
        self._requests[front_id] = self._requests.pop(front_id)
        rows: list[Row] = []
        while sources:
            request = sources.popleft()
            width = max(width, request.longest(length_class))
            if rows and width * (len(rows) + 1) > num_tokens:
                break
            rows.append(request.take(length_class))
            if length_class in request.left:
                sources.append(request)
        return rows


def _length_class(num_tokens: int) -> int:
    """The next power of two, not under _SHORT_TOKENS."""
    return max(_SHORT_TOKENS, 1 << (num_tokens - 1).bit_length())
