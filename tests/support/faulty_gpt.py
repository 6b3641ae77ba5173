"""A GPT written as people write one, with a place for faults, over PyTorch or NumPy.

It shares nothing with `jaxllm`. A fault is a word at the name of a module. A module's input is its arguments.
"""

import math
from typing import Any

import numpy as np


class NumpyModule:
    """What the model needs of `torch.nn.Module`, in NumPy."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []

    def register_forward_hook(self, hook: Any) -> None:
        self.hooks.append(hook)

    def named_modules(self, prefix: str = "") -> Any:
        yield prefix, self
        for name, child in vars(self).items():
            if isinstance(child, NumpyModule):
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def __call__(self, *arguments: Any) -> Any:
        result = self.forward(*arguments)  # type: ignore[attr-defined]
        for hook in self.hooks:
            hook(self, arguments, result)
        return result


class Library:
    """NumPy in float64, or PyTorch in a dtype of its own."""

    def __init__(self, torch: Any = None, dtype: str = "float64") -> None:
        self.torch, self.xp, self.dtype = torch, torch or np, dtype
        base = torch.nn.Module if torch else NumpyModule
        parts = (Linear, Norm, Heads, Attention, Activation, MLP, Block, Embedding, Positions, GPT)
        self.classes = {part.__name__: type(part.__name__, (part, base), {}) for part in parts}

    def array(self, x: Any) -> Any:
        return self.torch.tensor(np.asarray(x), dtype=getattr(self.torch, self.dtype)) if self.torch else np.array(x)

    def parameter(self, x: Any) -> Any:
        return self.torch.nn.Parameter(self.array(x)) if self.torch else self.array(x)

    def integers(self, x: Any) -> Any:
        return self.torch.tensor(np.asarray(x)) if self.torch else np.asarray(x)

    def erf(self, x: Any) -> Any:
        return self.torch.erf(x) if self.torch else np.vectorize(math.erf, otypes=[float])(x)

    def bfloat16(self, x: Any) -> Any:
        """Rounded to bfloat16 and back."""
        if self.torch:
            return x.to(self.torch.bfloat16).to(x.dtype)
        bits = np.asarray(x, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(float)

    def softmax(self, x: Any, axis: int) -> Any:
        e = self.xp.exp(x - (self.xp.amax(x, axis, keepdims=True)))
        return e / e.sum(axis, keepdims=True)


class Part:
    """A module with a config, parameters by our names and the faults below its name."""

    def __init__(self, lib: Library, config: Any, params: Any, faults: dict[str, str], name: str = "") -> None:
        super().__init__()
        self.lib, self.config, self.faults, self.name = lib, config, faults, name
        self.fault = faults.get(name, "")
        self.setup(params)

    def make(self, kind: str, name: str, params: Any) -> Any:
        below = f"{self.name}/{name}" if self.name else name
        return self.lib.classes[kind](self.lib, self.config, params, self.faults, below)

    def has(self, fault: str) -> bool:
        """Whether a fault is planted here; several are joined by " + "."""
        return fault in self.fault.split(" + ")


class Linear(Part):
    def setup(self, params: Any) -> None:
        self.weight = self.lib.parameter(np.transpose(params["kernel"]))
        self.bias = self.lib.parameter(params["bias"]) if "bias" in params else None

    def forward(self, x: Any) -> Any:
        weight = self.weight if self.has("transposed") else self.weight.T
        if self.has("bfloat16"):
            x, weight = self.lib.bfloat16(x), self.lib.bfloat16(weight)
        y = x @ weight
        return y if self.bias is None or self.has("no bias") else y + self.bias


class Norm(Part):
    def setup(self, params: Any) -> None:
        self.weight = self.lib.parameter(params["scale"])
        self.bias = self.lib.parameter(params["bias"]) if "bias" in params else None

    def forward(self, x: Any) -> Any:
        d, kind = x.shape[-1], self.config.norm
        kind = {"layer_norm": "rms_norm", "rms_norm": "layer_norm"}[kind] if self.has("kind") else kind
        centred = x - x.mean(-1, keepdims=True) if kind == "layer_norm" else x
        variance = (centred**2).sum(-1, keepdims=True) / (d - 1 if self.has("unbiased") else d)
        epsilon = 1e-3 if self.has("epsilon") else self.config.norm_epsilon
        y = centred / (variance + epsilon) ** 0.5 * (self.weight + (1 if self.has("offset") else 0))
        y = y if self.bias is None else y + self.bias
        return y + 0.01 * self.lib.xp.sin(3 * y) if self.has("unknown") else y


class Heads(Part):
    """Between the maps: queries, keys and values [B, T, H K] to what is attended to."""

    def setup(self, params: Any) -> None:
        pass

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        xp, c = self.lib.xp, self.config
        q, k, v = (self.split(z, n) for z, n in ((q, c.n_heads), (k, c.kv_heads), (v, c.kv_heads)))
        if c.position == "rotary":
            q, k = self.rotate(q, 1 if self.has("late queries") else 0), self.rotate(k, 0)
        times = c.n_heads // c.kv_heads
        if self.has("tiled"):
            k, v = xp.concatenate([k] * times, 1), xp.concatenate([v] * times, 1)
        else:
            k, v = (xp.stack([z] * times, 2).reshape(z.shape[0], c.n_heads, *z.shape[2:]) for z in (k, v))
        scale = c.attention_scale or c.head_dim**-0.5
        scale = 1.0 if self.has("no scale") else c.d_model**-0.5 if self.has("width") else scale
        scores = q @ k.swapaxes(-1, -2) * scale
        if c.score_softcap and not self.has("no cap"):
            scores = xp.tanh(scores / c.score_softcap) * c.score_softcap
        t = self.lib.integers(np.arange(q.shape[-2]))
        seen = t[:, None] + int(self.has("late mask")) >= t[None, :]
        if self.has("window"):
            seen = seen & (t[:, None] - t[None, :] < 4)
        scores = scores if self.has("no mask") else xp.where(seen, scores, self.lib.array(-1e30))
        y = self.lib.softmax(scores, -2 if self.has("softmax over queries") else -1) @ v
        return y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1)

    def split(self, z: Any, n: int) -> Any:
        return z.reshape(z.shape[0], z.shape[1], n, -1).swapaxes(1, 2)

    def rotate(self, z: Any, shift: int) -> Any:
        k = z.shape[-1]
        n = k if self.has("all rotated") else int(k * self.config.rotary_fraction)
        if n < k:
            return self.lib.xp.concatenate([self.rotate_all(z[..., :n], shift), z[..., n:]], -1)
        return self.rotate_all(z, shift)

    def rotate_all(self, z: Any, shift: int) -> Any:
        xp, k = self.lib.xp, z.shape[-1]
        base = 500.0 if self.has("base") else self.config.rope_base
        angles = np.outer(np.arange(z.shape[-2]) + shift, base ** (-np.arange(0, k, 2) / k))
        cos, sin = self.lib.array(np.cos(angles)), self.lib.array(np.sin(angles))
        if self.has("interleaved"):
            a, b = z[..., 0::2], z[..., 1::2]
            return xp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(z.shape)
        a, b = z[..., : k // 2], z[..., k // 2 :]
        return xp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(Part):
    def setup(self, params: Any) -> None:
        self.query, self.key, self.value, self.output = (
            self.make("Linear", name, params[name]) for name in ("query", "key", "value", "output")
        )
        self.heads = self.make("Heads", "heads", None)

    def forward(self, x: Any) -> Any:
        return self.output(self.heads(self.query(x), self.key(x), self.value(x)))


class Activation(Part):
    def setup(self, params: Any) -> None:
        pass

    def forward(self, *z: Any) -> Any:
        xp = self.lib.xp
        if self.config.activation == "swiglu":
            gate, up = reversed(z) if self.has("exchanged") else z
            return gate / (1 + xp.exp(-gate)) * up
        (x,) = z
        if self.has("exact"):
            return 0.5 * x * (1 + self.lib.erf(x / 2**0.5))
        if self.has("quick"):
            return x / (1 + xp.exp(-1.702 * x))
        return 0.5 * x * (1 + xp.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))


class MLP(Part):
    def setup(self, params: Any) -> None:
        self.maps = [name for name in ("gate", "up") if name in params]
        for name in (*self.maps, "down"):
            setattr(self, name, self.make("Linear", name, params[name]))
        self.activation = self.make("Activation", "activation", None)

    def forward(self, x: Any) -> Any:
        return self.down(self.activation(*(getattr(self, name)(x) for name in self.maps)))  # type: ignore[attr-defined]


class Block(Part):
    def setup(self, params: Any) -> None:
        self.norm_1, self.norm_2 = (self.make("Norm", name, params[name]) for name in ("norm_1", "norm_2"))
        self.attention = self.make("Attention", "attention", params["attention"])
        self.mlp = self.make("MLP", "mlp", params["mlp"])

    def forward(self, x: Any) -> Any:
        if self.has("parallel"):
            return x + self.attention(self.norm_1(x)) + self.mlp(self.norm_2(x))
        middle = x + self.attention(self.norm_1(x))
        rest = self.mlp(self.norm_2(middle))
        return rest if self.has("no residual") else middle + rest


class Embedding(Part):
    def setup(self, params: Any) -> None:
        self.weight = self.lib.parameter(params["table"])

    def forward(self, tokens: Any) -> Any:
        y = self.weight[tokens]
        return y * self.config.d_model**0.5 if self.has("scaled") else y


class Positions(Part):
    def setup(self, params: Any) -> None:
        self.weight = self.lib.parameter(params["table"])

    def forward(self, x: Any) -> Any:
        first = 1 if self.has("from one") else 0
        return x + self.weight[first : first + x.shape[-2]]


class GPT(Part):
    def setup(self, params: Any) -> None:
        c = self.config
        self.token_embedding = self.make("Embedding", "token_embedding", params["token_embedding"])
        if c.position == "learned":
            self.position_embedding = self.make("Positions", "position_embedding", params["position_embedding"])
        for i in range(c.n_layers):
            setattr(self, f"block_{i}", self.make("Block", f"block_{i}", params[f"block_{i}"]))
        self.norm_final = self.make("Norm", "norm_final", params["norm_final"])
        if not c.tie_embeddings:
            self.head = self.make("Linear", "head", params["head"])
        self.fault = self.faults.get("head", "")

    def forward(self, tokens: Any) -> Any:
        x = self.token_embedding(tokens)
        x = self.position_embedding(x) if self.config.position == "learned" else x
        for i in range(self.config.n_layers):
            x = getattr(self, f"block_{i}")(x)
        normed = self.norm_final(x)
        normed = x if self.has("no norm") else normed
        tied = self.config.tie_embeddings or self.has("tied")
        logits = normed @ self.token_embedding.weight.T if tied else self.head(normed)
        cap = None if self.has("no cap") else self.config.logits_softcap
        return logits if cap is None else self.lib.xp.tanh(logits / cap) * cap
