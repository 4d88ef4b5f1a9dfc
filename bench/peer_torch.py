"""The peer: the benchmark's models in PyTorch, written for speed, timed by whole training steps.

    python bench/peer_torch.py --model S --variant grouped_mm --steps 5 --json
    python bench/peer_torch.py --model S --variant all
    python bench/peer_torch.py --device cuda --model G --precision bf16 --micros 4 --compile

Same weights and tokens as `lingot bench train`, by the same formulas (SplitMix64, Box-Muller), so the losses can be laid
side by side. A step is: batches to the device, forward, backward, clipping, AdamW, loss and gradient norm read. In bf16
the products and activations are bf16; master weights, gradients by weights, moments, routing and losses are f32.

Variants of the experts: `loop` finds each expert's rows by a mask, as Hugging Face does; `sorted` sorts the rows once and
splits them; `grouped_mm` gives the sorted rows to torch._grouped_mm; `bmm` pads all experts to the busiest one.
"""

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import time

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
G = M | {"vocabulary": 32768, "width": 1024, "heads": 16, "kv_heads": 4, "experts": 64, "choices": 6, "qk_norm": True,
         "router": V2 | {"groups": 1, "groups_kept": 1}, "batch": 16, "sequence": 1024}  # fmt: skip
Q = G | {"width": 2048, "layers": 4, "head_width": 128, "rotary": 128, "experts": 128, "choices": 8, "expert_width": 768,
         "batch": 8, "sequence": 2048}  # fmt: skip
T = S | {"vocabulary": 2048, "width": 128, "layers": 2, "head_width": 32, "rotary": 16, "expert_width": 96,
         "qk_norm": True, "router": V2 | {"groups": 1, "groups_kept": 1}, "batch": 4, "sequence": 64}  # fmt: skip
MODELS = {"T": T, "S": S, "M": M, "L": L, "G": G, "Q": Q}


# The formulas of crates/model/src/random.rs, in 64-bit whole numbers that wrap around.
GAMMA, MULTIPLIERS, ALL = 0x9E3779B97F4A7C15, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB), 2**64 - 1


def signed(word):
    return word - 2**64 if word >= 2**63 else word


def mix(word):
    """The same for a whole number of Python's and for a tensor of int64, whose shift drags the sign along."""
    for shift, multiplier in zip((30, 27), MULTIPLIERS):
        if isinstance(word, int):
            word = (word ^ (word >> shift)) * multiplier & ALL
        else:
            word = (word ^ (word >> shift & 2 ** (64 - shift) - 1)) * signed(multiplier)
    return word ^ (word >> 31 & 2**33 - 1)


def uniforms(words, count, first=0, device="cpu"):
    """Numbers `first ..` of the stream of those words, uniform in (0, 1], in f64."""
    state = 0x4C696E676F74
    for word in words:
        state = mix(state ^ mix(word))
    bits = mix(torch.arange(first + 1, first + count + 1, device=device) * signed(GAMMA) + signed(state))
    return ((bits >> 11 & 2**53 - 1) + 1).double() / 2.0**53


def normals(words, out, deviation):
    """Fills the flat f32 tensor piece by piece, so that making weights is not what takes the most memory."""
    chunk = 1 << 20 if out.device.type == "cpu" else 1 << 24
    for first in range(0, out.numel(), chunk):
        count = min(chunk, out.numel() - first)
        u = uniforms(words, count + count % 2, first, out.device).view(-1, 2)
        radius, angle = (-2.0 * u[:, 0].log()).sqrt(), 2.0 * math.pi * u[:, 1]
        values = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1).view(-1)
        out[first : first + count] = (values[:count] * deviation).float()


