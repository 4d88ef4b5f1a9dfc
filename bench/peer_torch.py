"""The peer: the benchmark's models in PyTorch, f32, written for speed, timed by whole training steps.

    python bench/peer_torch.py --model S --variant grouped_mm --steps 5 --json
    python bench/peer_torch.py --model S --variant all

Same weights and tokens as `lingot bench train`, by the same formulas (SplitMix64, Box-Muller), so the losses can be laid
side by side. A step is: batch to tensors, forward, backward, loss and gradient norm read, clipping, AdamW.

Variants of the experts: `loop` finds each expert's rows by a mask, as Hugging Face does; `sorted` sorts the rows once and
splits them; `grouped_mm` gives the sorted rows to torch._grouped_mm; `bmm` pads all experts to the busiest one.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time

import numpy
import torch
import torch.nn.functional as F

VARIANTS = ["loop", "sorted", "grouped_mm", "bmm"]
SEED, PURPOSE_INITIAL, PURPOSE_TOKENS = 1, 1, 3
KEEP, PULL, RATE = 0.5, 40.0, 3e-4
V1 = {"score": "softmax", "scale": 1.0, "groups": 1, "groups_kept": 1, "bias_rate": 0.0, "balance": 0.015, "z": 1e-4}
V2 = {"score": "sigmoid", "scale": 2.5, "groups": 8, "groups_kept": 4, "bias_rate": 1e-3, "balance": 0.0, "z": 3.5e-6}
S = {
    "vocabulary": 8192, "width": 256, "layers": 4, "heads": 4, "kv_heads": 2, "head_width": 64, "rotary": 64,
    "experts": 16, "choices": 2, "expert_width": 256, "qk_norm": False, "epsilon": 1e-6, "deviation": 0.02,
    "router": V1, "batch": 8, "sequence": 256,
}  # fmt: skip
M = S | {"vocabulary": 16384, "width": 512, "layers": 8, "heads": 8, "experts": 32, "choices": 4, "expert_width": 512,
         "batch": 4, "sequence": 512}  # fmt: skip
L = M | {"width": 2048, "layers": 1, "heads": 16, "kv_heads": 4, "head_width": 128, "experts": 256, "choices": 8,
         "qk_norm": True, "deviation": 0.006, "router": V2}  # fmt: skip
MODELS = {"S": S, "M": M, "L": L}


# The formulas of crates/model/src/random.rs.
GAMMA = numpy.uint64(0x9E3779B97F4A7C15)


def mix(word):
    word = (word ^ (word >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return word ^ (word >> numpy.uint64(31))


def uniforms(words, count, first=0):
    """Numbers `first ..` of the stream of those words, uniform in (0, 1]."""
    with numpy.errstate(over="ignore"):
        state = numpy.uint64(0x4C696E676F74)
        for word in words:
            state = mix(state ^ mix(numpy.uint64(word)))
        bits = mix(state + GAMMA * numpy.arange(first + 1, first + count + 1, dtype=numpy.uint64))
    return ((bits >> numpy.uint64(11)) + numpy.uint64(1)).astype(numpy.float64) / 2.0**53


def normals(words, out, deviation, chunk=1 << 20):
    """Fills the flat f32 tensor piece by piece, so that making weights is not what takes the most memory."""
    for first in range(0, out.numel(), chunk):
        count = min(chunk, out.numel() - first)
        even = count + count % 2
        u = uniforms(words, even, first).reshape(-1, 2)
        radius, angle = numpy.sqrt(-2.0 * numpy.log(u[:, 0])), 2.0 * numpy.pi * u[:, 1]
        values = numpy.stack([radius * numpy.cos(angle), radius * numpy.sin(angle)], axis=1).reshape(-1)
        out[first : first + count] = torch.from_numpy((values[:count] * deviation).astype(numpy.float32))


def tokens_of_step(spec, step):
    count, v = spec["batch"] * (spec["sequence"] + 1), spec["vocabulary"]
    u = uniforms([SEED, PURPOSE_TOKENS, step], count)
    ids = numpy.minimum((v * (u * u * u)).astype(numpy.int64), v - 1).reshape(spec["batch"], -1)
    return torch.from_numpy(ids)


def shapes(spec):
    """Name -> shape, in Lingot's order."""
    d, c, e, f = spec["width"], spec["head_width"], spec["experts"], spec["expert_width"]
    table = {"embedding": (spec["vocabulary"], d)}
    for layer in range(spec["layers"]):
        block = {"attention_norm": (d,), "query": (spec["heads"] * c, d)}
        block |= {"key": (spec["kv_heads"] * c, d), "value": (spec["kv_heads"] * c, d)}
        if spec["qk_norm"]:
            block |= {"query_norm": (c,), "key_norm": (c,)}
        block |= {"output": (d, spec["heads"] * c), "mlp_norm": (d,), "router": (e, d)}
        block |= {"experts_gate_up": (e, 2 * f, d), "experts_down": (e, d, f)}
        block |= {"shared_gate_up": (2 * f, d), "shared_down": (d, f)}
        table |= {f"{layer}.{name}": shape for name, shape in block.items()}
    return table | {"final_norm": (d,), "head": (spec["vocabulary"], d)}


