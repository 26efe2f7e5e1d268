"""The job's ``confidence``: which local answers may stand, and by what right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_THRESHOLD = 0.9

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
ErrorRate = Annotated[float, Field(gt=0.0, lt=1.0)]


class Part(BaseModel):
    """Any part of a job: unknown keys are mistakes, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Looks(Part):
    """Further looks at an answer, each a signal of its own for the calibration to weigh.

    ``p_true``: the model is asked whether its answer is right (Kadavath et al., 2022).
    ``wordings``: it answers again under other system instructions. ``samples``: it answers that
    many times at temperature 1. ``take: auto`` takes them only where they can still change the
    decision.
    """

    p_true: bool = False
    wordings: list[str] = Field(default_factory=list)
    samples: int = Field(default=0, ge=0, le=64)
    take: Literal["auto", "always"] = "auto"

    def any(self) -> bool:
        return self.p_true or bool(self.wordings) or self.samples > 0


class Audit(Part):
    """``rate`` of the accepted answers, drawn at random, is checked by the closed model too; when
    they turn out wrong more often than certified, the run ``stop``s accepting or ``tighten``s."""

    rate: Probability = 0.0
    on_alarm: Literal["stop", "tighten"] = "stop"


class Confidence(Part):
    """Accept a local answer whose confidence reaches ``threshold``; ``below`` says what happens
    to the others. ``target_error`` instead: the threshold at which, with probability 1 − ``delta``,
    at most that share of the accepted answers is wrong, from the labels in ``calibration``;
    ``target_error_overall``: at most that share of all that is delivered, the closed model's own
    mistakes included. ``fields``: targets of single fields, on top. ``strata``: an expression over
    the record; each of its values gets a threshold and a certificate of its own.
    ``reference``: how many further records of the batch `localfirst calibrate` answers, unlabelled,
    to tell the usual from the odd. ``policy: budget`` instead: spend the whole budget where a
    dollar prevents most expected loss: (1 − confidence) × ``stakes``, a number from the record.
    """

    threshold: Probability | None = None
    target_error: ErrorRate | None = None
    target_error_overall: ErrorRate | None = None
    fields: dict[str, ErrorRate] = Field(default_factory=dict)
    strata: str | None = None
    delta: ErrorRate = 0.1
    calibration: Path = Path("calibration.json")
    policy: Literal["error", "budget"] = "error"
    stakes: str | None = None
    below: Literal["escalate", "review"] = "escalate"
    reference: int = Field(default=2000, ge=0)
    top_logprobs: int = Field(default=5, ge=0, le=20)
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
