"""Melded linears: a low-rank adapter that trains inside the FP8 weights that a GPU multiplies with.

This page explains the algorithm from its beginning; the modules hold the details. Shapes: T tokens,
I inputs, O outputs, rank r (64, say). *e4m3* is an 8-bit float of 3 mantissa bits that ends at 448;
a value is `code * scale`.

THE PROBLEM
===========

A linear computes y = x W^T. LoRA freezes W and trains two thin matrices beside it, A [r, I] and
B [O, r], so that y = x W^T + (alpha / r) (x A^T) B^T. GPUs multiply e4m3 at twice the rate of bf16,
so W would best be stored in FP8. But the branch of the adapter then needs x A^T quantized, and A
and B, and backward all of them again: quantizing reads and writes whole tensors for products that
are tiny. With FP8 the branch costs more than it saves.

THE IDEA
========

There is no branch. The adapter is added to the weight after each optimizer step, and the FP8
matrix itself is rebuilt:

    forward    [y | o_a]  = x_q [W_q; A_q]^T                 one FP8 GEMM
    backward   dx         = dy_q W_q                         one FP8 GEMM
               dB         = (alpha / r) dy_q^T o_a           a small GEMM, o_a = x A^T
    step       B          = AdamW(B, dB)                     fp32
    refresh    W_q[i], s_i = quantize(W0[i] + (alpha / r) B[i] A)      row by row

A's rows ride along in the same GEMM as r more outputs, so o_a [T, r] costs almost nothing. It is
all that backward keeps of the layer while A is frozen: dB needs o_a, dx needs W_q, neither needs
x [T, I]. B is called the *delta*. It stays in fp32 and is never rounded; only the rows made of it
are. A is used as its own dequantized value in every formula, so dB is the exact gradient of
W0 + B A before the sum is rounded.

WHY A BASE IS KEPT
==================

An optimizer step moves a weight by a few hundredths of the distance between two e4m3 codes. Added
to the codes and rounded to nearest, nearly every step would be lost. The *anchored* rule therefore
rounds afresh each time, from the immutable base W0 and the whole delta: small steps add up in B
until a code changes. The base costs memory beside the codes (bf16: 2 bytes a weight; int8: 1), may
stay in host memory, and is given up with `base_copy="none"`, where stochastic rounding keeps small
steps on average and adds noise (update.py, base.py).

HOW IT DIFFERS
==============

From LoRA      The forward pass reads the FP8 sum of weight and adapter, not two terms. A model
               melded so is served as it was trained: the FP8 checkpoint holds the same codes.
               The adapter (A, B) can still be exported exactly.
From QLoRA     QLoRA stores W in 4 bits to save memory and dequantizes it for products in bf16; the
               4-bit weight never changes. Here the stored weight is the one multiplied, and trains.
From the paper (FALQON, arXiv 2510.24061.) Its rule folds only the k rows with the largest delta
               into the codes, then forgets the rest, under one scale for all of [W; A]. It is here
               as `update_rule="topk"` for comparison. Ours keeps every delta, gives each row a
               scale of its own, quantizes activations by token, and may train A as well.

TRADE-OFFS
==========

- Rounding: each weight that is multiplied lies within 1/16 of its value of W0 + (alpha / r) B A
  (half of e4m3's spacing, normal numbers). Training runs through that error, as serving will.
- A refresh after each step reads every base and writes every code: 2 to 3 bytes a weight.
- Where A trains, backward keeps x as well, one byte an element; its gradient takes rounding as the
  identity and is not exact. It needs dy B, and B^T lies below the transposed W in the GEMM of dx.
- The gradients of A and B read dy as the codes that the GEMM of dx reads. So no gradient of an
  output is written but as codes, and gate and up of an MLP are kept as codes for it.
- Speed comes from FP8 hardware alone. On a CPU the dequantized values are kept and multiplied, with
  the same codes in the end and no gain (packed_weight.py).

READING ORDER
=============

  linear.py         one melded linear: its rows, base, delta; making and calling a group
  packed_weight.py  the rows of a group, as e4m3 (GPU) or as dequantized values (CPU), and the two
                    GEMMs with them
  rows_view.py      the rows of one W or A in it, to read, rebuild and fold
  block_quantizer.py  four and eight bits a weight, in blocks: NVFP4, MXFP4, llama.cpp's Q4_0 and
                    Q8_0
  block_rows.py     the rows of a W in such blocks, which a recipe's `weights` names
  matmul.py         the autograd function: forward keeps x A^T [T, r], and x where A trains;
                    backward gives grad_input and the gradients of all that trains
  gradients.py      those gradients where they are not computed from codes
  update.py         the update rules, which carry the delta to the rows: rebuilt from an immutable
                    base (anchored), or folded row by row (topk, as published)
  base.py           the base of the anchored rule: bf16 or int8, on the device or in host memory
  init.py           the choice of A: random, the directions of the rounding error or the gradient
  blocks.py         attention and MLP that call the linears reading the same input together
  fused.py          the decoder layer of an FP8 GPU: norms and SwiGLU write the codes that the GEMMs
                    read
  convert.py        all of it applied to a transformers model
  sharded_layers.py the same on several ranks, of which each stores a part of the rows
                    (row_shard.py, stored_rows.py)

The operators underneath are those of `ops`; the method as a job names it is `methods/falqon.py`.
docs/method.md has the measurements.
"""
