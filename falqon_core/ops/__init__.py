"""Operators of the trainer, one a file: what is computed, written in plain torch (the oracle), the
kernel, and the name others call.

`dispatch.operator` is the only place where a kernel for another device plugs in, and `self_check`
says whether it can be trusted there. The way of one melded linear through them: `quantize` rounds a
token's activations to e4m3 with a power-of-two scale, `scaled_mm` multiplies codes with codes, and
`refresh` writes the trained fold into the weight's codes after a step. Around it stand `attention`,
`rms_norm`, `swiglu` and `cross_entropy`.
"""
