"""A radix tree over token sequences, with the order in which its nodes were last of use."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Segment(Protocol):
    """What a node holds for its tokens."""

    @property
    def num_bytes(self) -> int:
        """Memory it takes."""
        ...

    @property
    def is_in_memory(self) -> bool:
        """Whether it takes any: there are other places."""
        ...


SegmentT = TypeVar("SegmentT", bound=Segment)


class Node(Generic[SegmentT]):
    """Some tokens that follow its parent's, and what is stored for them."""

    __slots__ = ("children", "parent", "segment", "tokens", "used_at", "was_hit")

    def __init__(self, tokens: list[int], parent: "Node[SegmentT] | None", segment: SegmentT | None) -> None:
        self.tokens = tokens
        self.parent = parent
        self.segment = segment
        self.children: dict[int, Node[SegmentT]] = {}
        self.was_hit = False
        self.used_at = 0.0

    def path(self) -> list["Node[SegmentT]"]:
        """The nodes from the first below the root down to this one."""
        nodes: list[Node[SegmentT]] = []
        node: Node[SegmentT] = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


class Match(Generic[SegmentT]):
    """How far a sequence is in the tree: whole nodes, then `num_partial` tokens of `partial`."""

    __slots__ = ("node", "num_partial", "num_tokens", "partial")

    def __init__(self, node: Node[SegmentT], num_tokens: int) -> None:
        self.node = node
        self.num_tokens = num_tokens
        self.partial: Node[SegmentT] | None = None
        self.num_partial = 0


def match(root: Node[SegmentT], tokens: list[int]) -> Match[SegmentT]:
    """Walk down as far as `tokens` agree with the tree, in time linear in their number."""
    found = Match(root, 0)
    while child := found.node.children.get(tokens[found.num_tokens]) if found.num_tokens < len(tokens) else None:
        start = found.num_tokens
        if tokens[start : start + len(child.tokens)] == child.tokens:
            found.node = child
            found.num_tokens += len(child.tokens)
            continue
        found.partial = child
        found.num_partial = common_length(child.tokens, tokens[start : start + len(child.tokens)])
        break
    return found


def common_length(a: list[int], b: list[int]) -> int:
    """The length of the longest common start, by halving: list comparison runs at C speed."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Recency(Generic[SegmentT]):
    """The nodes in memory by last use, those that were never hit apart from those that were.

    A path is touched from its end to its start, so a parent is always more recent than its children and the least
    recent node of a tree is a leaf.
    """

    def __init__(self) -> None:
        self._cold: OrderedDict[Node[SegmentT], None] = OrderedDict()
        self._warm: OrderedDict[Node[SegmentT], None] = OrderedDict()
        self.num_cold_bytes = 0
        self.num_warm_bytes = 0

    def touch(self, node: Node[SegmentT], now: float, *, is_hit: bool) -> None:
        """`node` and its parents were of use."""
        for one in reversed(node.path()):
            self.discard(one)
            one.was_hit = one.was_hit or is_hit
            one.used_at = now
            self.add(one)

    def add(self, node: Node[SegmentT], *, is_oldest: bool = False) -> None:
        """A node is the most recent, or the least, if it is in memory."""
        if node.segment is None or not node.segment.is_in_memory:
            return
        size = node.segment.num_bytes
        if node.was_hit:
            self._warm[node] = None
            self._warm.move_to_end(node, last=not is_oldest)
            self.num_warm_bytes += size
        else:
            self._cold[node] = None
            self._cold.move_to_end(node, last=not is_oldest)
            self.num_cold_bytes += size

    def discard(self, node: Node[SegmentT]) -> None:
        """Forget a node."""
        size = node.segment.num_bytes if node.segment is not None else 0
        if node in self._warm:
            del self._warm[node]
            self.num_warm_bytes -= size
        elif node in self._cold:
            del self._cold[node]
            self.num_cold_bytes -= size

    def cold(self) -> Iterator[Node[SegmentT]]:
        """Nodes that were never hit, the least recent first."""
        return iter(self._cold)

    def warm(self) -> Iterator[Node[SegmentT]]:
        """Nodes that were hit, the least recent first."""
        return iter(self._warm)
