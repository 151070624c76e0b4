"""`python -m falqon_core`."""

from falqon_core.cli import app

if __name__ == "__main__":
    app(prog_name="python -m falqon_core")