def tokens_of_micro(spec, number):
    count, v = spec["batch"] * (spec["sequence"] + 1), spec["vocabulary"]
    u = uniforms([SEED, PURPOSE_TOKENS, number], count)
    return (v * (u * u * u)).long().clamp_(max=v - 1).view(spec["batch"], -1)


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
    def __init__(self, options):
        self.spec, self.variant, self.device = MODELS[options.model], options.variant, torch.device(options.device)
        self.kind, spec = getattr(torch, {"f32": "float32", "bf16": "bfloat16"}[options.precision]), self.spec
        self.weights, self.has_trained, self.repeats_heads = {}, False, False
        for index, (name, shape) in enumerate(shapes(spec).items()):
            weight = self.place_of(name, shape)
            if len(shape) > 1:
                normals([SEED, PURPOSE_INITIAL, index], weight.view(-1), spec["deviation"])
        for weight in self.weights.values():
            weight.requires_grad_()
        self.biases = [torch.zeros(spec["experts"], device=self.device) for _ in range(spec["layers"])]
        half = spec["rotary"] // 2
        frequencies = 10_000.0 ** (-2.0 * torch.arange(half, dtype=torch.float64) / spec["rotary"])
        angles = torch.arange(spec["sequence"], dtype=torch.float64)[:, None] * frequencies
        self.cos, self.sin = [x.to(self.device, self.kind) for x in (angles.cos(), angles.sin())]
        matrices = [w for w in self.weights.values() if w.dim() > 1]
        vectors = [w for w in self.weights.values() if w.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.forward = torch.compile(self.loss, dynamic=False) if options.compile else self.loss

    def place_of(self, name, shape):
        """Where a parameter of Lingot's lies: query, key and value are rows of one matrix here."""
        layer, _, part = name.partition(".")
        if part not in ("query", "key", "value"):
            self.weights[name] = torch.ones(shape, device=self.device)
            return self.weights[name]
        spec, c = self.spec, self.spec["head_width"]
        counts = {"query": spec["heads"] * c, "key": spec["kv_heads"] * c, "value": spec["kv_heads"] * c}
        whole = sum(counts.values()), spec["width"]
        if part == "query":
            self.weights[f"{layer}.qkv"] = torch.empty(whole, device=self.device)
        return self.weights[f"{layer}.qkv"].split(list(counts.values()))[list(counts).index(part)]

    def weight(self, name):
        """A parameter in the kind that products are in."""
        return self.weights[name].to(self.kind)

    def step(self, micros, pull):
        """One training step; its loss."""
        total, loads = 0.0, 0
        for ids in micros:
            ids = ids.to(self.device, non_blocking=True)
            loss, load = self.forward(ids[:, :-1], ids[:, 1:].reshape(-1), pull)
            (loss / len(micros)).backward()
            total, loads = total + loss.detach() / len(micros), loads + load
        norm = torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0, foreach=True)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        if self.spec["router"]["bias_rate"] > 0:
            for bias, load in zip(self.biases, loads.float()):
                sign = torch.sign(load.mean() - load)
                bias += self.spec["router"]["bias_rate"] * (sign - sign.mean())
        norm.item()
        return total.item()

    def loss(self, tokens, targets, pull):
        """The loss of a micro-batch, and how often each expert of each layer was chosen."""
        spec = self.spec
        x = F.embedding(tokens, self.weights["embedding"]).to(self.kind)
        extra, loads = 0.0, []
        for layer in range(spec["layers"]):
            x = x + self.attention(layer, self.norm(x, f"{layer}.attention_norm"))
            h = self.norm(x, f"{layer}.mlp_norm").flatten(0, 1)
            chosen, weights, load, auxiliary = self.route(layer, h, pull)
            extra, loads = extra + auxiliary, [*loads, load]
            y = getattr(self, self.variant)(layer, h, chosen, weights.to(self.kind), load)
            y = y + swiglu(h, self.weight(f"{layer}.shared_gate_up"), self.weight(f"{layer}.shared_down"))
            x = x + y.view_as(x)
        logits = F.linear(self.norm(x, "final_norm").flatten(0, 1), self.weight("head"))
        return F.cross_entropy(logits.float(), targets) + extra, torch.stack(loads)

    def norm(self, x, name):
        return F.rms_norm(x, (x.shape[-1],), self.weight(name), self.spec["epsilon"])

    def attention(self, layer, h):
        spec = self.spec
        heads = F.linear(h, self.weight(f"{layer}.qkv")).unflatten(-1, (-1, spec["head_width"]))
        query, key, value = heads.split([spec["heads"], spec["kv_heads"], spec["kv_heads"]], dim=2)
        if spec["qk_norm"]:
            query, key = self.norm(query, f"{layer}.query_norm"), self.norm(key, f"{layer}.key_norm")
        query, key, value = [x.transpose(1, 2) for x in (self.rotate(query), self.rotate(key), value)]
        out = attend(query, key, value, self.repeats_heads)
        return F.linear(out.transpose(1, 2).flatten(2), self.weight(f"{layer}.output"))

    def rotate(self, x):
        rotary = self.spec["rotary"]
        first, second, rest = x[..., : rotary // 2], x[..., rotary // 2 : rotary], x[..., rotary:]
        cos, sin = self.cos[:, None], self.sin[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)

    def route(self, layer, h, pull):
        spec, rule = self.spec, self.spec["router"]
        logits = F.linear(h.float(), self.weights[f"{layer}.router"])
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
        # Neither bincount, which waits for the device, nor an addition at chosen places, which its threads queue for.
        load = (chosen.view(-1, 1) == torch.arange(spec["experts"], device=h.device)).sum(0)
        auxiliary = rule["z"] * (logits.logsumexp(-1) ** 2).mean()
        if rule["balance"] > 0:
            times = torch.zeros_like(scores).scatter(1, chosen, 1.0)
            f = times.view(spec["batch"], -1, spec["experts"]).mean(1) / spec["choices"]
            p = scores.view(spec["batch"], -1, spec["experts"]).mean(1)
            auxiliary = auxiliary + rule["balance"] * spec["experts"] * (f * p).sum(-1).mean()
        return chosen, weights, load, auxiliary

    def limited(self, selection):
        rule, choices = self.spec["router"], self.spec["choices"]
        if rule["groups"] == 1:
            return selection.topk(choices, sorted=False)[1]
        grouped = selection.unflatten(-1, (rule["groups"], -1))
        kept = grouped.topk(2, sorted=False)[0].sum(-1).topk(rule["groups_kept"], sorted=False)[1]
        keep = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=kept.device).scatter(1, kept, True)
        return grouped.masked_fill(~keep[..., None], -torch.inf).flatten(1).topk(choices, sorted=False)[1]

    def experts(self, layer):
        return self.weight(f"{layer}.experts_gate_up"), self.weight(f"{layer}.experts_down")

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
        place = torch.arange(len(order), device=h.device) - (load.cumsum(0) - load)[expert]
        most = int(load.max())
        slots = expert * most + place
        tokens = order // chosen.shape[1]
        gate_up, down = self.experts(layer)
        padded = h.new_zeros(len(load) * most, h.shape[1]).index_copy(0, slots, h.index_select(0, tokens))
        gate, up = torch.bmm(padded.view(len(load), most, -1), gate_up.transpose(1, 2)).chunk(2, dim=-1)
        y = torch.bmm(F.silu(gate) * up, down.transpose(1, 2)).flatten(0, 1).index_select(0, slots)
        return torch.zeros_like(h).index_add_(0, tokens, y * weights.flatten().index_select(0, order)[:, None])