class Peer:
    def __init__(self, spec, variant, compiled):
        self.spec, self.variant = spec, variant
        self.weights = {}
        for index, (name, shape) in enumerate(shapes(spec).items()):
            weight = torch.ones(shape)
            if len(shape) > 1:
                normals([SEED, PURPOSE_INITIAL, index], weight.view(-1), spec["deviation"])
            self.weights[name] = weight.requires_grad_()
        self.biases = [torch.zeros(spec["experts"]) for _ in range(spec["layers"])]
        half = spec["rotary"] // 2
        frequencies = 10_000.0 ** (-2.0 * torch.arange(half, dtype=torch.float64) / spec["rotary"])
        angles = torch.arange(spec["sequence"], dtype=torch.float64)[:, None] * frequencies
        self.cos, self.sin = angles.cos().float(), angles.sin().float()
        matrices = [w for w in self.weights.values() if w.dim() > 1]
        vectors = [w for w in self.weights.values() if w.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.forward = torch.compile(self.loss) if compiled else self.loss

    def step(self, ids, pull):
        """One training step; its loss."""
        tokens, targets = ids[:, :-1], ids[:, 1:].reshape(-1)
        loss, loads = self.forward(tokens, targets, pull)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0, foreach=True)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        if self.spec["router"]["bias_rate"] > 0:
            for bias, load in zip(self.biases, loads):
                sign = torch.sign(load.float().mean() - load)
                bias += self.spec["router"]["bias_rate"] * (sign - sign.mean())
        norm.item()
        return loss.item()

    def loss(self, tokens, targets, pull):
        spec, w = self.spec, self.weights
        x = F.embedding(tokens, w["embedding"])
        extra, loads = 0.0, []
        for layer in range(spec["layers"]):
            x = x + self.attention(layer, self.norm(x, f"{layer}.attention_norm"))
            h = self.norm(x, f"{layer}.mlp_norm").flatten(0, 1)
            chosen, weights, load, auxiliary = self.route(layer, h, pull)
            extra, loads = extra + auxiliary, [*loads, load]
            y = getattr(self, self.variant)(layer, h, chosen, weights, load)
            y = y + swiglu(h, w[f"{layer}.shared_gate_up"], w[f"{layer}.shared_down"])
            x = x + y.view_as(x)
        logits = F.linear(self.norm(x, "final_norm").flatten(0, 1), w["head"])
        return F.cross_entropy(logits, targets) + extra, loads

    def norm(self, x, name):
        return F.rms_norm(x, (x.shape[-1],), self.weights[name], self.spec["epsilon"])

    def attention(self, layer, h):
        spec, w = self.spec, self.weights
        parts = [F.linear(h, w[f"{layer}.{part}"]) for part in ("query", "key", "value")]
        query, key, value = [part.unflatten(-1, (-1, spec["head_width"])) for part in parts]
        if spec["qk_norm"]:
            query, key = self.norm(query, f"{layer}.query_norm"), self.norm(key, f"{layer}.key_norm")
        query, key, value = [x.transpose(1, 2) for x in (self.rotate(query), self.rotate(key), value)]
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return F.linear(out.transpose(1, 2).flatten(2), w[f"{layer}.output"])

    def rotate(self, x):
        rotary = self.spec["rotary"]
        first, second, rest = x[..., : rotary // 2], x[..., rotary // 2 : rotary], x[..., rotary:]
        cos, sin = self.cos[:, None], self.sin[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)

    def route(self, layer, h, pull):
        spec, rule = self.spec, self.spec["router"]
        logits = F.linear(h, self.weights[f"{layer}.router"])
        if pull is not None:
            logits = KEEP * logits + (1 - KEEP) * pull
        if rule["score"] == "softmax":
            scores = logits.softmax(-1)
            chosen = scores.topk(spec["choices"], sorted=False)[1]
        else:
            scores = logits.sigmoid()
            chosen = self.limited(scores.detach() + self.biases[layer])
        weights = scores.gather(1, chosen)
        weights = weights / weights.sum(-1, keepdim=True) * rule["scale"]
        load = torch.bincount(chosen.flatten(), minlength=spec["experts"])
        auxiliary = rule["z"] * (logits.logsumexp(-1) ** 2).mean()
        if rule["balance"] > 0:
            times = torch.zeros_like(scores).scatter(1, chosen, 1.0)
            f = times.view(spec["batch"], -1, spec["experts"]).mean(1) / spec["choices"]
            p = scores.view(spec["batch"], -1, spec["experts"]).mean(1)
            auxiliary = auxiliary + rule["balance"] * spec["experts"] * (f * p).sum(-1).mean()
        return chosen, weights, load, auxiliary

    def limited(self, selection):
        rule = self.spec["router"]
        grouped = selection.unflatten(-1, (rule["groups"], -1))
        kept = grouped.topk(2, sorted=False)[0].sum(-1).topk(rule["groups_kept"], sorted=False)[1]
        keep = torch.zeros(grouped.shape[:2], dtype=torch.bool).scatter(1, kept, True)
        return grouped.masked_fill(~keep[..., None], -torch.inf).flatten(1).topk(self.spec["choices"], sorted=False)[1]

    def experts(self, layer):
        return self.weights[f"{layer}.experts_gate_up"], self.weights[f"{layer}.experts_down"]

    def loop(self, layer, h, chosen, weights, load):
        # unbind and not gate_up[e], whose gradient would be as large as all experts, once per expert.
        out = torch.zeros_like(h)
        for e, (gate_up, down) in enumerate(zip(*[w.unbind(0) for w in self.experts(layer)])):
            rows, choice = torch.where(chosen == e)
            y = swiglu(h[rows], gate_up, down) * weights[rows, choice, None]
            out.index_add_(0, rows, y)
        return out

    def sort(self, h, chosen, weights):
        order = chosen.flatten().argsort(stable=True)
        tokens = order // chosen.shape[1]
        return tokens, h.index_select(0, tokens), weights.flatten().index_select(0, order)[:, None]

    def sorted(self, layer, h, chosen, weights, load):
        tokens, rows, weights = self.sort(h, chosen, weights)
        sizes = load.tolist()
        gate_up, down = [w.unbind(0) for w in self.experts(layer)]
        parts = [swiglu(x, gate_up[e], down[e]) for e, x in enumerate(rows.split(sizes)) if sizes[e] > 0]
        return torch.zeros_like(h).index_add_(0, tokens, torch.cat(parts) * weights)

    def grouped_mm(self, layer, h, chosen, weights, load):
        tokens, rows, weights = self.sort(h, chosen, weights)
        ends = load.cumsum(0).to(torch.int32)
        gate_up, down = self.experts(layer)
        gate, up = torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        y = torch._grouped_mm(F.silu(gate) * up * weights, down.transpose(1, 2), offs=ends)
        return torch.zeros_like(h).index_add_(0, tokens, y)

    def bmm(self, layer, h, chosen, weights, load):
        order = chosen.flatten().argsort(stable=True)
        expert = chosen.flatten()[order]
        place = torch.arange(len(order)) - (load.cumsum(0) - load)[expert]
        most = int(load.max())
        slots = expert * most + place
        tokens = order // chosen.shape[1]
        gate_up, down = self.experts(layer)
        padded = h.new_zeros(len(load) * most, h.shape[1]).index_copy(0, slots, h.index_select(0, tokens))
        gate, up = torch.bmm(padded.view(len(load), most, -1), gate_up.transpose(1, 2)).chunk(2, dim=-1)
        y = torch.bmm(F.silu(gate) * up, down.transpose(1, 2)).flatten(0, 1).index_select(0, slots)
        return torch.zeros_like(h).index_add_(0, tokens, y * weights.flatten().index_select(0, order)[:, None])


def swiglu(x, gate_up, down):
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def pulls(spec, routing):
    """What is mixed into the logits to force the choice."""
    if routing == "real":
        return None
    stride = spec["choices"] if routing == "balanced" else 0
    tokens = torch.arange(spec["batch"] * spec["sequence"])[:, None]
    chosen = (tokens * stride + torch.arange(spec["choices"])) % spec["experts"]
    return torch.zeros(len(tokens), spec["experts"]).scatter(1, chosen, PULL)


def status_bytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key + ":"))


