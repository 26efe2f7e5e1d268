"""A job → the parts that run it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from escalation.certify.accepted import Trust
from escalation.certify.scorer import Scorer
from escalation.policy import Acceptance, Router, Rule
from escalation.providers.chosen import batches_of, provider_of
from escalation.providers.patience import Patience
from escalation.providers.prices import price_of
from escalation.redact import Redactor
from escalation.send.closed_side import ClosedSide
from runner.answering.check import Checker
from runner.answering.extra_signals import looks_of
from runner.answering.prompts import Expression, Renderer, renderer_of
from runner.errors import UsageError
from runner.formats.foreign_json import parse
from runner.job import Job
from runner.pipeline.answer import UNOBSERVED, LocalHalf, Observer
from runner.pipeline.certificate_monitor import Auditing, CertificateMonitor
from runner.pipeline.closed_cost import ClosedCost
from runner.pipeline.decide import Rules
from runner.pipeline.load_engine import await_server, load
from runner.pipeline.load_engine import engine_name as engine_name
from runner.pipeline.load_engine import local_model as local_model
from runner.pipeline.load_engine import model_mistake as model_mistake
from runner.pipeline.outcomes import Stakes
from runner.records.source import job_digest, job_records
from runner.types import Engine, Message, Prompt, Record, Sampling, Say, unheard

if TYPE_CHECKING:
    from escalation.certify.calibration import Calibration
    from runner.ledger import Ledger

PATIENCE = Patience()

# Of what a line of a batch file may ask for, what transformers lacks.
_VLLMS_OWN = ("frequency_penalty", "presence_penalty", "stop")


def records(job: Job, limit: int | None = None, say: Say = unheard) -> Iterator[Record]:
    """The job's records, lazily; at most ``limit``. ``say``: see `job_records`."""
    return job_records(job, limit, say)


def sampling(job: Job) -> Sampling:
    given = job.local.sampling
    return Sampling(
        given.temperature,
        given.max_tokens,
        given.seed,
        given.model_extra or {},
        top_logprobs=job.confidence.top_logprobs,
    )


def engine(job: Job) -> Engine:
    """Loads the local model, and makes sure that its logprobs mean something; seconds to minutes.
    Not for a thread in which an event loop runs.

    Raises:
        UsageError: it gives logprobs that no confidence can be taken from.
    """
    loaded = load(job)
    if job.answer.text is None and (problem := asyncio.run(_logprob_problem(job, loaded))):
        asyncio.run(loaded.aclose())
        raise UsageError(problem)
    return loaded


async def _logprob_problem(job: Job, loaded: Engine) -> str | None:
    from runner.engines.self_test import engine_problem, logprob_problem

    if engine_name(job.local) != "openai_server":
        return await logprob_problem(loaded)
    from runner.engines.openai_server.engine import OpenAIServerEngine

    # A client's connections belong to the event loop that opened them: this one ends here.
    client = OpenAIServerEngine(job.local)
    try:
        # Ours do what they are asked to; a server may leave out what it does not know.
        labels = job.answer.labels is not None
        return await engine_problem(
            client.plain, labels=labels, confidence=job.confidence.threshold != 0
        )
    finally:
        await client.aclose()


def closed_side(job: Job) -> ClosedSide | None:
    """Everything about the closed model but the sending, or ``None`` where the job has none."""
    if job.escalation is None:
        return None
    return ClosedSide(
        settings=job.escalation,
        provider=provider_of(job.escalation),
        price=price_of(job.escalation),
        renderer=renderer(job),
        checker=Checker(job.answer.constraint()),
        redactor=Redactor(job.privacy.redact, job.privacy.patterns, renderer(job).render),
        spend_file=job.spend_path(),
        patience=PATIENCE,
        batches=partial(batches_of, job.escalation),
    )


def refused_by_closed(job: Job) -> str | None:
    """Why the closed model's API would take no request of the job's."""
    if job.escalation is None:
        return None
    provider = provider_of(job.escalation)
    try:
        provider.request(Prompt((Message("user", "-"),), job.answer.constraint()))
    except UsageError as error:
        return str(error)
    return None


