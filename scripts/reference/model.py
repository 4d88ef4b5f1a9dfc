"""The reference: Lingot's language model in PyTorch with autograd, written for reading and not for speed.

It is written from the published definitions of the models (Ling technical report, arXiv 2503.05139; Ling
2.0, arXiv 2510.22115) and from nothing else, so that agreement with the Rust model means something. Names
and shapes of the tensors are those of `crates/spec/src/tensors.rs`; `spec` is a `ModelSpec` as JSON. The
weights set the precision.

A batch is B sequences of S tokens, flattened to T = B * S. Token t sees the tokens `starts[t]..=t` and
predicts `targets[t]`, or nothing where that is -1. `positions[t]` is its place in its document.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass
class Batch:
    """What one step reads. Token tensors are int64 [T]."""

    tokens: torch.Tensor
    targets: torch.Tensor
    starts: torch.Tensor
    positions: torch.Tensor
    sequence: int
    # Stochastic routing warmup: the share of the true logits that is kept, and normal noise [T, E] per
    # router.
    keep: float = 1.0
    noise: dict = field(default_factory=dict)


@dataclass
class Routing:
    """What one router decided, and its part of the auxiliary losses (before their coefficients)."""

    chosen: torch.Tensor  # [T, K]
    weights: torch.Tensor  # [T, K]
    load: torch.Tensor  # [E], how many tokens chose each expert
    logits: torch.Tensor  # [T, E], before warmup
    balance: torch.Tensor
    z: torch.Tensor
    margin: float  # by how much the nearest decision of this batch was made


@dataclass
class Losses:
    """`total = main + mtp_weight * mtp + balance_loss * balance + z_loss * z`; the parts are unweighted."""

    main: torch.Tensor
    mtp: torch.Tensor
    balance: torch.Tensor
    z: torch.Tensor
    total: torch.Tensor
    main_count: int  # targets that `main` is the mean of
    mtp_count: int
    routings: dict  # by the layer's name


def tensor_shapes(spec):
    """Name -> (shape, whether weight decay applies), in Lingot's order."""
    v, d, c = spec["vocabulary"], spec["width"], spec["head_width"]
    e, f, shared = spec["experts"], spec["expert_width"], spec["shared_experts"] * spec["expert_width"]
    shapes = {"embedding": ((v, d), True)}

    def block(prefix, is_moe):
        parts = {
            "attention_norm": ((d,), False),
            "query": ((spec["heads"] * c, d), True),
            "key": ((spec["kv_heads"] * c, d), True),
            "value": ((spec["kv_heads"] * c, d), True),
        }
        if spec["qk_norm"]:
            parts |= {"query_norm": ((c,), False), "key_norm": ((c,), False)}
        parts |= {"output": ((d, spec["heads"] * c), True), "mlp_norm": ((d,), False)}
        if not is_moe:
            dense = spec["dense_width"]
            parts |= {"dense_gate_up": ((2 * dense, d), True), "dense_down": ((d, dense), True)}
        else:
            parts |= {"router": ((e, d), True)}
            parts |= {"experts_gate_up": ((e, 2 * f, d), True), "experts_down": ((e, d, f), True)}
            if shared > 0:
                parts |= {"shared_gate_up": ((2 * shared, d), True), "shared_down": ((d, shared), True)}
        shapes.update({f"{prefix}.{part}": value for part, value in parts.items()})

    for layer in range(spec["layers"]):
        block(f"layers.{layer}", layer >= spec["dense_layers"])
    shapes["final_norm"] = ((d,), False)
    if not spec["tied"]:
        shapes["head"] = ((v, d), True)
    if spec["mtp_layers"] > 0:
        shapes |= {"mtp.token_norm": ((d,), False), "mtp.hidden_norm": ((d,), False)}
        shapes |= {"mtp.token_projection": ((d, d), True), "mtp.hidden_projection": ((d, d), True)}
        block("mtp", True)
        shapes["mtp.final_norm"] = ((d,), False)
    return shapes


