"""Python imports this when it starts, where this folder is on its path."""

import os

if "SURELOCAL_TEST_FORKS" in os.environ:
    import client  # type: ignore[import-not-found]

    client.install()
