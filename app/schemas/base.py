"""What all wire models share."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

UNSUPPORTED = "unsupported_field"


class WireModel(BaseModel):
    """A JSON object from a client: types are not coerced, unknown fields are ignored as OpenAI's servers do."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


def refused_unless(*neutral: object) -> AfterValidator:
    """A field that is known and not supported: only values that ask for nothing are accepted."""

    def check(value: Any) -> Any:
        # `==` alone would let 1 pass for True.
        if value is None or any(value == one and type(value) is type(one) for one in neutral):
            return value
        raise PydanticCustomError(UNSUPPORTED, "This field is not supported by this server yet")

    return AfterValidator(check)


Unsupported = Annotated[Any, refused_unless()]

# JSON numbers may be NaN or Infinity to Python's parser; msgpack's integers end at 64 bits.
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]
NaturalInt = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
# What a client says of an object for itself; OpenAI's limits.
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
