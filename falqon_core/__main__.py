from falqon_core.cli import app

app(prog_name="python -m falqon_core")
