"""The job's ``confidence``: which local answers are accepted, and by which rule."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

DEFAULT_THRESHOLD = 0.9

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
ErrorRate = Annotated[float, Field(gt=0.0, lt=1.0)]


def _switched(value: object) -> object:
    """Undoes YAML's reading of on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[
    Literal["on", "off"],
    BeforeValidator(_switched, json_schema_input_type=Literal["on", "off"] | bool),
]
"""`on` or `off`, also if YAML reads it as a boolean."""


def _is_number(field: FieldInfo) -> bool:
    """Whether the field allows a number but not a boolean."""
    kinds = {field.annotation, *get_args(field.annotation)}
    kinds |= {get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated}
    return not kinds.isdisjoint((int, float, Decimal)) and bool not in kinds


class Part(BaseModel):
    """The base of all parts of a job: frozen, and without unknown keys.

    The text under a key is its description in the reference and in editors.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def no_truth_for_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuses booleans as numbers: YAML reads yes as true, which would become 1."""
        if isinstance(given, bool) and _is_number(cls.model_fields[str(info.field_name)]):
            raise ValueError(f"is a number, not {str(given).lower()}")
        return given


class Looks(Part):
    """Second looks at an answer; each gives one more signal for the calibration to weigh."""

    p_true: bool = False
    """Asks the model whether its answer is right (Kadavath et al., 2022)."""
    wordings: list[str] = Field(default_factory=list)
    """Asks the model again with each of these system messages: Jinja2 templates, like
    `prompt.system`."""
    samples: int = Field(default=0, ge=0, le=64)
    """The number of further answers to sample at temperature 1."""
    take: Literal["auto", "always"] = "auto"
    """`auto` takes second looks only if they can still change the decision."""

    def any(self) -> bool:
        return self.p_true or bool(self.wordings) or self.samples > 0


class Audit(Part):
    """Checks during a run that the certificate still holds, by an anytime-valid test."""

    rate: Probability = 0.0
    """The share of accepted answers, sampled at random, that the closed model also checks."""
    on_alarm: Literal["stop", "tighten"] = "stop"
    """What to do if more of them are wrong than certified: `stop` accepts no further answers;
    `tighten` raises the threshold the first time."""


class Confidence(Part):
    """Which local answers are accepted. Set one of `threshold`, `target_error`,
    `target_error_overall` and `policy: budget`; the default is a threshold of 0.9."""

    threshold: Probability | None = None
    """Local answers with at least this confidence are accepted. Nothing is certified."""
    target_error: ErrorRate | None = None
    """At most this share of the accepted local answers is wrong (selective risk), with probability
    1 − `delta`; the labels in `calibration` certify the threshold."""
    target_error_overall: ErrorRate | None = None
    """The same for all delivered answers, including the closed model's mistakes."""
    fields: dict[str, ErrorRate] = Field(default_factory=dict)
    """Further target errors for single fields, among the same accepted answers."""
    strata: str | None = None
    """A Jinja2 expression over the record; each of its values gets a separate threshold and
    certificate, and all certificates hold at once. Only with `target_error`."""
    delta: ErrorRate = 0.1
    """The probability, over the random sample of labels, that a certificate is false."""
    calibration: Path = Path("calibration.json")
    """The file that `surelocal calibrate` writes; relative to the job file."""
    policy: Literal["error", "budget"] = "error"
    """`budget` divides the budget over the whole batch so that each dollar prevents the most
    expected loss: (1 − confidence) × `stakes`."""
    stakes: str | None = None
    """The cost of a wrong answer to a record, in any unit: a Jinja2 expression with a number of at
    least 0 as value. Default: 1. With `policy: budget`."""
    below: Literal["escalate", "review"] = "escalate"
    """Where records go whose answer is not accepted: to the closed model or to a person."""
    reference: int = Field(default=2000, ge=0)
    """The number of further, unlabelled records of the batch that `surelocal calibrate` answers, to
    measure how similar a record is to others."""
    top_logprobs: int = Field(default=5, ge=0, le=20)
    """The number of alternatives per token that the engine returns; with them, a value's
    probability includes its other spellings."""
    looks: Looks = Looks()
    audit: Audit = Audit()

    @model_validator(mode="before")
    @classmethod
    def usual(cls, given: object) -> object:
        said = {"threshold", "target_error", "target_error_overall"}
        if isinstance(given, dict) and not said & given.keys() and given.get("policy") != "budget":
            return {**given, "threshold": DEFAULT_THRESHOLD}
        return given

    @model_validator(mode="after")
    def one_rule(self) -> Self:
        rules = {
            "threshold": self.threshold,
            "target_error": self.target_error,
            "target_error_overall": self.target_error_overall,
            "policy: budget": True if self.policy == "budget" else None,
        }
        given = [f"`{name}`" for name, value in rules.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}, not both")
        if self.stakes is not None and self.policy != "budget":
            raise ValueError("`stakes` belong to `policy: budget`")
        for name in ("fields", "strata"):
            if getattr(self, name) and self.target_error is None:
                raise ValueError(f"`{name}` belongs to `target_error`")
        if self.audit.rate and self.target_error is None:
            # With an overall target, the accepted may err more often than all delivered.
            raise ValueError("`audit` checks accepted answers: it needs a `target_error`")
        return self

    @property
    def certifies(self) -> bool:
        """Whether the threshold is certified by a calibration's labels."""
        return self.target_error is not None or self.target_error_overall is not None

    @property
    def target(self) -> float | None:
        """The target error rate to certify, of the accepted or of all answers."""
        return self.target_error if self.target_error is not None else self.target_error_overall
