"""surelocal from Python.

    from surelocal import run

    done = run("triage.yaml", records=frame)  # a pandas or pyarrow table, rows, or a file
    print(done.summary.decided_by)
    frame = done.table().to_pandas()

`run` is what ``surelocal run`` calls; see `runner.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner import __all__ as __all__
from runner import __getattr__ as __getattr__  # each is imported when it is asked for

if TYPE_CHECKING:
    from runner import Event as Event
    from runner import Job as Job
    from runner import Notice as Notice
    from runner import Result as Result
    from runner import load_job as load_job
    from runner import make_job as make_job
    from runner import run as run
