"""The cascade behind OpenAI's API: a request is a record, and its row is the answer.

Routes, local model, check, threshold, escalation, budget, redaction and ledger are the batch's own
parts. What differs is where records come from (`intake`) and where their rows go (`replies`).

    intake.py    a request's body → a record, or the sentence why not
    routing.py   the job's rules, for requests that lack some of its columns
    answered.py  how a request ended, and what that took
    serving.py   one record at a time through the pipeline, settled before it is answered
    replies.py   an outcome → a chat completion, its chunks, or an error in OpenAI's shape
    connections.py  clients that are slow on purpose, or stopped
    app.py       the endpoints, their key and their limits
    telling.py   a request as its log line and its span tell it: never by its texts
    metrics.py   counts for Prometheus; gauges.py: what the ledger and the queues say
    server.py    a job and a run directory → a server, until it is told to stop
"""

from __future__ import annotations

from runner.serve.options import ServeOptions
from runner.serve.server import Server, serve_job

__all__ = ["ServeOptions", "Server", "serve_job"]