def since_start_s():
    ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(open("/proc/uptime").read().split()[0]) - ticks


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def matmul_rate(spec, rounds=15):
    """GFLOP/s of the three products of one expert's first layer at an equal share of the tokens."""
    rows = -(-spec["batch"] * spec["sequence"] * spec["choices"] // spec["experts"])
    x, w = torch.randn(rows, spec["width"]), torch.randn(2 * spec["expert_width"], spec["width"])
    dy, outs = torch.randn(rows, len(w)), [torch.empty(0) for _ in range(3)]
    flops, rates = 6.0 * rows * spec["width"] * len(w), []
    times = int(4e9 / flops) + 1
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(times):
            torch.mm(x, w.T, out=outs[0]), torch.mm(dy, w, out=outs[1]), torch.mm(dy.T, x, out=outs[2])
        rates.append(flops * times / (time.perf_counter() - begin) / 1e9)
    return spread(rates)


def measure(options):
    spec = MODELS[options.model]
    torch.set_num_threads(options.threads)
    if options.keep_memory:  # glibc: keep freed memory, do not map large pieces anew
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30), libc.mallopt(-1, 2**31 - 1)
    imported = status_bytes("VmRSS")
    peer = Peer(spec, options.variant, options.compile)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    routings = ["real", "balanced"] + ["skewed"] * options.skewed
    pull = {routing: pulls(spec, routing) for routing in routings}
    losses, seconds, first = [], {routing: [] for routing in routings}, None
    for number in range(options.warm + options.steps):
        for routing in routings:
            ids = tokens_of_step(spec, len(losses))
            begin = time.perf_counter()
            losses.append(peer.step(ids, pull[routing]))
            took = time.perf_counter() - begin
            first = first or (took, since_start_s())
            if number >= options.warm:
                seconds[routing].append(took)
    peak = status_bytes("VmHWM")
    del peer
    tokens = spec["batch"] * spec["sequence"]
    speeds = {routing: spread([tokens / s for s in values]) for routing, values in seconds.items()}
    return {
        "model": options.model, "variant": options.variant + "+compile" * options.compile
        + "+keep_memory" * options.keep_memory, "torch": torch.__version__, "threads": options.threads,
        "routings": [{"routing": routing, "tokens_per_s": speed} for routing, speed in speeds.items()],
        "matmul_gflops_per_s": matmul_rate(spec), "peak_memory_bytes": peak, "imported_bytes": imported,
        "first_step_s": first[0], "start_to_first_step_s": first[1], "losses": losses,
    }  # fmt: skip


