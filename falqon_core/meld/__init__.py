"""The algorithm: linears whose FP8 rows hold the adapter, how A is chosen, how an optimizer step
reaches the rows.

A linear y = x W^T is replaced by one FP8 matrix [W; A] with a scale per row. A [r, I] is chosen
once, and trains where the linears do not narrow; B [O, r], the *delta*, trains in fp32. Both are
folded into W's rows after every step, so there is no adapter branch to compute. Read in this order:

  blocks.py         attention and MLP that call the linears reading the same input together
  linear.py         one melded linear: its rows, base, delta; and how a group is made and called
  packed_weight.py  the rows of a group, as e4m3 (GPU) or as dequantized values (CPU), and the two
                    GEMMs with them
  matmul.py         the autograd function: forward keeps x A^T [T, r], and x where A trains;
                    backward gives grad_input and the gradients of what trains
  fused.py          the decoder layer of an FP8 GPU: norms and SwiGLU write the codes that the GEMMs
                    read
  update.py         how the delta reaches the rows: rebuilt from an immutable base (anchored), or
                    folded row by row (topk, as published)
  init.py           which A: random, the directions of the rounding error, or of the gradient
  convert.py        all of it applied to a transformers model

The operators underneath are those of `ops`; what a job sees of it is `methods/falqon.py`.
"""
