"""A family's texts that mean something, ready to be looked for."""

from functools import lru_cache
from typing import Final

from app.text.element_calls import ElementCalls
from app.text.family import Family, Region
from app.text.source import SPACE, Markers
from app.text.tag_calls import TagCalls


class Markup:
    """What to look for in answers of a family's models, and what each text means; shared by all readers."""

    def __init__(self, family: Family, *, has_tools: bool) -> None:
        reasoning, frame = family.reasoning, family.frame
        regions = family.regions if has_tools and not (frame and frame.has_calls) else ()
        self.has_tools: Final = has_tools
        self.frame: Final = frame
        self.bare_regions: Final = tuple(region for region in regions if not region.open)
        self.regions: Final[dict[str, list[Region]]] = {}
        for region in regions:
            if region.open:
                self.regions.setdefault(region.open.strip(SPACE), []).append(region)
        # A frame's header says by itself that reasoning begins.
        self.opens: Final = reasoning.opens if reasoning and not frame else ()
        self.closes: Final = reasoning.closes if reasoning else ()
        self.opens_at_start_only: Final = bool(reasoning and reasoning.is_at_start)
        around = [text for region in regions for pair in (region.wrap, region.section) for text in _fixed(*pair)]
        self.noise: Final = frozenset([*family.noise, *around])
        self.frame_ends: Final = (*family.noise, *(frame.opens if frame else ()))
        everywhere = [*self.regions, *(frame.opens if frame else ()), *self.opens, *self.closes, *self.noise]
        self.markers: Final = Markers(everywhere)

    def ends_of(self, region: Region) -> tuple[str, ...]:
        """The texts that say, inside a call that is not whole, that it has ended all the same."""
        body_end = region.body.end if isinstance(region.body, TagCalls | ElementCalls) else ""
        return _fixed(region.close, body_end, region.wrap[1], region.section[1])


def _fixed(*texts: str) -> tuple[str, ...]:
    """Those without slots, white space around them left out."""
    cores = [text.strip(SPACE) for text in texts if "{" not in text]
    return tuple(core for core in cores if core)


@lru_cache(maxsize=256)
def markup_of(family: Family, *, has_tools: bool) -> Markup:
    """The same for every reader."""
    return Markup(family, has_tools=has_tools)