def measure_all(options):
    """Each variant in a process of its own, so that memory and first steps are its own."""
    for variant in VARIANTS:
        arguments = [f"--{name}" for name in ("compile", "skewed", "json", "keep-memory")
                     if getattr(options, name.replace("-", "_"))]  # fmt: skip
        arguments += ["--model", options.model, "--threads", options.threads, "--steps", options.steps]
        subprocess.run([sys.executable, __file__, "--variant", variant, *map(str, arguments)], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="grouped_mm")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--keep-memory", action="store_true", help="tell glibc to keep freed memory")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each routing")
    parser.add_argument("--warm", type=int, default=1, help="steps of each routing before them")
    parser.add_argument("--skewed", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.variant == "all":
        return measure_all(options)
    report = measure(options)
    if options.json:
        print(json.dumps(report))
        return None
    for line in report["routings"]:
        speed = line["tokens_per_s"]
        print(f"{report['variant']:<24} {line['routing']:<9} {speed['median']:8.0f} tokens/s "
              f"({speed['least']:.0f} to {speed['most']:.0f})  {report['peak_memory_bytes'] / 1e6:.0f} MB  "
              f"first step {report['first_step_s']:.3f} s", flush=True)  # fmt: skip
    return None


if __name__ == "__main__":
    main()
