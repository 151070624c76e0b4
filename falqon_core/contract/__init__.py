"""What trainer, worker and API agree on: configuration, messages, errors, layout of folders,
formats.

It needs the standard library and pydantic alone, as do `records` and `estimate`.
"""