def attend(query, key, value, repeats_heads):
    """Causal attention; some kernels take no grouped heads and need each key and value once per query's head."""
    if repeats_heads:
        key, value = [x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value)]
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=not repeats_heads)


def swiglu(x, gate_up, down):
    gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
    return F.linear(F.silu(gate) * up, down)


def pulls(spec, routing, device):
    """What is mixed into the logits to force the choice."""
    if routing == "real":
        return None
    stride = spec["choices"] if routing == "balanced" else 0
    tokens = torch.arange(spec["batch"] * spec["sequence"])[:, None]
    chosen = (tokens * stride + torch.arange(spec["choices"])) % spec["experts"]
    return torch.zeros(len(tokens), spec["experts"]).scatter(1, chosen, PULL).to(device)


ATTENTION = ["flash", "cudnn", "mem_efficient", "math"]


def allow_attention(names):
    for name in ATTENTION:
        getattr(torch.backends.cuda, f"enable_{name}_sdp")(name in names)


def choose_attention(spec, kind):
    """Allows the kernel of attention that takes this model's the least time, forward and backward; its name, and whether
    heads are repeated for it."""

    def times(name, repeats_heads):
        allow_attention([name])
        rows = (spec["batch"], -1, spec["sequence"], spec["head_width"])
        width = spec["sequence"] * spec["head_width"] * spec["batch"]
        q, k, v = [torch.randn(width * spec[heads], device="cuda", dtype=kind).view(rows).requires_grad_()
                   for heads in ("heads", "kv_heads", "kv_heads")]  # fmt: skip
        for number in range(8):
            if number == 3:  # those before it warm up
                torch.cuda.synchronize()
                begin = time.perf_counter()
            out = attend(q, k, v, repeats_heads)
            out.backward(torch.ones_like(out))
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    found = {}
    for form in [(name, repeats) for name in ATTENTION[:3] for repeats in (False, True)]:
        try:
            found[form] = times(*form)
        except RuntimeError:
            continue  # this kernel takes no such heads or numbers
    best = min(found, key=found.get, default=("math", False))
    allow_attention([best[0]])
    return best


def status_bytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key + ":"))


def since_start_s():
    ticks = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
    return float(open("/proc/uptime").read().split()[0]) - ticks


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def finish(device):
    if device.type != "cpu":
        torch.accelerator.synchronize()