def refused_by_engine(job: Job) -> tuple[str, str]:
    """What the local engine would refuse of the job, and what of that cannot be told; no model is
    loaded, and seconds go by."""
    from runner.engines.accepting import asked

    name = engine_name(job.local)
    if name == "openai_server":
        return "", "only the server itself can tell whether it takes the answer and the settings"
    return asked(name, job.local, job.answer.constraint(), sampling(job), _vocabulary(job))


def _vocabulary(job: Job) -> int:
    try:
        config = parse(((job.model_path() or Path()) / "config.json").read_bytes())
        return int(config.get("vocab_size") or config["text_config"]["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0


def trust(job: Job, *, traffic: bool = False) -> Trust:
    """The given threshold, or the one certified by the job's labels. ``traffic``: for records that
    are like the labelled ones, and not for the very batch that these were drawn from.

    Raises:
        UsageError: there is no calibration, or it is another job's.
    """
    rule = job.confidence
    if rule.policy == "budget":
        return Trust(Acceptance(None), _if_there(job))
    if not rule.certifies:
        return Trust(Acceptance(rule.threshold, rule.below == "escalate"))
    from escalation.certify.calibration_file import load
    from escalation.certify.certificates import certified

    calibration = load(job.calibration_path(), job.identity())
    return certified(calibration, rule, None if traffic else _batch_digest(job, calibration))


def _if_there(job: Job) -> Calibration | None:
    if not job.calibration_path().is_file():
        return None
    from escalation.certify.calibration_file import load

    return load(job.calibration_path(), job.identity())


def _batch_digest(job: Job, calibration: Calibration) -> str | None:
    """Of the records, where the calibration's labels were drawn from some like them."""
    return None if calibration.batch is None else job_digest(job)


def monitor(
    job: Job, trusted: Trust, ledger: Ledger, say: Say, *, audits: bool
) -> CertificateMonitor:
    """Watches the run's certificates; ``audits``: something can be sent to check them."""
    rule, calibration = job.confidence, trusted.calibration
    if calibration is None or not rule.certifies or rule.target is None:
        return CertificateMonitor(ledger, trusted.rule, say=say)
    from escalation.certify.certificates import certified

    def tighter() -> Rule:
        return certified(calibration, rule, tighten=0.5).rule

    auditing = Auditing(
        target_error=rule.target,
        delta=rule.delta,
        rate=rule.audit.rate if audits else 0.0,
        seed=job.identity()["prompt"],
        tighter=tighter if rule.audit.on_alarm == "tighten" else None,
        usual={} if rule.looks.any() else {one.mark: one.score for one in calibration.sample},
    )
    return CertificateMonitor(ledger, trusted.rule, auditing, say)


def local_half(
    job: Job, calibration: Calibration | None, observer: Observer = UNOBSERVED
) -> LocalHalf:
    """What answers the job's records; no model is loaded yet."""
    given = sampling(job)
    return LocalHalf(
        renderer=renderer(job),
        checker=Checker(job.answer.constraint()),
        sampling=given,
        scorer=Scorer(calibration, calibration.support if calibration is not None else None),
        looks=looks_of(job, given),
        load_engine=partial(_heard_engine, job),
        observer=observer,
    )


def rules(
    job: Job, closed: ClosedSide | None, monitor: CertificateMonitor, say: Say | None = None
) -> Rules:
    """What the job decides by. ``say`` hears of records that an expression may have been meant
    otherwise for."""
    stakes = job.confidence.stakes
    return Rules(
        router=Router(job, say),
        monitor=monitor,
        cost=ClosedCost(renderer(job), closed.price if closed is not None else None),
        can_escalate=closed is not None,
        too_long=job.local.too_long,
        division=Stakes(Expression(stakes, "confidence.stakes") if stakes else None)
        if job.confidence.policy == "budget"
        else None,
    )


def _heard_engine(job: Job, say: Say) -> Engine:
    await_server(job, say)
    loaded = engine(job)
    if hear := getattr(loaded, "hear", None):  # not each engine has something to tell
        hear(say)
    return loaded


def renderer(job: Job) -> Renderer:
    """The job's prompts. What its engine cannot do is then an error of the record that asks."""
    local = job.local
    lacks = local.engine == "transformers" or (
        local.engine == "auto" and not local.base_url and not importlib.util.find_spec("vllm")
    )
    return renderer_of(job, beyond=_VLLMS_OWN if lacks else ())
