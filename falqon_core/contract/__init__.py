"""The agreement of trainer, worker and API: configuration, messages, errors, layout of folders,
formats.

It needs the standard library and pydantic alone, as do `records` and `estimate`.
"""
