"""A job and a run directory → a server: engine, ledger, courier and uvicorn, from start to stop.

It ends by SIGTERM or Ctrl-C: nothing new is taken, what was begun is finished and settled; by a
second signal at once. Killed, it is started again on the same run directory, and books what its
courier brought meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import uvicorn

from escalation.send.closed_side import ClosedSide
from escalation.send.session import PaidSession
from runner.errors import RunDirError, SureLocalError, UsageError
from runner.interrupts import end_at_once
from runner.job import Job
from runner.job.records import BATCH, REQUESTS, Records
from runner.ledger import Ledger, open_ledger
from runner.observe.tracing import Off, Tracing
from runner.observe.tracing import begin as begin_tracing
from runner.pipeline import assemble
from runner.pipeline.answer import LocalHalf
from runner.pipeline.certificate_monitor import CertificateMonitor
from runner.pipeline.decide import Rules
from runner.pipeline.run import keep, live, own
from runner.serve.app import Desk, make_app
from runner.serve.connections import limited
from runner.serve.gauges import gauges
from runner.serve.guard import Guard
from runner.serve.intake import Intake, refuse_unservable
from runner.serve.metrics import Metrics
from runner.serve.options import ServeOptions
from runner.serve.routing import ServedRouter
from runner.serve.serving import Serving
from runner.types import Event, Message, Notice, Outcome, Prompt, Say, notice

BACKLOG = 2048
KEEP_ALIVE_S = 75  # longer than clients keep an idle connection, or they ask on a closed one


def serve_job(job: Job, options: ServeOptions, say: Say) -> None:
    """Serves until it is told to stop.

    Raises:
        UsageError: the job or the options are not as they must be.
        RunFailed: it cannot go on; what was settled is kept.
    """
    Server(job, options, say).run()


class Server:
    """``port`` and ``ready`` are known once it listens; `stop` may be called from any thread."""

    def __init__(self, job: Job, options: ServeOptions, say: Say) -> None:
        refuse_unservable(job)
        self._job = job
        self._served = as_served(job, options.timeout_s)
        self._options = options
        self._key = options.key(job)
        self._say = say
        self._http: _Http | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed: SureLocalError | None = None
        self._tracing: Tracing = Off()
        self._deaths = 0
        self.port = options.port

    @property
    def ready(self) -> bool:
        return self._http is not None and self._http.started

    def run(self) -> None:
        """Raises what `serve_job` raises."""
        trusted = assemble.trust(self._job, traffic=True)
        closed = assemble.closed_side(self._served)
        audits = closed is not None and closed.has_key
        if closed is not None and audits:
            closed.provider.request(Prompt((Message("user", ""),), self._job.answer.constraint()))
        assemble.local_model(self._job)
        with _bound(self._options) as listening, open_ledger(self._options.run_dir) as ledger:
            self.port = listening.getsockname()[1]
            self._claim(ledger)
            ledger.meta.certificate = trusted.stated()
            monitor = assemble.monitor(self._job, trusted, ledger, self._heard, audits=audits)
            rules = assemble.rules(self._served, closed, monitor)
            # By rules that a request may lack fields for.
            rules = replace(rules, router=ServedRouter(self._served))
            self._tracing = begin_tracing(self._say)
            observer = self._tracing.observer(self._job.local.model)
            half = assemble.local_half(self._served, trusted.calibration, observer)
            try:
                asyncio.run(self._both_halves(ledger, half, rules, closed, listening))
            finally:
                self._tracing.close()
            ledger.meta.audit = monitor.stated()
        if self._failed is not None:
            raise self._failed

    def _heard(self, notice: Notice) -> None:
        """Counts the engine's deaths, those while it is loaded too."""
        if notice.event is Event.ENGINE_DIED:
            self._deaths += 1
        self._say(notice)

    def stop(self) -> None:
        """Takes nothing new, finishes what was begun, and ends."""
        if self._loop is not None and self._http is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._http.stop)

    def _claim(self, ledger: Ledger) -> None:
        """Makes the run directory this job's, as a served one."""
        run_dir = self._options.run_dir
        if not ledger.meta.served and ledger.next_position():
            raise RunDirError(
                f"{run_dir} holds a batch's records, and requests would stand among them; give "
                "the server another --run-dir"
            )
        own(ledger, self._job, run_dir)
        keep(ledger, self._served)
        ledger.meta.served = True

    async def _both_halves(
        self,
        ledger: Ledger,
        half: LocalHalf,
        rules: Rules,
        closed: ClosedSide | None,
        listening: socket.socket,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        if closed is None:
            serving = Serving(ledger, half, rules, None, self._tracing)
            await self._listen(serving, ledger, rules.monitor, listening)
            return
        settled = (_nobody, rules.monitor.verdict)
        session = PaidSession(ledger, closed, self._options.run_dir, self._say, *settled)
        async with session.open():
            if not closed.has_key:
                variable, model = closed.settings.api_key_env, closed.settings.model
                said = (
                    f"no key in {variable}: nothing will be sent; what would go to {model} is "
                    "answered with an error"
                )
                self._say(notice(Event.NO_KEY, said, variable=variable, model=model))
            serving = Serving(ledger, half, rules, session, self._tracing)
            await self._listen(serving, ledger, rules.monitor, listening)

    async def _listen(
        self,
        serving: Serving,
        ledger: Ledger,
        monitor: CertificateMonitor,
        listening: socket.socket,
    ) -> None:
        options = self._options
        try:
            self._say(notice(Event.LOADING, "loading the model"))
            await serving.load()
            intake = Intake(self._job, options.on_unsure)
            reasons = (rule.reason for rule in self._job.routes if rule.reason)
            metrics = Metrics(reasons, gauges(ledger, serving, monitor), lambda: self._deaths)
            serving.heard = metrics.settled
            desk = Desk(serving, intake, options, metrics, self._fatal)
            app = make_app(desk, Guard(self._key, options.host))
            config = uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", backlog=BACKLOG,
                server_header=False, timeout_keep_alive=KEEP_ALIVE_S, ws="none",
                http=limited(options.limits),
            )  # fmt: skip
            self._http = _Http(config, self._say, lambda: self._say(self._welcome()), serving.stop)
            await self._http.serve([listening])
        finally:
            serving.stop()
            await serving.aclose(options.timeout_s)

    def _fatal(self, error: SureLocalError) -> None:
        if self._failed is None:
            self._failed = error
            self.stop()

    def _welcome(self) -> Notice:
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        who = "with its API key" if self._key else "without a key, for this machine alone"
        url = f"http://{host}:{self.port}/v1"
        said = f"{self._job.name} at {url} ({who}); Ctrl-C ends it"
        return notice(Event.LISTENING, said, url=url, asks_for_key=bool(self._key))


