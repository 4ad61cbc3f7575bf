#!/usr/bin/env python3
"""Makes the golden cases in tests/golden/cases: tiny models, and what PyTorch in float64 says about training and evaluating them.

    pip install torch
    python3 tests/golden/make_cases.py tests/golden/cases

Nothing here shares code with the worker: the model is written out in plain tensor operations, attention takes one
boolean mask a head, gradients are autograd's, the optimizer is torch.optim.AdamW. The results are committed; the
tests only read them. Two runs on one machine give the same bytes.
"""
import json
import math
import struct
import sys
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
PREFIX = "base_model.model."
LINEARS = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
           "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
TOLERANCES = {"loss": 1e-5, "grad_norm": 1e-5, "eval_logits": 5e-5, "logits": 5e-5, "grad": 1e-4, "final": 1e-4,
              "learning_rate": 5e-6, "rope": 5e-6}

CASES = {
    "s2-packed-gqa-tied": {
        "about": "S2 over packed and padded rows, 6 query heads on 3 key-value heads, tied head, all seven linears with "
                 "a rank of their own for one, micro-batches of unequal size, weight decay, clip, warm-up.",
        "model": {"hidden_size": 20, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 8,
                  "intermediate_size": 28, "num_hidden_layers": 2, "vocab_size": 37, "tie_word_embeddings": True,
                  "max_position_embeddings": 20, "rms_norm_eps": 1e-5},
        "lengths": [40, 33, 40], "documents": [[9, 1, 22, 8], [40], [25, 15]],
        "job": {
            "context": {"length": 40, "rope": {"type": "linear", "factor": 2}, "attention": {"type": "s2", "group": 12}},
            "adapter": {"rank": 3, "alpha": 6, "targets": ["q", "k", "v", "o", "gate", "up", "down"],
                        "embeddings": True, "norms": True, "rank_pattern": {"layers.1.mlp.up_proj": 5}},
            "optim": {"lr": 0.01, "schedule": "constant", "warmup_steps": 2, "betas": [0.9, 0.95], "eps": 1e-8,
                      "weight_decay": 0.1, "clip": 1.0, "steps": 4, "batch_sequences": 3},
            "micro_batches": [[0, 1], [2]],
        },
    },
    "full-dense-yarn": {
        "about": "Every parameter trains, dense attention, YaRN on a base without scaling, cosine rate, no clip.",
        "model": {"hidden_size": 16, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
                  "intermediate_size": 20, "num_hidden_layers": 1, "vocab_size": 29, "tie_word_embeddings": False,
                  "max_position_embeddings": 24, "rms_norm_eps": 1e-3},
        "lengths": [48, 48], "documents": None,
        "job": {
            "context": {"length": 48, "rope": {"type": "yarn", "factor": 2}, "attention": {"type": "dense"}},
            "adapter": None,
            "optim": {"lr": 0.003, "schedule": "cosine", "warmup_steps": 1, "betas": [0.8, 0.9], "eps": 1e-8,
                      "weight_decay": 0.05, "clip": 0, "steps": 3, "batch_sequences": 2},
            "micro_batches": [[0], [1]],
        },
    },
    "lora-plus-ntk-linear": {
        "about": "B of each LoRA factor at 8 times the rate of its A, alpha and rank of their own for single modules, rank-stabilised "
                 "scale, NTK positions, linear rate, neither embeddings nor norms.",
        "model": {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                  "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": 23, "tie_word_embeddings": False,
                  "max_position_embeddings": 12, "rms_norm_eps": 1e-5},
        "lengths": [36, 36], "documents": None,
        "job": {
            "context": {"length": 36, "rope": {"type": "ntk", "factor": 3}, "attention": {"type": "s2", "group": 10}},
            "adapter": {"rank": 2, "alpha": 5, "targets": ["q", "v", "down"], "embeddings": False, "norms": False,
                        "use_rslora": True, "rank_pattern": {"layers.0.mlp.down_proj": 4},
                        "alpha_pattern": {"v_proj": 2, "layers.1.self_attn.v_proj": 9}},
            "optim": {"lr": 0.004, "schedule": "linear", "warmup_steps": 1, "betas": [0.9, 0.999], "eps": 1e-8,
                      "weight_decay": 0.02, "clip": 0.5, "steps": 5, "batch_sequences": 2, "lora_plus_ratio": 8},
            "micro_batches": [[0, 1]],
        },
    },
    "dropout": {
        "about": "A quarter of the inputs of every LoRA factor is dropped, by the draws of kernels/dropout.h written out once more.",
        "model": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
                  "intermediate_size": 19, "num_hidden_layers": 2, "vocab_size": 21, "tie_word_embeddings": True,
                  "max_position_embeddings": 24, "rms_norm_eps": 1e-5},
        "lengths": [24, 24, 24], "documents": None,
        "job": {
            "context": {"length": 24, "rope": {"type": "linear", "factor": 1}, "attention": {"type": "s2", "group": 8}},
            "adapter": {"rank": 2, "alpha": 4, "targets": ["q", "k", "v", "o", "gate", "up", "down"], "embeddings": True,
                        "norms": True, "dropout": 0.25},
            "optim": {"lr": 0.01, "schedule": "constant", "warmup_steps": 0, "betas": [0.9, 0.95], "eps": 1e-8,
                      "weight_decay": 0, "clip": 1.0, "steps": 3, "batch_sequences": 3, "seed": 1234567},
            "micro_batches": [[2], [0, 1]],
        },
    },
    "dense-dynamic": {
        "about": "Dynamic positions beyond the base's length, a norm's and an embedding's gradient, one layer.",
        "model": {"hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6,
                  "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 19, "tie_word_embeddings": False,
                  "max_position_embeddings": 16, "rms_norm_eps": 1e-5},
        "lengths": [40, 31], "documents": None,
        "job": {
            "context": {"length": 40, "rope": {"type": "dynamic", "factor": 2}, "attention": {"type": "dense"}},
            "adapter": {"rank": 2, "alpha": 4, "targets": ["q", "k", "v", "o"], "embeddings": True, "norms": True},
            "optim": {"lr": 0.01, "schedule": "constant", "warmup_steps": 0, "betas": [0.9, 0.95], "eps": 1e-8,
                      "weight_decay": 0, "clip": 1.0, "steps": 2, "batch_sequences": 2},
            "micro_batches": [[0], [1]],
        },
    },
}

