"""What all settings classes have in common."""

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Fields(BaseModel):
    """Settings that are read from anywhere and do not change."""

    # Inputs are hidden in pydantic's own messages because one of them may be an API key.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True, hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        # Python's True is 1: `port: on` in YAML would be port 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("must be a number or a text in quotes")
        return value
