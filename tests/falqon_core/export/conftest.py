import torch
from torch import nn
from transformers import PreTrainedModel


class CodesAndScale(nn.Module):
    """A linear that holds e4m3 qdata [O, I] and one fp32 scale per output row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.scale = nn.Buffer(weight.abs().amax(1, keepdim=True) / 448)
        self.qdata = nn.Buffer((weight / self.scale).clamp(-448, 448).to(torch.float8_e4m3fn))
        self.bias = linear.bias

    def quantized_weight(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.qdata, self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As an engine serves it: activations rounded to e4m3 with one scale per token."""
        token_scale = x.abs().amax(-1, keepdim=True) / 448
        x = (x / token_scale).to(torch.float8_e4m3fn).to(x.dtype) * token_scale
        return nn.functional.linear(x, (self.qdata.float() * self.scale).to(x.dtype), self.bias)


def quantize_linears(
    model: PreTrainedModel, leave: tuple[str, ...] = ("lm_head",)
) -> PreTrainedModel:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not name.endswith(leave):
            model.set_submodule(name, CodesAndScale(module))
    return model
