"""Ids and texts equal to those of Hugging Face's tokenizers, on 10 MB of mixed text: documentation with code, a dozen scripts, emoji,
every kind of white space, special tokens in the middle. The kinds that Llama models use: Llama 3, GPT-2, SmolLM, each with
a vocabulary trained here, and SentencePiece.
"""
import glob
import json
import os
import pathlib
import random
import struct
import subprocess

import longhaul
import pytest
import references

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

TEXT_BYTES = 10_000_000
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Letters, marks, digits and signs that every version of Unicode in use knows.
SCRIPTS = ((0x20, 0x7e), (0xa1, 0x17f), (0x391, 0x3c9), (0x410, 0x44f), (0x5d0, 0x5ea), (0x621, 0x652), (0x660, 0x669), (0x905, 0x94d),
           (0xe01, 0xe3a), (0x1100, 0x1112), (0x3041, 0x3096), (0x30a1, 0x30fa), (0x4e00, 0x9fa5), (0xac00, 0xd7a3), (0x2190, 0x21ff),
           (0x2460, 0x2473), (0xff01, 0xff5e), (0x1f600, 0x1f64f), (0x1f300, 0x1f5ff), (0x1d400, 0x1d433), (0x20000, 0x20100))
BETWEEN = (" ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u3000", "\u200b", "\u0085", "\u2028", " \n ", "'s", "'LL ",
           "\u200d", "\ufe0f", "...", "//", "12345", "\u0000", "\u0301")

# argv: a folder with train.txt. Leaves one tokenizer.json a kind.
TRAIN = r"""
import sys
from pathlib import Path
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
folder = Path(sys.argv[1])
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
kinds = {
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]), False),
    "llama3": (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]), True),
}
for name, (cut, ignore_merges) in kinds.items():
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train([str(folder / "train.txt")], trainers.BpeTrainer(vocab_size=4000, special_tokens=sys.argv[2:], show_progress=False,
                                                                    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    (folder / name).mkdir()
    tokenizer.save(str(folder / name / "tokenizer.json"))
"""

# argv: a tokenizer.json, what longhaul-worker made of the texts.
COMPARE = r"""
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
lines = [json.loads(line) for line in open(sys.argv[2], encoding="utf-8")]
texts = [line["text"] for line in lines]
found = tokenizer.encode_batch(texts, add_special_tokens=False)
tokenizer.encode_special_tokens = True
plain = tokenizer.encode_batch(texts, add_special_tokens=False)
tokenizer.encode_special_tokens = False
decoded = tokenizer.decode_batch([line["ids"] for line in lines], skip_special_tokens=False)
tokens = 0
for line, a, b, text in zip(lines, found, plain, decoded):
    assert a.ids == line["ids"], (line["text"], a.ids, line["ids"])
    assert b.ids == line.get("plain_ids", line["ids"]), line["text"]
    assert text == line["decoded"], (line["text"], text, line["decoded"])
    tokens += len(a.ids)
print(len(lines), "texts", tokens, "tokens")
"""


def documents():
    """Paragraphs of the documentation of this system's Perl, at most a third of all."""
    text, size = [], 0
    for path in sorted(glob.glob("/usr/share/perl/*/pod/*.pod")):
        paragraphs = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").split("\n\n")
        for i in range(0, len(paragraphs), 5):
            text.append("\n\n".join(paragraphs[i:i + 5]))
            size += len(text[-1])
            if size > TEXT_BYTES // 3:
                return text
    return text


def word(rng):
    first, last = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.choice((1, 1, 2, 3, 5, 8, 13))))


def mixed_texts():
    """10 MB, the same in every run."""
    rng = random.Random(20240607)
    texts = documents()
    size = sum(len(text.encode()) for text in texts)
    while size < TEXT_BYTES:
        parts = []
        for _ in range(rng.choice((1, 5, 40, 200, 1000))):
            parts.append(word(rng))
            parts.append(rng.choice(SPECIAL) if rng.random() < 0.01 else rng.choice(BETWEEN) * rng.choice((1, 1, 1, 2, 30)))
        texts.append("".join(parts))
        size += len(texts[-1].encode())
    return texts


@pytest.fixture(scope="module")
def python():
    return references.python("torch")


@pytest.fixture(scope="module")
def folder(python, tmp_path_factory):
    """texts.jsonl, and a folder with a tokenizer.json for each kind."""
    made = tmp_path_factory.mktemp("tokenizers")
    texts = mixed_texts()
    with open(made / "texts.jsonl", "w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text}) + "\n")
    (made / "train.txt").write_text("\n".join(texts[::5]), encoding="utf-8")
    run(python, TRAIN, made, *SPECIAL)
    return made


def run(python, script, *args):
    done = subprocess.run([str(python), "-c", script, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    print(done.stdout)


def compare(python, model, reference, folder, out):
    subprocess.run([str(longhaul.BIN / "longhaul-worker"), "--tokenize", str(model), str(folder / "texts.jsonl"), str(out)], check=True)
    run(python, COMPARE, reference, out)
    out.unlink()


@pytest.mark.parametrize("kind", ["llama3", "gpt2", "smollm"])
def test_ids_and_texts_are_those_of_hugging_face(python, folder, tmp_path, kind):
    compare(python, folder / kind, folder / kind / "tokenizer.json", folder, tmp_path / "ids.jsonl")


def pieces(path):
    """[(piece, score, type)] of a SentencePiece model: field 1 of its protobuf, of which 1, 2 and 3."""
    def fields(data):
        at = 0
        while at < len(data):
            key, at = varint(data, at)
            if key & 7 == 2:
                n, at = varint(data, at)
                yield key >> 3, data[at:at + n]
                at += n
            elif key & 7 == 5:
                yield key >> 3, struct.unpack_from("<f", data, at)[0]
                at += 4
            else:
                value, at = varint(data, at)
                yield key >> 3, value

    def varint(data, at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 128:
                return value, at

    for number, value in fields(path.read_bytes()):
        if number == 1:
            piece = dict(fields(value))
            yield piece[1].decode(), piece.get(2, 0.0), piece.get(3, 1)


def test_sentencepiece_ids_are_those_of_the_same_vocabulary_in_hugging_face(python, folder, tmp_path):
    """As transformers converts a Llama tokenizer: merges in the order of the ids of what they make, bytes for the rest."""
    fixture = longhaul.ROOT / "tests/fixtures/sentencepiece"
    entries = list(pieces(fixture / "tokenizer.model"))
    vocab = {piece: i for i, (piece, _, _) in enumerate(entries)}
    merges = []
    for piece, score, kind in entries:
        if kind != 1:
            continue
        local = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        merges += [(score, pair) for pair in sorted(local, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    merges = [list(pair) for _, pair in sorted(merges, key=lambda entry: -entry[0])]
    control = [{"id": i, "content": piece, "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
               for i, (piece, _, kind) in enumerate(entries) if kind in (2, 3)]
    (tmp_path / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": control, "post_processor": None, "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                                                     {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": merges,
                  "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False}}))
    compare(python, fixture, tmp_path / "tokenizer.json", folder, tmp_path / "ids.jsonl")
