"""The FP8 melded-LoRA trainer: a library and a command that know paths and numbers, no web and no
database.
"""