def matmul_rate(spec, device, kind, rounds=15):
    """GFLOP/s of the three products of one expert's first layer at an equal share of the tokens."""
    rows = -(-spec["batch"] * spec["sequence"] * spec["choices"] // spec["experts"])
    x, w, dy = [torch.randn(*shape).to(device, kind) for shape in
                [(rows, spec["width"]), (2 * spec["expert_width"], spec["width"]), (rows, 2 * spec["expert_width"])]]  # fmt: skip
    outs = [torch.empty(0, device=device, dtype=kind) for _ in range(3)]
    flops, rates = 6.0 * rows * spec["width"] * len(w), []
    times = int((4e9 if device.type == "cpu" else 4e12) / flops) + 1
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(times):
            torch.mm(x, w.T, out=outs[0]), torch.mm(dy, w, out=outs[1]), torch.mm(dy.T, x, out=outs[2])
        finish(device)
        rates.append(flops * times / (time.perf_counter() - begin) / 1e9)
    return spread(rates)


def measure(options):
    """The report of each number of micro-batches."""
    spec, device = MODELS[options.model], torch.device(options.device)
    torch.set_num_threads(options.threads)
    if options.keep_memory:  # glibc: keep freed memory, do not map large pieces anew
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30), libc.mallopt(-1, 2**31 - 1)
    imported = status_bytes("VmRSS")
    peer = Peer(options)
    attention = "default"
    if device.type == "cuda":
        attention, peer.repeats_heads = choose_attention(spec, peer.kind)
        attention += ", heads repeated" * peer.repeats_heads
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    same = {
        "model": options.model, "precision": options.precision, "device": options.device,
        "variant": options.variant + "+compile" * options.compile + "+keep_memory" * options.keep_memory,
        "attention": attention, "torch": torch.__version__, "threads": options.threads,
        "imported_bytes": imported, "weights_made_s": since_start_s(),
    }  # fmt: skip
    reports = [same | measure_steps(options, peer, int(micros)) for micros in options.micros.split(",")]
    kind = peer.kind
    del peer
    rate = matmul_rate(spec, device, kind)
    return [report | {"matmul_gflops_per_s": rate} for report in reports]


def measure_steps(options, peer, count):
    """Steps of `count` micro-batches, the routings in turns."""
    spec, device = peer.spec, peer.device
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats()
    routings = options.routings.split(",") + ["skewed"] * options.skewed
    pull = {routing: pulls(spec, routing, device) for routing in routings}
    losses, seconds, first, has_fresh_weights = [], {routing: [] for routing in routings}, None, not peer.has_trained
    peer.has_trained = True
    for number in range(options.warm + options.steps):
        for routing in routings:
            drawn = range(len(losses) * count, (len(losses) + 1) * count)
            micros = [tokens_of_micro(spec, index) for index in drawn]
            begin = time.perf_counter()
            losses.append(peer.step(micros, pull[routing]))
            took = time.perf_counter() - begin
            first = first or (took, since_start_s())
            if number >= options.warm:
                seconds[routing].append(took)
    tokens = spec["batch"] * spec["sequence"] * count
    return {
        "micros": count, "has_fresh_weights": has_fresh_weights,
        "routings": [
            {"routing": routing, "step_s": spread(values), "tokens_per_s": spread([tokens / s for s in values])}
            for routing, values in seconds.items()
        ],
        "peak_memory_bytes": status_bytes("VmHWM"),
        "peak_device_bytes": torch.accelerator.max_memory_allocated() if device.type != "cpu" else None,
        "first_step_s": first[0], "start_to_first_step_s": first[1], "losses": losses,
    }  # fmt: skip


def measure_all(options):
    """Each variant in a process of its own, so that memory and first steps are its own."""
    for variant in VARIANTS:
        arguments = [f"--{name}" for name in ("compile", "skewed", "json", "keep-memory")
                     if getattr(options, name.replace("-", "_"))]  # fmt: skip
        arguments += ["--model", options.model, "--threads", options.threads, "--steps", options.steps]
        arguments += ["--device", options.device, "--precision", options.precision, "--micros", options.micros]
        arguments += ["--routings", options.routings, "--warm", options.warm]
        subprocess.run([sys.executable, __file__, "--variant", variant, *map(str, arguments)], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="S")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or another device of this PyTorch")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--micros", default="1", help="micro-batches of a step; 1,4 measures both, one line of JSON each")
    parser.add_argument("--variant", choices=[*VARIANTS, "all"], default="grouped_mm")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--keep-memory", action="store_true", help="tell glibc to keep freed memory")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each routing")
    parser.add_argument("--warm", type=int, default=1, help="steps of each routing before them")
    parser.add_argument("--routings", default="real,balanced", help="in turns; --compile compiles each anew")
    parser.add_argument("--skewed", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.variant == "all":
        return measure_all(options)
    for report in measure(options):
        print(json.dumps(report) if options.json else text(report), flush=True)
    return None


def text(report):
    lines = []
    for line in report["routings"]:
        speed, peak = line["tokens_per_s"], report["peak_device_bytes"] or report["peak_memory_bytes"]
        lines.append(f"{report['variant']:<24} {line['routing']:<9} {speed['median']:8.0f} tokens/s "
                     f"({speed['least']:.0f} to {speed['most']:.0f})  {peak / 1e6:.0f} MB  "
                     f"first step {report['first_step_s']:.3f} s")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
