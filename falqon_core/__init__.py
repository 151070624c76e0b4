"""The FP8 melded-LoRA trainer, a library and a command: paths and numbers, no web, no database."""
