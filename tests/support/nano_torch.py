"""A GPT in PyTorch with nanoGPT's names, and options that plant faults. Tests that import this module need `peers`."""

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `peers`")
nn = torch.nn


class CausalSelfAttention(nn.Module):  # type: ignore[name-defined,misc]
    """Multi-head attention of one joined map. `ahead` tokens more are visible than should be."""

    def __init__(self, width: int, heads: int, ahead: int) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.ahead = heads, ahead

    def forward(self, x: Any) -> Any:
        split = (*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        q, k, v = (y.view(split).transpose(1, 2) for y in self.c_attn(x).chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / split[-1] ** 0.5
        t = torch.arange(x.shape[1])
        hidden = t[None, :] > t[:, None] + self.ahead
        weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return self.c_proj((weights @ v).transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj, self.dropout = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        return self.dropout(self.c_proj(nn.functional.gelu(self.c_fc(x))))


class Layer(nn.Module):  # type: ignore[name-defined,misc]
    def __init__(self, width: int, heads: int, epsilon: float, ahead: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width, eps=epsilon)
        self.attn, self.mlp = CausalSelfAttention(width, heads, ahead), MLP(width)

    def forward(self, x: Any) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class NanoGPT(nn.Module):  # type: ignore[name-defined,misc]
    """Logits of the last token alone, and no loss, unless targets are given. Every parameter is random.

    `epsilon` is that of the second norm in the last layer, `ahead` the tokens that the first layer sees too many.
    """

    def __init__(self, vocab: int, context: int, width: int, heads: int, epsilon: float = 1e-5, ahead: int = 0) -> None:
        super().__init__()
        layers = [Layer(width, heads, 1e-5, ahead), Layer(width, heads, epsilon, 0)]
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(vocab, width), "wpe": nn.Embedding(context, width), "drop": nn.Dropout(0.5),
            "h": nn.ModuleList(layers), "ln_f": nn.LayerNorm(width),
        })  # fmt: skip
        self.lm_head = nn.Linear(width, vocab, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                z = torch.randn(p.shape, generator=generator)
                p.copy_(p + 0.2 * z if p.ndim == 1 else z * p.shape[-1] ** -0.5)

    def forward(self, tokens: Any, targets: Any = None) -> Any:
        body = self.transformer
        x = body["drop"](body["wte"](tokens) + body["wpe"](torch.arange(tokens.shape[1])))
        for layer in body["h"]:
            x = layer(x)
        x = body["ln_f"](x)
        if targets is None:
            return self.lm_head(x[:, [-1], :]), None
        logits = self.lm_head(x)
        return logits, nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
