"""The job's ``confidence``: which local answers may stand, and by what right."""

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
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[
    Literal["on", "off"],
    BeforeValidator(_switched, json_schema_input_type=Literal["on", "off"] | bool),
]
"""`on` or `off`, however YAML reads it: for every key that takes the one or the other."""


def _is_number(field: FieldInfo) -> bool:
    """Whether a number may stand there, and no boolean."""
    kinds = {field.annotation, *get_args(field.annotation)}
    kinds |= {get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated}
    return not kinds.isdisjoint((int, float, Decimal)) and bool not in kinds


class Part(BaseModel):
    """Any part of a job: unknown keys are mistakes, and nothing changes after reading.

    The text under a key is what the reference says of it, and what an editor shows.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def no_truth_for_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        """YAML reads yes as true, which would be taken for 1."""
        if isinstance(given, bool) and _is_number(cls.model_fields[str(info.field_name)]):
            raise ValueError(f"is a number, not {str(given).lower()}")
        return given


class Looks(Part):
    """Further looks at an answer, each a signal of its own for the calibration to weigh."""

    p_true: bool = False
    """The model is asked whether its answer is right (Kadavath et al., 2022)."""
    wordings: list[str] = Field(default_factory=list)
    """It answers again under each of these system instructions: Jinja2 templates, as
    `prompt.system` is."""
    samples: int = Field(default=0, ge=0, le=64)
    """It answers so many times more at temperature 1."""
    take: Literal["auto", "always"] = "auto"
    """`auto` takes looks only where they can still change the decision."""

    def any(self) -> bool:
        return self.p_true or bool(self.wordings) or self.samples > 0


class Audit(Part):
    """The running check that a certificate still holds, by an anytime-valid test."""

    rate: Probability = 0.0
    """The share of the accepted answers, drawn at random, that the closed model checks too."""
    on_alarm: Literal["stop", "tighten"] = "stop"
    """What follows when more of them are wrong than certified: nothing more is accepted, or, the
    first time, only surer answers are."""


class Confidence(Part):
    """Which local answers stand. One of `threshold`, `target_error`, `target_error_overall` and
    `policy: budget` says by what; without any, it is a threshold of 0.9."""

    threshold: Probability | None = None
    """A local answer of this confidence or more stands. Uncalibrated: nothing is certified."""
    target_error: ErrorRate | None = None
    """At most this share of the accepted local answers is wrong, with probability 1 − `delta`: the
    threshold is what the labels in `calibration` certify for it."""
    target_error_overall: ErrorRate | None = None
    """The same for all that is delivered, the closed model's own mistakes included."""
    fields: dict[str, ErrorRate] = Field(default_factory=dict)
    """Further targets, of single fields of the answer, among the same accepted answers."""
    strata: str | None = None
    """A Jinja2 expression over the record; each of its values gets a threshold and a certificate
    of its own, and all certificates hold at once. With `target_error` alone."""
    delta: ErrorRate = 0.1
    """The chance, over the draw of the labels, that a certificate is broken."""
    calibration: Path = Path("calibration.json")
    """The file that `surelocal calibrate` writes; relative to the job file."""
    policy: Literal["error", "budget"] = "error"
    """`budget` spends the whole budget, over the whole batch, where a dollar prevents most expected
    loss: (1 − confidence) × `stakes`."""
    stakes: str | None = None
    """What a wrong answer to a record costs, in any unit: a Jinja2 expression that gives a number
    from 0 up; left out, 1 for each. With `policy: budget`."""
    below: Literal["escalate", "review"] = "escalate"
    """Where an answer goes that does not stand: to the closed model, or to a person."""
    reference: int = Field(default=2000, ge=0)
    """How many further records of the batch `surelocal calibrate` answers, unlabelled, to tell
    the usual from the odd."""
    top_logprobs: int = Field(default=5, ge=0, le=20)
    """How many alternatives of each token the engine gives; with them, other spellings of the same
    value count into its probability."""
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
            # Of all that is delivered, the accepted may err more often than the whole.
            raise ValueError("`audit` checks what is accepted: it needs a `target_error`")
        return self

    @property
    def certifies(self) -> bool:
        """Whether a calibration's labels decide the threshold."""
        return self.target_error is not None or self.target_error_overall is not None

    @property
    def target(self) -> float | None:
        """The error that is to be certified, of the accepted or of all."""
        return self.target_error if self.target_error is not None else self.target_error_overall
