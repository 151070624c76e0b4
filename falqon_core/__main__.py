"""`python -m falqon_core`."""

import sys

from falqon_core.cli import app

if __name__ == "__main__":
    if sys.argv[1:2] == ["inspect"]:
        # transformers imports it wherever it can, which takes seconds; tokens are counted without
        sys.modules["torch"] = None  # type: ignore[assignment]
    app(prog_name="python -m falqon_core")
