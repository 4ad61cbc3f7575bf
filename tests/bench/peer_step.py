#!/usr/bin/env python3
"""The peer of tests/bench/train_step: the same LongLoRA step with PyTorch, transformers and PEFT on a CPU.

Opens a Hugging Face directory and a safetensors file with tokens, then obeys its standard input: each line "step" makes one
step (or, with --what eval, one forward pass over a window) and answers with a line of JSON: loss, wall_s, cpu_s. At the end of
the input it tells its peak memory. So its caller can let two programs take turns on the same cores.

Forms:
  default  what Trainer(bf16=True) gives: the frozen base in bf16, everything that trains in fp32, autocast, the library's loss
  best     the fastest that was found: all live weights in bf16 with fp32 masters in the optimizer, a loss that makes its
           gradient a chunk of tokens at a time, decoder layers and loss compiled

With --precision fp32 nothing is bf16, and the forms differ by the loss and the compiling. S2 attention: query heads of the
second half see groups that are moved by half a group; no group wraps around. Equal groups of a head class are one batched call
of scaled_dot_product_attention.
"""
import argparse
import contextlib
import json
import os
import sys
import time
import warnings

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import peft
import torch
import torch.nn.functional as F
import transformers
from safetensors import safe_open
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NO_LABEL = -100


# ---- S2 attention --------------------------------------------------------------------------------------------------------

