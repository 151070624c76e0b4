"""What is answered with 503 here, because no worker loads a model."""

ASKS_A_MODEL = {"POST /v1/chat/completions", "POST /v1/completions"}