# Perplexities of a byte-level model over three texts, by every mode of windows; what is expected stands in case.json.
EVALUATION = {
    "about": "Perplexity by length and position in every mode of windows, and of several scalings of positions.",
    "model": {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 24,
              "num_hidden_layers": 2, "vocab_size": 256, "tie_word_embeddings": True, "max_position_embeddings": 16,
              "rms_norm_eps": 1e-5},
    "context": 32, "bands": 4, "rope": {"type": "linear", "factor": 2},
    "texts": {"a.txt": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of "
                       "foolishness, it was the epoch of belief.", "b.txt": "Call me Ishmael.",
              "c.txt": "All happy families are alike; each unhappy family is unhappy in its own way. Everything was in "
                       "confusion in the house of the Oblonskys, and the wife had found out."},
    "runs": {
        "prefixes": {"mode": "prefixes", "lengths": [8, 32, 20]},
        "prefixes-joined": {"mode": "prefixes", "lengths": [32, 2], "join": True},
        "stride": {"mode": "stride", "stride": 5, "lengths": [12, 32], "join": True},
        "stride-apart": {"mode": "stride", "stride": 7, "lengths": [32, 9, 14]},
        "stride-some": {"mode": "stride", "stride": 3, "lengths": [32, 11], "windows": 7},
        "compatible": {"mode": "compatible", "stride": 5, "lengths": [32, 12], "join": True, "batch_windows": 4},
        "compatible-some": {"mode": "compatible", "stride": 4, "lengths": [30, 12], "join": True, "batch_windows": 3, "windows": 10},
        "sliding": {"mode": "sliding", "stride": 5, "lengths": [32, 12]},
        "sliding-joined": {"mode": "sliding", "stride": 11, "lengths": [12, 32], "join": True},
        "ropes": {"mode": "prefixes", "lengths": [16, 32],
                  "ropes": ["shipped", {"type": "linear", "factor": 2}, {"type": "yarn", "factor": 4},
                            {"type": "ntk", "factor": 2}, {"type": "dynamic", "factor": 2}]},
    },
}


