"""Answers made of messages, whose headers say whom they are for."""

import re
from typing import Final

from app.text.family import Frame, Region
from app.text.json_calls import NamedJson

HARMONY: Final = Frame(
    opens=("<|start|>", "<|channel|>"),
    begun=(" to=", "to="),
    chars=re.compile(r"[\w.=<|>:/ \-]+"),
    end="<|message|>",
    header=re.compile(
        r"(?:<\|start\|>)?(?:assistant)?\s*"
        r"(?:<\|channel\|>(?:(?P<thought>analysis)|\w+))?\s*"
        r"(?:to=(?:functions\.(?P<call>[\w.\-]+)|(?P<recipient>[\w.\-]+)))?\s*"
        r"(?:<\|channel\|>\w+)?\s*(?:<\|constrain\|>)?\s*\w*\s*"
    ),
    turn="<|start|>assistant",
    answer="<|channel|>final<|message|>",
)
HARMONY_CALL: Final = Region(
    open="<|channel|>commentary to=functions.",
    body=NamedJson(("{name} <|constrain|>json<|message|>",)),
    between="<|call|><|start|>assistant",
)
FUNCTIONARY: Final = Frame(
    opens=(">>>",),
    begun=("",),
    chars=re.compile(r"[\w.>\-]+"),
    end="\n",
    header=re.compile(r"(?:>>>)?(?:all|(?P<recipient>[\w.\-]+))"),
    is_for_offered=True,
)
FUNCTIONARY_CALL: Final = Region(open="", body=NamedJson(("{name}\n",)), between=">>>")
MUSE: Final = Frame(
    opens=("<|start|>",),
    begun=(" to=", "to="),
    chars=re.compile(r"[\w.=<|> \-]+"),
    end="<|message|>",
    header=re.compile(r"(?:<\|start\|>)?(?:assistant)?\s*(?:to=(?:(?P<thought>self)|[\w.\-]+))?\s*"),
    has_calls=False,
)