class _Http(uvicorn.Server):
    """uvicorn that leaves it to us what a signal means: it would raise it again at its end, and
    SIGTERM would cut short what comes behind. A second signal waits for nothing."""

    def __init__(
        self,
        config: uvicorn.Config,
        say: Say,
        on_start: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._say = say
        self._signals = 0
        self._on_start = on_start
        self._on_stop = on_stop

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._on_stop()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Until the loop ends, not uvicorn: what was begun is waited for behind it."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError, RuntimeError):  # not the main thread
                loop.add_signal_handler(one, self._signal, one)
        yield

    def _signal(self, signum: int) -> None:
        self._signals += 1
        if self._signals > 1:
            end_at_once(signum, self._say)
        said = "stopping once what was begun is answered; a second signal ends it at once"
        self._say(notice(Event.STOPPING, said))
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_start()


def as_served(job: Job, timeout_s: float) -> Job:
    """The job as its run directory keeps it: records are requests with their whole prompt, which
    any later command can send, and nobody waits longer than for one request's time."""
    records = Records.model_validate({"path": REQUESTS, "format": BATCH})
    changes: dict[str, object] = {"records": records, "prompt": None}
    if (closed := live(job).escalation) is not None:
        patience = min(closed.retry_for_s, timeout_s)
        changes["escalation"] = closed.model_copy(update={"retry_for_s": patience})
    return job.model_copy(update=changes)


@contextlib.contextmanager
def _bound(options: ServeOptions) -> Iterator[socket.socket]:
    """The address, taken before minutes go into a model."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((options.host, options.port))
        except OSError as error:
            raise UsageError(
                f"cannot listen at {options.host}, port {options.port}: {error.strerror}; give "
                "another --host or --port"
            ) from None
        yield listening


def _nobody(outcome: Outcome) -> None:
    """Hears of outcomes: each request looks for its own."""
