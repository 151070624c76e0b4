"""Measurements for a machine with a GPU: `python -m falqon_core bench` prints one table of the
figures that only a GPU can give.

  timing.py    the median time of a call, and how long the whole may take
  ceilings.py  what the card can do at most: copies, bf16 and FP8 products, through torch
  kernels.py   every kernel of `ops` at the shapes of a 7B model, against its oracle and those
               ceilings
  model.py     a Llama of random weights, made on the device
  peers.py     LoRA, QLoRA and torchao's FP8 as their own libraries compute them
  steps.py     seconds of an optimizer step, ours against those peers, in turn
  report.py    all of it in order, within a time limit
  table.py     what was measured as Markdown, with the arithmetic that makes shares and rates of it

Everything takes the device and the sizes as arguments, so that the tests run the same code on a CPU
with tiny ones. It measures one card and one process, on random weights.
"""
