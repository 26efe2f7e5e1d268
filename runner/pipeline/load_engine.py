"""A job's local model → a loaded engine: in a process of its own, started ahead, or kept.

The heavy libraries are imported over there alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from escalation.policy import Router
from runner import keys
from runner.engines.process.child import ChildEngine
from runner.engines.process.process import Ahead, end_loading, end_spare, start_ahead, started
from runner.engines.process.retiring import retire
from runner.engines.process.reviving import Reviving
from runner.engines.process.warm_address import Keep, files_digest, files_of, made_folder, name_of
from runner.engines.process.warm_client import Hung, adopt, make_room
from runner.engines.vllm.setup import on_cpu, prepare
from runner.errors import MissingExtra, SureLocalError, UsageError
from runner.job import Job, Local
from runner.records.source import job_records
from runner.types import Engine, Route, Say

_PEEK = 64
# Of ``local``, what each request brings along, or nothing that is loaded depends on.
_NOT_LOADED = {"sampling", "keep_loaded", "gpu_usd_per_hour", "engine", "server_wait_s", "too_long"}

Make = Callable[[int], Engine]


def engine_name(local: Local) -> str:
    """What ``engine: auto`` means on this machine."""
    if local.engine != "auto":
        return local.engine
    if local.base_url:
        return "openai_server"
    for name in ("vllm", "transformers"):
        if importlib.util.find_spec(name):
            return name
    raise MissingExtra("an engine (vLLM or transformers)", "cpu", "gpu")


def load(job: Job) -> Engine:
    """Loads the local model, or takes over a kept one; seconds to minutes. Not for a thread in
    which an event loop runs."""
    keys.withhold(job.key_names())
    name = engine_name(job.local)
    model = local_model(job)
    if name == "openai_server":
        if job.cluster is not None:
            raise UsageError("cluster: local.base_url is one server; leave out one of the two")
        from runner.engines.openai_server.engine import OpenAIServerEngine

        return OpenAIServerEngine(job.local)
    make = partial(_maker(name), model, job.local)
    if name == "vllm":
        make = partial(make, held_to=job.answer.constraint())
    if job.cluster is not None:
        if job.local.keep_loaded is not None:
            raise UsageError(
                "local.keep_loaded: a cluster's engines end with the run; leave out one of the two"
            )
        from runner.cluster import on_cluster

        return on_cluster(job.cluster, job.local, make)
    ahead = _ahead(name, job.local)
    start = partial(in_child, make, ahead, _keep(job, name, model))
    return Reviving(start, abandon=end_loading)


def await_server(job: Job, say: Say) -> None:
    """Waits for the job's server, if it has one that is there and does not answer yet; ``say``
    hears of it.

    Raises:
        EngineError: none is there.
    """
    if job.local.base_url is None or engine_name(job.local) != "openai_server":
        return
    if job.cluster is not None:
        return  # that is refused, and nothing to wait for
    from runner.engines.openai_server.engine import OpenAIServerEngine

    async def there() -> None:
        engine = OpenAIServerEngine(job.local)
        engine.hear(say)
        try:
            await engine.there()
        finally:
            await engine.aclose()

    asyncio.run(there())


def _maker(name: str) -> Callable[..., Engine]:
    if name == "vllm":
        from runner.engines.vllm.engine import VllmEngine

        return VllmEngine
    from runner.engines.transformers.engine import TransformersEngine

    return TransformersEngine


def _ahead(name: str, local: Local) -> Ahead:
    if name == "vllm":
        return partial(prepare, local)
    from runner.engines.transformers.checkpoint import packages

    return packages


def in_child(make: Make, ahead: Ahead | None, keep: Keep | None, thrift: int) -> ChildEngine:
    """The kept engine that ``keep`` names, or a new one in a process of its own. ``thrift``: how
    often memory was short so far."""
    made = partial(make, thrift)
    if thrift:
        keep = None  # it is not the engine that another run would load
    hangs = ""
    try:
        if keep is not None and (adopted := adopt(keep)) is not None:
            end_spare()
            return ChildEngine(made, adopted)
    except Hung as hung:
        hangs = str(hung)
    said = retire(keep) if keep is not None else ""
    if not on_cpu():
        make_room()
    engine = ChildEngine(made, started(ahead, keep))
    engine.note = "; ".join(each for each in (hangs or engine.note, said) if each)
    return engine


def _keep(job: Job, name: str, model: str) -> Keep | None:
    minutes = job.local.keep_loaded
    if minutes is None:
        return None
    settings = {
        "engine": name,
        "model": model,
        "grammars": _own_grammars(name, job),
        "local": job.local.model_dump(mode="json", exclude=_NOT_LOADED),
        "files": [job.identity()["local.model files"], *_files(job.model_path())],
    }
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    owner = str((job.folder / job.name).resolve())
    return Keep(
        made_folder(), name_of(settings), minutes, model, devices, owner, files_digest(model)
    )


# What every grammar backend of vLLM's holds an answer to.
_PLAIN = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description",
    "enum", "items", "maxItems", "maximum", "minItems", "minimum", "properties", "required",
    "title", "type",
}  # fmt: skip


def _own_grammars(name: str, job: Job) -> Any:
    """A schema that may need another of vLLM's grammar backends than others need: a process has
    but one."""
    schema = job.answer.json_schema
    return schema if name == "vllm" and schema and not _is_plain(schema) else None


def _is_plain(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(map(_is_plain, schema))
    if not isinstance(schema, dict):
        return True
    if not _PLAIN.issuperset(schema):
        return False
    named = [schema.get(name) for name in ("properties", "$defs", "definitions")]
    rules = [rule for each in named if isinstance(each, dict) for rule in each.values()]
    rules += [schema.get(name) for name in ("items", "anyOf", "additionalProperties")]
    return all(map(_is_plain, rules))


def _files(model: Path | None) -> list[list[str | int]]:
    return files_of(model) if model is not None else []


@contextlib.contextmanager
def starting_ahead(job: Job, run_dir: Path | None = None) -> Iterator[None]:
    """The engine's process starts now, and imports its library while the run is made ready, if one
    of the first records needs the local model. It loads the model no sooner than asked to."""
    folder = run_dir or Path("runs") / job.name
    # A run that goes on may need no model any more.
    if not folder.exists() and _needs_model(job):
        with contextlib.suppress(SureLocalError):  # it is said when the engine is loaded
            keys.withhold(job.key_names())
            name = engine_name(job.local)
            keep = _keep(job, name, local_model(job))
            if keep is None or not keep.path("sock").exists():
                start_ahead(_ahead(name, job.local))
    try:
        yield
    finally:
        end_spare()


def _needs_model(job: Job) -> bool:
    """Whether one of the first records does. A mistake in them is for others to tell."""
    if job.cluster is not None or job.local.base_url or job.records.path is None:
        return False
    with contextlib.suppress(Exception):  # a rule that is none, say
        router = Router(job)
        for record in itertools.islice(job_records(job, _PEEK), _PEEK):
            with contextlib.suppress(SureLocalError):
                if record.problem is None and router.route(record).route is Route.LOCAL:
                    return True
    return False


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