def save(path, tensors, metadata=None):
    """Writes a safetensors file: F32 for floating tensors, I64 for the others."""
    header, parts, at = ({"__metadata__": metadata} if metadata else {}), [], 0
    for name, tensor in tensors.items():
        floating = tensor.is_floating_point()
        data = tensor.detach().to(torch.float32 if floating else torch.int64).contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32" if floating else "I64", "shape": list(tensor.shape),
                        "data_offsets": [at, at + len(data)]}
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def base_tensors(m, generator):
    """The base model, rounded to what its file holds."""
    C, D, F, V = m["hidden_size"], m["head_dim"], m["intermediate_size"], m["vocab_size"]
    H, KV = m["num_attention_heads"], m["num_key_value_heads"]
    shapes = {"q": (H * D, C), "k": (KV * D, C), "v": (KV * D, C), "o": (C, H * D), "gate": (F, C), "up": (F, C), "down": (C, F)}

    def noise(*shape, scale):
        return (torch.randn(*shape, generator=generator) * scale).float().double()

    tensors = {"model.embed_tokens.weight": noise(V, C, scale=0.8)}
    for layer in range(m["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = 1 + noise(C, scale=0.1)
        for target, path in LINEARS.items():
            tensors[f"{at}{path}.weight"] = noise(*shapes[target], scale=1.2 / math.sqrt(shapes[target][1]))
    tensors["model.norm.weight"] = 1 + noise(C, scale=0.1)
    if not m["tie_word_embeddings"]:
        tensors["lm_head.weight"] = noise(V, C, scale=0.6)
    return {name: tensor.float().double() for name, tensor in tensors.items()}


def of_module(adapter, what, module):
    """rank or alpha: that of the longest pattern which ends the module's path, else the adapter's own."""
    fits = [end for end in adapter.get(f"{what}_pattern", {}) if module == end or module.endswith("." + end)]
    return adapter[f"{what}_pattern"][max(fits, key=len)] if fits else adapter[what]


def scale_of(adapter, module):
    rank = of_module(adapter, "rank", module)
    return of_module(adapter, "alpha", module) / (math.sqrt(rank) if adapter.get("use_rslora") else rank)


def adapter_tensors(adapter, base, generator):
    """Where the run starts from: both factors non-zero, embeddings and norms that differ from the base's."""
    tensors = {}
    for name, tensor in base.items():
        module = name.removesuffix(".weight")
        target = next((t for t, path in LINEARS.items() if module.endswith(path)), None)
        if target in adapter["targets"]:
            rank, (rows, columns) = of_module(adapter, "rank", module), tensor.shape
            tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator) * 0.2
        elif (name == "model.embed_tokens.weight" and adapter["embeddings"]) or ("norm" in name and adapter["norms"]):
            tensors[PREFIX + name] = tensor + torch.randn(tensor.shape, generator=generator) * 0.05
    return {name: tensor.float().double() for name, tensor in tensors.items()}


def angles(m, rope, length):
    """-> inv_freq, scaling of cos and sin."""
    D, theta, factor = m["head_dim"], 10000.0, rope["factor"]
    if rope["type"] == "dynamic":
        factor = factor * length / m["max_position_embeddings"] - (factor - 1)
    if rope["type"] in ("ntk", "dynamic"):
        return (theta * factor ** (D / (D - 2))) ** (-torch.arange(0, D, 2) / D), 1.0
    inv = theta ** (-torch.arange(0, D, 2) / D)
    if rope["type"] == "linear":
        return inv / rope["factor"], 1.0
    turns = [D * math.log(m["max_position_embeddings"] / (beta * 2 * math.pi)) / (2 * math.log(theta)) for beta in (32, 1)]
    low, high = max(math.floor(turns[0]), 0), min(math.ceil(turns[1]), D - 1)
    ramp = ((torch.arange(D // 2) - low) / ((high - low) or 0.001)).clamp(0, 1)
    return inv * (1 - ramp) + inv / rope["factor"] * ramp, 0.1 * math.log(rope["factor"]) + 1


def cuts_of(length, group, shifted):
    if not group:
        return [0]
    return [0, *range(group // 2, length, group)] if shifted else [*range(0, length, group)]


def mask(m, length, documents, group):
    """[H, T, T]: may row i read column j? Pair by pair, from lists of cuts."""
    H = m["num_attention_heads"]
    allowed = torch.zeros(H, length, length, dtype=torch.bool)
    for h in range(H):
        cuts = cuts_of(length, group, h >= H // 2)
        segment = [sum(cut <= t for cut in cuts) for t in range(length)]
        for i in range(length):
            for j in range(i + 1):
                allowed[h, i, j] = segment[i] == segment[j] and documents[i] == documents[j]
    return allowed


M64 = (1 << 64) - 1
GOLDEN_RATIO = 0x9e3779b97f4a7c15


def finalise(x):
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 & M64
    x = (x ^ x >> 27) * 0x94d049bb133111eb & M64
    return x ^ x >> 31


def mixed(x):
    return finalise(x + GOLDEN_RATIO & M64)


def kept(seed, step, row, place, tokens, columns, rate):
    """[tokens, columns]: 0 where dropped, 1 / (1 - rate) elsewhere."""
    key = mixed(mixed(mixed(mixed(seed ^ 0x64726f706f757400)) ^ step) ^ row)
    rows = []
    for token in range(tokens):
        start = finalise(mixed(key ^ token) ^ mixed(place))
        draws = [finalise(start + (pair + 1) * GOLDEN_RATIO & M64) for pair in range((columns + 1) // 2)]
        rows.append([(draws[c // 2] >> c % 2 * 32 & 0xffffffff) >= int(rate * 2 ** 32) for c in range(columns)])
    return torch.tensor(rows, dtype=torch.float64) / (1 - rate)


class Model:
    """Llama in plain tensor operations; weights by name, LoRA added where the adapter has factors."""

    def __init__(self, m, job, base, trained):
        self.m, self.job, self.base, self.trained = m, job, base, trained
        self.dropping = None # (step, row) while training
        # Where each A stands in the list of all parameters: embedding, layers, each linear with its A and B.
        names = [name for layer in range(m["num_hidden_layers"]) for target, path in LINEARS.items()
                 for name in [f"norm {layer}"] * (target in ("q", "gate")) + [f"model.layers.{layer}.{path}"]]
        self.places, at = {}, 1
        for name in names:
            adapted = f"{PREFIX}{name}.lora_A.weight" in trained
            if adapted:
                self.places[name] = at + 1
            at += 3 if adapted else 1
        self.inv, self.scaling = angles(m, job["context"]["rope"], job["context"]["length"])

    def weight(self, name):
        prefix = "" if self.job["adapter"] is None else PREFIX
        return self.trained.get(prefix + name, self.base.get(name))

    def linear(self, x, module):
        y = x @ self.weight(module + ".weight").T
        A = self.trained.get(f"{PREFIX}{module}.lora_A.weight")
        if A is None:
            return y
        adapter, B = self.job["adapter"], self.trained[f"{PREFIX}{module}.lora_B.weight"]
        if self.dropping and adapter.get("dropout"):
            x = x * kept(self.job["optim"]["seed"], *self.dropping, self.places[module], *x.shape, adapter["dropout"])
        return y + scale_of(adapter, module) * (x @ A.T) @ B.T

    def norm(self, x, name):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.m["rms_norm_eps"]) * self.weight(name + ".weight")

    def rotate(self, x):
        angle = torch.arange(x.shape[0])[:, None] * self.inv
        cos, sin = (f(angle)[:, None, :] * self.scaling for f in (torch.cos, torch.sin))
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)

    def attention(self, x, at, allowed):
        T, H, KV, D = x.shape[0], *(self.m[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        q = self.rotate(self.linear(x, at + "q_proj").view(T, H, D))
        k = self.rotate(self.linear(x, at + "k_proj").view(T, KV, D))
        v = self.linear(x, at + "v_proj").view(T, KV, D)
        heads = []
        for h in range(H):
            scores = q[:, h] @ k[:, h * KV // H].T / math.sqrt(D)
            heads.append(torch.softmax(scores.masked_fill(~allowed[h], -math.inf), dim=-1) @ v[:, h * KV // H])
        return self.linear(torch.cat(heads, dim=-1), at + "o_proj")

    def logits(self, ids, allowed):
        x = self.weight("model.embed_tokens.weight")[ids]
        for layer in range(self.m["num_hidden_layers"]):
            at = f"model.layers.{layer}."
            x = x + self.attention(self.norm(x, at + "input_layernorm"), at + "self_attn.", allowed)
            y = self.norm(x, at + "post_attention_layernorm")
            gate = torch.nn.functional.silu(self.linear(y, at + "mlp.gate_proj"))
            x = x + self.linear(gate * self.linear(y, at + "mlp.up_proj"), at + "mlp.down_proj")
        head = "model.embed_tokens.weight" if self.m["tie_word_embeddings"] else "lm_head.weight"
        return self.norm(x, "model.norm") @ self.weight(head).T


def make_batch(case, generator):
    job, steps = case["job"], case["job"]["optim"]["steps"]
    rows, T, V = job["optim"]["batch_sequences"], job["context"]["length"], case["model"]["vocab_size"]
    ids = torch.randint(1, V, (steps, rows, T), generator=generator)
    labels = ids.clone()
    documents = torch.zeros(steps, rows, T, dtype=torch.int64)
    lengths = torch.tensor([case["lengths"]] * steps)
    for row in range(rows):
        at = 0
        for number, n in enumerate((case["documents"] or [[T]] * rows)[row]):
            labels[:, row, at] = -100 # no document predicts the next
            documents[:, row, at:at + n] = number
            at += n
        ids[:, row, case["lengths"][row]:] = 0
        labels[:, row, case["lengths"][row]:] = -100
    batch = {"input_ids": ids, "labels": labels}
    if any(n != T for n in case["lengths"]):
        batch["lengths"] = lengths
    if case["documents"]:
        batch["documents"] = documents
    return batch, documents


def rate(optim, step):
    warmup, steps = optim["warmup_steps"], optim["steps"]
    if step < warmup:
        return optim["lr"] * step / warmup
    if optim["schedule"] == "constant":
        return optim["lr"]
    done = (step - warmup) / (steps - warmup)
    return optim["lr"] * (1 - done if optim["schedule"] == "linear" else (1 + math.cos(math.pi * done)) / 2)


def step_logits(model, batch, documents, step, group, training=True):
    rows, T = batch["input_ids"].shape[1:]
    logits = []
    for row in range(rows):
        model.dropping = (step, row) if training else None
        logits.append(model.logits(batch["input_ids"][step, row], mask(model.m, T, documents[step, row].tolist(), group)))
    return torch.stack(logits)


def blank_padding(logits, case):
    logits = logits.detach().clone()
    for row, n in enumerate(case["lengths"]):
        logits[row, n:] = math.nan
    return logits


def kind(name):
    return next((word for word in ("norm", "lora_B") if word in name), "other")


def train(case, model, batch, documents):
    """-> the expected tensors."""
    job, trained = case["job"], model.trained
    optim, attention = job["optim"], job["context"]["attention"]
    group = attention.get("group", 0)
    for tensor in trained.values():
        tensor.requires_grad_(True)
    groups = [{"params": [t for name, t in trained.items() if kind(name) == each], "times": times,
               "weight_decay": 0 if each == "norm" else optim["weight_decay"]}
              for each, times in (("norm", 1), ("lora_B", optim.get("lora_plus_ratio", 1)), ("other", 1))]
    adamw = torch.optim.AdamW(groups, lr=optim["lr"], betas=optim["betas"], eps=optim["eps"], foreach=False)
    expected, losses, norms, rates = {}, [], [], []
    for step in range(optim["steps"]):
        logits = step_logits(model, batch, documents, step, group)
        if step == 0:
            expected["logits"] = blank_padding(logits, case)
            if not case["documents"]:
                with torch.no_grad():
                    expected["eval_logits"] = blank_padding(step_logits(model, batch, documents, 0, 0, training=False), case)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][step, :, 1:].flatten())
        adamw.zero_grad()
        loss.backward()
        if step == 0:
            grads = {f"grad.{name}": t.grad.clone() for name, t in trained.items()}
        norm = torch.nn.utils.clip_grad_norm_(trained.values(), optim["clip"] or math.inf)
        losses.append(loss.item())
        norms.append(norm.item())
        rates.append(rate(optim, step))
        for part in adamw.param_groups:
            part["lr"] = rates[-1] * part["times"]
        adamw.step()
    expected |= {"loss": torch.tensor(losses), "grad_norm": torch.tensor(norms), "learning_rate": torch.tensor(rates)}
    expected |= grads | {f"final.{name}": t for name, t in trained.items()}
    return expected | {"rope.inv_freq": model.inv, "rope.attention_scaling": torch.tensor([model.scaling])}


def write_adapter(folder, adapter, trained, tied):
    folder.mkdir(exist_ok=True)
    modules = (["embed_tokens"] + ["model.embed_tokens"] * tied) * adapter["embeddings"]
    modules += ["input_layernorm", "post_attention_layernorm", "norm"] * adapter["norms"]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": adapter["rank"], "lora_alpha": adapter["alpha"],
              "lora_dropout": adapter.get("dropout", 0.0), "bias": "none", "target_modules": [LINEARS[t].split(".")[1] for t in adapter["targets"]],
              "modules_to_save": sorted(modules) or None, "rank_pattern": adapter.get("rank_pattern", {}), "alpha_pattern": adapter.get("alpha_pattern", {}),
              "use_rslora": adapter.get("use_rslora", False), "use_dora": False, "fan_in_fan_out": False, "inference_mode": True,
              "ensure_weight_tying": bool(tied and adapter["embeddings"])}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = dict(trained)
    if tied and adapter["embeddings"]:
        tensors[PREFIX + "lm_head.weight"] = trained[PREFIX + "model.embed_tokens.weight"]
    save(folder / "adapter_model.safetensors", tensors, {"format": "pt"})


def make(folder, name, case):
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    m, job = case["model"], case["job"]
    (folder / "model").mkdir(parents=True, exist_ok=True)
    base = base_tensors(m, generator)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
              "mlp_bias": False, "rope_theta": 10000.0, "torch_dtype": "float32", "bos_token_id": 1, "eos_token_id": 2, **m}
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save(folder / "model" / "model.safetensors", base, {"format": "pt"})
    model = {"base": "model"}
    if job["adapter"] is None:
        trained = dict(base)
    else:
        trained = adapter_tensors(job["adapter"], base, generator)
        write_adapter(folder / "adapter", job["adapter"], trained, m["tie_word_embeddings"])
        model["adapter"] = "adapter"
    batch, documents = make_batch(case, generator)
    save(folder / "batch.safetensors", batch)
    expected = train(case, Model(m, job, base, {n: t.clone() for n, t in trained.items()}), batch, documents)
    save(folder / "expected.safetensors", expected)
    checks = list(dict.fromkeys(key.split(".")[0] for key in expected))
    spec = {"name": name, "about": case["about"], "kind": "train", "precision": "fp32", "model": model, **job,
            "data": {"train": ["batch.safetensors"], "format": "tokens", "pack": bool(case["documents"])},
            "loss": "token_mean", "checks": checks,
            "tolerances": {check: {"abs": 1e-7, "rel": TOLERANCES[check]} for check in checks}}
    (folder / "case.json").write_text(json.dumps(spec, indent=2) + "\n")


class Evaluator:
    """Losses of windows, each by a pass of its own."""

    def __init__(self, m, base, rope, context):
        rope = {"type": "linear", "factor": 1} if rope == "shipped" else rope
        self.model = Model(m, {"context": {"length": context, "rope": rope}, "adapter": None}, base, {})
        self.masks, self.losses = {}, {}

    def nll(self, window):
        """-> losses of the len(window) - 1 predictions."""
        n = len(window)
        if window not in self.losses:
            self.masks.setdefault(n, mask(self.model.m, n, [0] * n, 0))
            ids = torch.tensor(list(window))
            with torch.no_grad():
                logits = self.model.logits(ids, self.masks[n])
            self.losses[window] = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        return self.losses[window]


def some(windows, most):
    """At most so many of them, spread evenly."""
    return [windows[i * len(windows) // most] for i in range(most)] if 0 < most < len(windows) else windows


def starts(n, length, stride, compatible):
    found = list(range(0, n - length, stride))
    return found[:-1] if compatible else found


def sliding_losses(evaluator, data, length, stride):
    """As the guide to perplexity of transformers has it: each token once, with as much before it as a window holds."""
    losses, previous, begin = [], 1, 0
    while len(data) > 1:
        end = min(begin + length, len(data))
        losses.append(evaluator.nll(data[begin:end])[previous - begin - 1:])
        if end == len(data):
            break
        previous, begin = end, begin + stride
    return losses


def evaluate(evaluator, context, spans, run):
    """-> {length, nll, perplexity, windows} of every length, and the losses of the longest windows."""
    mode, stride, most, rows = run["mode"], run.get("stride"), run.get("windows", 0), []
    longest = context if mode == "prefixes" else max(run["lengths"])
    kept = None
    for length in run["lengths"]:
        if mode == "sliding":
            losses = [part for data in spans for part in sliding_losses(evaluator, data, length, stride)]
        else:
            ends = longest if most or mode == "prefixes" else length # with a limit, windows begin where the longest do
            windows = [data[at:at + length] for data in spans
                       for at in (range(0, len(data) - longest + 1, longest) if mode == "prefixes"
                                  else starts(len(data), ends, stride, mode == "compatible"))]
            losses = [evaluator.nll(window) for window in some(windows, most)]
        loss, base = torch.cat(losses).mean().item(), math.e
        if mode == "compatible":
            size, base = run["batch_windows"], 2.71828
            batches = [torch.cat(losses[i:i + size]).mean() for i in range(0, len(losses), size)]
            loss = torch.stack(batches).mean().item()
        rows.append({"length": length, "nll": loss, "perplexity": base ** loss, "windows": len(losses)})
        if length == longest and mode != "sliding":
            kept = torch.stack(losses)
    return rows, kept


def bands(losses, length, count):
    edges = [length * i // count for i in range(count + 1)]
    return [{"begin": a, "end": b, "nll": losses[:, a:b].mean().item()} for a, b in zip(edges, edges[1:])]


def byte_tokenizer():
    """One token a byte, in the letters of GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    vocab = {chr(b if b in plain else 256 + others.index(b)): b for b in range(256)}
    return {"version": "1.0", "normalizer": None, "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": []}}


def make_evaluation(folder, case):
    generator = torch.Generator().manual_seed(5)
    m = case["model"]
    (folder / "model").mkdir(parents=True, exist_ok=True)
    base = base_tensors(m, generator)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
              "mlp_bias": False, "rope_theta": 10000.0, "torch_dtype": "float32", **m}
    (folder / "model" / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "model" / "tokenizer.json").write_text(json.dumps(byte_tokenizer(), ensure_ascii=False) + "\n", encoding="utf-8")
    save(folder / "model" / "model.safetensors", base, {"format": "pt"})
    for name, text in case["texts"].items():
        (folder / name).write_text(text)
    runs, texts = {}, [text.encode() for text in case["texts"].values()]
    for name, run in case["runs"].items():
        spans, expected = [b"".join(texts)] if run.get("join") else texts, []
        for rope in run.get("ropes", [case["rope"]]):
            rows, losses = evaluate(Evaluator(m, base, rope, case["context"]), case["context"], spans, run)
            expected.append({"lengths": rows})
            if losses is not None:
                expected[-1]["bands"] = bands(losses, max(case["context"] if run["mode"] == "prefixes" else 0, *run["lengths"]),
                                              case["bands"])
        runs[name] = {"eval": {"bands": case["bands"], **run}, "expected": expected}
    spec = {"name": "evaluation", "about": case["about"], "kind": "eval", "precision": "fp32", "model": {"base": "model"},
            "context": {"length": case["context"]}, "rope": case["rope"], "texts": list(case["texts"]),
            "tolerance": 2e-6, "evaluations": runs}
    (folder / "case.json").write_text(json.dumps(spec, indent=2) + "\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for name, case in CASES.items():
        make(Path(sys.argv[1]) / name, name, case)
        print(name)
    make_evaluation(Path(sys.argv[1]) / "evaluation", EVALUATION)
    print("evaluation")


if __name__ == "__main__":
    main()