def router_names(spec):
    """The layers that have a router, in order."""
    names = [f"layers.{layer}" for layer in range(spec["dense_layers"], spec["layers"])]
    return names + ["mtp"] * (spec["mtp_layers"] > 0)


def rms_norm(x, weight, epsilon):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon) * weight


def swiglu(x, gate_up, down):
    """`gate_up` holds the rows of the gate first, then those of the up projection."""
    gate, up = (x @ gate_up.T).chunk(2, dim=-1)
    return (F.silu(gate) * up) @ down.T


def rotate(x, positions, rotary_width, theta):
    """RoPE on the first `rotary_width` dims of each head, [T, heads, C]; pairs are half the rotated width
    apart."""
    half = rotary_width // 2
    frequencies = theta ** (-2.0 * torch.arange(half, dtype=torch.float64) / rotary_width)
    angles = positions.to(torch.float64)[:, None, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second, rest = x[..., :half], x[..., half:rotary_width], x[..., rotary_width:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


def attend(query, key, value, batch):
    """Causal attention inside documents: query [T, H, C], key and value [T, G, C] -> [T, H, C]."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = torch.einsum("thc,shc->hts", query, key) / math.sqrt(query.shape[-1])
    t = torch.arange(query.shape[0])
    visible = (t[None, :] <= t[:, None]) & (t[None, :] >= batch.starts[:, None])
    scores = scores.masked_fill(~visible, -math.inf)
    return torch.einsum("hts,shc->thc", scores.softmax(-1), value)


def largest(x, count):
    """Indices of the `count` largest of the last dim, the lowest index first among equals; and the
    smallest gap between the last one taken and the first one left."""
    values, order = torch.sort(x.detach(), dim=-1, descending=True, stable=True)
    left_over = count < x.shape[-1]
    gap = (values[..., count - 1] - values[..., count]).min().item() if left_over else math.inf
    return order[..., :count], gap


class Reference:
    """A model: `weights` by name (leaf tensors), `buffers` by name (selection_bias, logit_statistics).

    `attend` may be replaced by a faster function of the same meaning."""

    def __init__(self, spec, weights, buffers, attend=attend):
        self.spec, self.weights, self.buffers, self.attend = spec, weights, buffers, attend
        # Finite differences have to hold the NormHead's detached norm still; they set this.
        self.head_norm = None

    def losses(self, batch):
        spec, w = self.spec, self.weights
        routings = {}
        hidden = self.hidden(batch, routings)
        head = self.head()
        final = rms_norm(hidden, w["final_norm"], spec["norm_epsilon"])
        main, main_count = cross_entropy(final @ head.T, batch.targets)
        mtp, mtp_count = torch.zeros((), dtype=main.dtype), 0
        if spec["mtp_layers"] > 0:
            mtp, mtp_count = self.mtp_loss(final, head, batch, routings)
        balance = sum((r.balance for r in routings.values()), torch.zeros((), dtype=main.dtype))
        z = sum((r.z for r in routings.values()), torch.zeros((), dtype=main.dtype))
        router = spec["router"]
        total = main + spec["mtp_weight"] * mtp + router["balance_loss"] * balance + router["z_loss"] * z
        return Losses(main, mtp, balance, z, total, main_count, mtp_count, routings)

    def hidden(self, batch, routings):
        """The residual stream after the last layer, before the final norm."""
        x = self.weights["embedding"][batch.tokens]
        for layer in range(self.spec["layers"]):
            x = self.block(f"layers.{layer}", layer >= self.spec["dense_layers"], x, batch, routings)
        return x

    def logits(self, batch):
        x = rms_norm(self.hidden(batch, {}), self.weights["final_norm"], self.spec["norm_epsilon"])
        return x @ self.head().T

    def head(self):
        """The output matrix [V, D]. NormHead divides each column by its norm, which has no gradient."""
        matrix = self.weights["embedding" if self.spec["tied"] else "head"]
        if not self.spec["norm_head"]:
            return matrix
        norm = self.head_norm
        if norm is None:
            norm = (torch.linalg.vector_norm(matrix, dim=0, keepdim=True) + 1e-7).detach()
        return matrix / norm

    def mtp_loss(self, hidden, head, batch, routings):
        """Predicts the token after the next from the trunk's hidden state and the next token's embedding."""
        spec, w, epsilon = self.spec, self.weights, self.spec["norm_epsilon"]
        embedded = w["embedding"][batch.targets.clamp(min=0)]
        x = rms_norm(embedded, w["mtp.token_norm"], epsilon) @ w["mtp.token_projection"].T
        x = x + rms_norm(hidden, w["mtp.hidden_norm"], epsilon) @ w["mtp.hidden_projection"].T
        x = self.block("mtp", True, x, batch, routings)
        x = rms_norm(x, w["mtp.final_norm"], epsilon)
        return cross_entropy(x @ head.T, mtp_targets(batch))

    def block(self, name, is_moe, x, batch, routings):
        w, epsilon = self.weights, self.spec["norm_epsilon"]
        x = x + self.attention(name, rms_norm(x, w[f"{name}.attention_norm"], epsilon), batch)
        h = rms_norm(x, w[f"{name}.mlp_norm"], epsilon)
        if not is_moe:
            return x + swiglu(h, w[f"{name}.dense_gate_up"], w[f"{name}.dense_down"])
        routings[name] = self.route(name, h, batch)
        y = self.experts(name, h, routings[name])
        if self.spec["shared_experts"] > 0:
            y = y + swiglu(h, w[f"{name}.shared_gate_up"], w[f"{name}.shared_down"])
        return x + y

    def attention(self, name, h, batch):
        spec, w = self.spec, self.weights
        parts = [h @ w[f"{name}.{part}"].T for part in ("query", "key", "value")]
        query, key, value = [part.unflatten(-1, (-1, spec["head_width"])) for part in parts]
        if spec["qk_norm"]:
            query = rms_norm(query, w[f"{name}.query_norm"], spec["norm_epsilon"])
            key = rms_norm(key, w[f"{name}.key_norm"], spec["norm_epsilon"])
        query, key = [
            rotate(x, batch.positions, spec["rotary_width"], spec["rope_theta"]) for x in (query, key)
        ]
        return self.attend(query, key, value, batch).flatten(1) @ w[f"{name}.output"].T

    def experts(self, name, h, routing):
        """Sum over the chosen experts of weight * expert(h), with the visits sorted by expert."""
        gate_up, down = self.weights[f"{name}.experts_gate_up"], self.weights[f"{name}.experts_down"]
        order = routing.chosen.flatten().argsort(stable=True)
        tokens = order // routing.chosen.shape[1]
        slices = h[tokens].split(routing.load.tolist())
        outputs = torch.cat([swiglu(rows, gate_up[e], down[e]) for e, rows in enumerate(slices)])
        outputs = outputs * routing.weights.flatten()[order][:, None]
        return torch.zeros_like(h).index_add(0, tokens, outputs)

    def route(self, name, h, batch):
        router = self.spec["router"]
        raw = h @ self.weights[f"{name}.router"].T
        logits = raw
        if name in batch.noise:
            mean, deviation = self.buffers[f"{name}.logit_statistics"].to(raw.dtype)
            logits = batch.keep * raw + (1 - batch.keep) * (mean + deviation * batch.noise[name])
        if router["score"] == "softmax":
            scores = probabilities = logits.softmax(-1)
        else:
            scores = logits.sigmoid()
            probabilities = scores / scores.sum(-1, keepdim=True)
        chosen, margin = self.choose(name, scores.detach())
        weights = scores.gather(1, chosen)
        if router["renormalise"]:
            epsilon = 0.0 if router["score"] == "softmax" else 1e-20
            weights = weights / (weights.sum(-1, keepdim=True) + epsilon)
        weights = weights * router["scale"]
        load = torch.bincount(chosen.flatten(), minlength=self.spec["experts"])
        balance = self.balance(chosen, probabilities, batch)
        z = (logits.logsumexp(-1) ** 2).mean()
        return Routing(chosen, weights, load, raw.detach(), balance, z, margin)

    def choose(self, name, scores):
        """The experts of each token [T, K]. The selection bias moves the choice, never the weights."""
        router = self.spec["router"]
        selection, gap = scores, math.inf
        if router["selection_bias"]:
            selection = selection + self.buffers[f"{name}.selection_bias"].to(scores.dtype)
        if router["groups_kept"] < router["groups"]:
            grouped = selection.unflatten(-1, (router["groups"], -1))
            best_two = grouped.sort(-1, descending=True)[0][..., :2].sum(-1)
            kept, gap = largest(best_two, router["groups_kept"])
            keep = torch.zeros_like(best_two, dtype=torch.bool).scatter(1, kept, True)
            selection = grouped.masked_fill(~keep[..., None], -math.inf).flatten(1)
        chosen, choice_gap = largest(selection, self.spec["choices"])
        return chosen, min(gap, choice_gap)

    def balance(self, chosen, probabilities, batch):
        """E * sum_e f_e P_e in each scope of `balance_sequences` sequences, then the mean over the scopes."""
        experts, scope = self.spec["experts"], self.spec["router"]["balance_sequences"] * batch.sequence
        times = F.one_hot(chosen, experts).sum(1).to(probabilities.dtype)
        f = times.reshape(-1, scope, experts).mean(1) / self.spec["choices"]
        p = probabilities.reshape(-1, scope, experts).mean(1)
        return experts * (f * p).sum(-1).mean()


def mtp_targets(batch):
    """The token after the next, where the next is known and the one after it lies in the same sequence;
    else -1."""
    following = F.pad(batch.targets.reshape(-1, batch.sequence)[:, 1:], (0, 1), value=-1).flatten()
    return torch.where(batch.targets != -1, following, -1)


def cross_entropy(logits, targets):
    """The mean over the targets that are there, and how many those are."""
    count = int((targets != -1).sum())
    return F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum") / max(count, 1), count


def optimizer(weights, spec, hyperparameters):
    """AdamW with decoupled decay on matrices only."""
    decays = {name: decay for name, (_, decay) in tensor_shapes(spec).items()}
    groups = [
        {
            "params": [w for name, w in weights.items() if decays[name]],
            "weight_decay": hyperparameters["decay"],
        },
        {"params": [w for name, w in weights.items() if not decays[name]], "weight_decay": 0.0},
    ]
    betas = (hyperparameters["beta1"], hyperparameters["beta2"])
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=hyperparameters["epsilon"], foreach=False)


def update(adamw, weights, buffers, loads, rate, hyperparameters):
    """One step in place: clip, AdamW, selection biases. Returns the norm before clipping."""
    norm = torch.nn.utils.clip_grad_norm_(
        list(weights.values()), hyperparameters["clip"], foreach=False
    ).item()
    for group in adamw.param_groups:
        group["lr"] = rate
    adamw.step()
    adamw.zero_grad()
    for name, load in loads.items():
        if f"{name}.selection_bias" in buffers:
            update_bias(buffers[f"{name}.selection_bias"], load, hyperparameters["bias_rate"])
    return norm


@torch.no_grad()
def update_bias(bias, load, rate):
    """Experts below the mean load rise, those above it sink, and the biases keep their mean."""
    load = load.to(bias.dtype)
    sign = torch.sign(load.mean() - load)
    bias += rate * (sign - sign.mean())
