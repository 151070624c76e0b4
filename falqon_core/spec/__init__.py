"""The torch-free contract of the trainer: configuration, records, messages, errors, dimensions and estimates.

It is the only part of `falqon_core` that the API and the worker import, so it depends on the standard library and pydantic alone.
"""
