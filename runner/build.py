"""A job → the parts that run it. The one place that names concrete classes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from escalation.anthropic import Anthropic
from escalation.escalate import ClosedSide, body_bytes
from escalation.policy import Acceptance, Router
from escalation.prices import price_of
from escalation.redact import Redactor
from escalation.replies import Provider
from runner.check import Checker
from runner.errors import MissingExtra, UsageError
from runner.job import Confidence, Escalation, Job, Local
from runner.pipeline import Answering
from runner.prompts import Renderer
from runner.records import read_records
from runner.types import Engine, Prompt, Record, Sampling

if TYPE_CHECKING:
    from escalation.calibration import Calibration
    from escalation.risk import Certified

_PROVIDERS: dict[str, Callable[[Escalation], Provider]] = {"anthropic": Anthropic}


def records(job: Job) -> Iterator[Record]:
    """The job's records, lazily."""
    source = job.records
    return read_records(
        job.records_path(), source.id, fmt=source.format, delimiter=source.delimiter
    )


def sampling(job: Job) -> Sampling:
    given = job.local.sampling
    return Sampling(given.temperature, given.max_tokens, given.seed, given.model_extra or {})


def engine_name(local: Local) -> str:
    """What ``engine: auto`` means on this machine."""
    if local.engine != "auto":
        return local.engine
    if local.base_url:
        return "openai_server"
    for name in ("vllm", "transformers"):
        if importlib.util.find_spec(name):
            return name
    raise MissingExtra("neither vLLM nor transformers", "cpu", "gpu")


def engine(job: Job) -> Engine:
    """Loads the local model; seconds to minutes."""
    name = engine_name(job.local)
    model = local_model(job)
    if name == "vllm":
        from runner.engines.vllm import VllmEngine

        return VllmEngine(model, job.local)
    if name == "transformers":
        from runner.engines.transformers import TransformersEngine

        return TransformersEngine(model, job.local)
    from runner.engines.openai_server import OpenAIServerEngine

    return OpenAIServerEngine(job.local)


def local_model(job: Job) -> str:
    """The model's folder, checked, or the name it has elsewhere.

    Raises:
        UsageError: the path is no model folder.
    """
    path = job.model_path()
    if path is None:
        return job.local.model
    if mistake := model_mistake(path):
        raise UsageError(f"local.model: {mistake}")
    return str(path)


def model_mistake(path: Path) -> str | None:
    """What keeps a folder from being a model, in a sentence."""
    if not path.is_dir():
        return f"{path} is not there; give a model's folder, or its name on the hub"
    missing = [n for n in ("config.json", "tokenizer.json") if not (path / n).exists()]
    if (path / "tokenizer.model").exists() or (path / "vocab.json").exists():
        missing = [n for n in missing if n != "tokenizer.json"]
    if not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        missing.append("*.safetensors")
    if missing:
        return f"{path} is not a model's folder: it has no {' and no '.join(missing)}"
    return None


def closed_side(job: Job) -> ClosedSide | None:
    """Everything about the closed model but the sending, or ``None`` where the job has none."""
    if job.escalation is None:
        return None
    return ClosedSide(
        settings=job.escalation,
        provider=_PROVIDERS[job.escalation.provider](job.escalation),
        price=price_of(job.escalation),
        renderer=_renderer(job),
        checker=Checker(job.answer.constraint()),
        redactor=Redactor(job.privacy.redact),
    )


@dataclass(frozen=True, slots=True)
class Trust:
    """What a job accepts, and the calibration and certificate that stand behind it, if any."""

    acceptance: Acceptance
    calibration: Calibration | None = None
    certificate: Certified | None = None

    def stated(self) -> dict[str, Any] | None:
        """The certificate with its provenance, as the ledger keeps it; None without one."""
        if self.certificate is None or self.calibration is None:
            return None
        source = {"source": self.calibration.source, "made": self.calibration.made}
        return asdict(self.certificate) | source


def trust(job: Job) -> Trust:
    """The given threshold, or the one certified by the job's labels.

    Raises:
        UsageError: there is no calibration, or it is another job's.
    """
    rule = job.confidence
    if rule.target_error is None:
        return Trust(Acceptance(rule.threshold, rule.below == "escalate"))
    from escalation.calibration import load

    return certified(load(job.calibration_path(), job.identity()), rule)


def certified(calibration: Calibration, rule: Confidence) -> Trust:
    """The loosest threshold that the calibration's labels certify for the job's target."""
    from escalation.risk import certify

    assert rule.target_error is not None
    scores, wrong = zip(*calibration.sample, strict=True)
    certificate = certify(scores, wrong, target_error=rule.target_error, delta=rule.delta)
    acceptance = Acceptance(certificate.threshold, rule.below == "escalate")
    return Trust(acceptance, calibration, certificate)


def answering(job: Job, closed: ClosedSide | None, trusted: Trust) -> Answering:
    calibrate = trusted.calibration.confidences if trusted.calibration is not None else None
    return Answering(
        router=Router(job),
        renderer=_renderer(job),
        checker=Checker(job.answer.constraint(), calibrate),
        sampling=sampling(job),
        acceptance=trusted.acceptance,
        estimate=_estimate(closed),
        engine=lambda: engine(job),
        can_escalate=closed is not None,
    )


def _renderer(job: Job) -> Renderer:
    return Renderer(job.prompt.system, job.prompt.user, job.answer.constraint())


# An answer's length where no local answer shows it: a short JSON object.
TYPICAL_OUTPUT_TOKENS = 24
# Of a request, besides the texts and the constraint: keys, roles, the model's name.
AROUND_BYTES = 250


def _estimate(closed: ClosedSide | None) -> Callable[[Prompt, int], Decimal]:
    if closed is None:
        return lambda prompt, output_tokens: Decimal(0)
    # Not by building requests: that takes the provider's SDK, seconds before the first record.
    sizes: dict[int, int] = {}

    def estimate(prompt: Prompt, output_tokens: int) -> Decimal:
        around = sizes.get(id(prompt.constraint))
        if around is None:
            around = len(body_bytes(asdict(prompt.constraint))) + AROUND_BYTES
            sizes[id(prompt.constraint)] = around
        size = sum(len(m.content.encode("utf-8", "replace")) for m in prompt.messages)
        return closed.price.estimate(around + size, output_tokens or TYPICAL_OUTPUT_TOKENS)

    return estimate