def groups(tokens, group, shifted):
    """Segments of one head class as runs of equal ones: (first token, how many, length)."""
    if not shifted:
        return [(0, tokens // group, group)]
    half = group // 2
    return [(0, 1, half), (half, tokens // group - 1, group), (tokens - half, 1, half)]


def class_attention(q, k, v, runs, scale):
    """q, k, v (batch, heads, tokens, D) -> (batch, tokens, heads, D)."""
    done = []
    for first, n, length in runs:
        if n == 0:
            continue
        # A group becomes an entry of the batch; all three are views.
        parts = [x.narrow(2, first, n * length).unflatten(2, (n, length)).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
        o = F.scaled_dot_product_attention(*parts, is_causal=True, scale=scale)
        done.append(o.transpose(1, 2).reshape(q.shape[0], n * length, q.shape[1], q.shape[3]))
    return done[0] if len(done) == 1 else torch.cat(done, 1)


def s2_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    heads, tokens, share = query.shape[1], query.shape[2], query.shape[1] // key.shape[1]
    cut = heads // 2
    kv = torch.arange(heads) // share       # the key-value head of each query head; one may serve both classes
    out = [class_attention(query[:, h], key[:, kv[h]], value[:, kv[h]], groups(tokens, module.config.s2_group, shifted), scaling)
           for h, shifted in ((slice(0, cut), False), (slice(cut, heads), True))]
    return torch.cat(out, 2), None


ALL_ATTENTION_FUNCTIONS.register("s2", s2_attention)


# ---- the loss of the best form -------------------------------------------------------------------------------------------

def chunk_loss(logits, targets, scale):
    """Sum of the losses of a chunk, and the gradient by its logits."""
    logp = torch.log_softmax(logits.float(), -1)
    labelled = (targets != NO_LABEL)[:, None]
    index = targets.clamp_min(0)[:, None]
    loss = -(logp.gather(1, index) * labelled).sum()
    grad = logp.exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=torch.float32))
    return loss, (grad * (labelled * scale)).to(logits.dtype)


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of x W^T over labelled tokens. The forward pass makes both gradients, so logits live for a chunk
    only and are computed once; the gradient of W is summed in fp32."""

    @staticmethod
    def forward(ctx, x, weight, targets, chunk, per_chunk):
        scale = 1.0 / (targets != NO_LABEL).sum().clamp_min(1)
        loss, dx = torch.zeros(()), torch.empty_like(x)
        dweight = torch.zeros(weight.shape, dtype=torch.float32)
        for at in range(0, len(x), chunk):
            piece = x[at:at + chunk]
            part, grad = per_chunk(piece @ weight.t(), targets[at:at + chunk], scale)
            loss += part
            dx[at:at + chunk] = grad @ weight
            dweight += grad.t() @ piece
        ctx.save_for_backward(dx, dweight.to(weight.dtype))
        return loss * scale

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        return dx * grad, dweight * grad, None, None, None


# ---- model and optimizer -------------------------------------------------------------------------------------------------

def open_model(a):
    config = transformers.LlamaConfig.from_pretrained(a.model)
    factor = max(1, -(-a.tokens // config.max_position_embeddings))
    if factor > 1:
        config.rope_parameters = {**config.rope_parameters, "rope_type": "linear", "factor": float(factor)}
    config.use_cache = False
    config._attn_implementation = "sdpa" if a.mode == "dense" else "s2"
    low = torch.bfloat16 if a.precision == "bf16" else torch.float32
    model = transformers.LlamaForCausalLM.from_pretrained(a.model, config=config, dtype=low)
    model.config.s2_group = a.group or a.tokens // 4
    mixed = a.precision == "bf16" and a.form == "default"
    if a.what == "train":
        model = peft.get_peft_model(model, peft.LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]), autocast_adapter_dtype=mixed)
        for name, p in model.named_parameters():
            if "embed" in name or "norm" in name:
                p.requires_grad_()
            if p.requires_grad and mixed:
                p.data = p.data.float()
    llama = model.base_model.model if a.what == "train" else model
    if a.form == "best":
        for layer in llama.model.layers:
            layer.compile(dynamic=False)
    return model, llama


class Masters:
    """AdamW over fp32 copies of what is not fp32 itself, so that no update is lost in rounding; clips the norm to 1."""

    def __init__(self, parameters, rate):
        self.live = [p for p in parameters if p.requires_grad]
        self.master = [p if p.dtype == torch.float32 else p.detach().float() for p in self.live]
        self.adamw = torch.optim.AdamW(self.master, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(self):
        pairs = [(p, m) for p, m in zip(self.live, self.master) if p is not m]
        for p, m in pairs:
            m.grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0, foreach=True)
        self.adamw.step()
        with torch.no_grad():
            for p, m in pairs:
                p.copy_(m)
        self.adamw.zero_grad(set_to_none=True)


class Peer:
    def __init__(self, a):
        self.a = a
        self.model, self.llama = open_model(a)
        self.optimizer = Masters(self.model.parameters(), a.rate) if a.what == "train" else None
        self.model.train(a.what == "train")
        self.chunk_loss = torch.compile(chunk_loss, dynamic=False) if a.form == "best" else chunk_loss
        with safe_open(a.data, "pt") as f:
            self.ids = f.get_tensor("input_ids").flatten(0, 1)
        self.at = 0

    def window(self):
        ids = self.ids[self.at % len(self.ids)][None]
        self.at += 1
        assert ids.shape[1] == self.a.tokens, f"windows of {ids.shape[1]} tokens"
        return ids

    def loss(self, ids):
        if self.a.form == "default" and self.a.what == "train":
            return self.model(input_ids=ids, labels=ids).loss
        x = self.llama.model(input_ids=ids).last_hidden_state[0]
        weight, targets = self.llama.lm_head.weight, F.pad(ids[0, 1:], (0, 1), value=NO_LABEL)
        if self.a.what == "train":
            return HeadLoss.apply(x, weight, targets, self.a.chunk, self.chunk_loss)
        nll = sum(F.cross_entropy((x[i:i + self.a.chunk] @ weight.t()).float(), targets[i:i + self.a.chunk],
                                  ignore_index=NO_LABEL, reduction="sum") for i in range(0, len(x), self.a.chunk))
        return nll / (len(x) - 1)

    def step(self):
        mixed = self.a.precision == "bf16" and self.a.form == "default"
        wall, cpu = time.perf_counter(), time.process_time()
        with contextlib.nullcontext() if self.a.what == "train" else torch.no_grad():
            with torch.autocast("cpu", torch.bfloat16) if mixed else contextlib.nullcontext():
                loss = self.loss(self.window())
            if self.a.what == "train":
                loss.backward()
                self.optimizer.step()
        return {"loss": loss.item(), "wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}


def peak_bytes():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM"))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="Hugging Face directory of a Llama model with a tied head")
    p.add_argument("data", help="safetensors file with input_ids, I64 [steps, sequences, tokens]")
    p.add_argument("--what", choices=["train", "eval"], default="train")
    p.add_argument("--tokens", type=int, required=True)
    p.add_argument("--mode", choices=["s2", "dense"], default="s2", help="attention")
    p.add_argument("--group", type=int, help="tokens of an S2 group (a quarter of them)")
    p.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    p.add_argument("--form", choices=["best", "default"], default="best")
    p.add_argument("--chunk", type=int, default=256, help="tokens a chunk of the loss, best form")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rate", type=float, default=2e-5)
    a = p.parse_args()
    torch.manual_seed(17)
    torch.set_num_threads(a.threads)
    peer = Peer(a)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        assert line == "step\n", line
        print(json.dumps(peer.step()), flush=True)
    print(json.dumps({"peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
