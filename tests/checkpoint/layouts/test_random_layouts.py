"""Random layouts: what is exported and imported again is what it was, to the bit.

A layout is generated as YAML text, rule by rule, while the shapes of what it maps are kept in mind.
The tree gets random bits, is exported, imported and exported again.
"""

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import yaml

from autoshard.checkpoint.layouts import Known, apply, parse

LAYOUTS = 1200
BATCH = 60
DTYPES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "int8", "float64", "complex64", "bool"]
WIDER = {"bfloat16": "float32", "float16": "float32", "int8": "int64", "float32": "float64"}


class RuleMaker:
    """One random rule, and the shapes on its way from the foreign side to the tree."""

    def __init__(self, rng, number, axes):
        self.rng, self.number, self.axes = rng, number, axes
        self.dtype = str(rng.choice(DTYPES))
        self.foreign_dtype = self.dtype
        self.keys = {k: n for k, n in axes.items() if rng.random() < 0.6}
        if rng.random() < 0.5:
            self.keys["l"] = int(rng.integers(1, 4))
        self.count = int(rng.choice([1, 1, 2, 3]))
        shape = tuple(int(n) for n in rng.integers(1, 7, size=int(rng.integers(0, 4))))
        self.shapes = [shape] * self.count
        self.foreign = list(self.shapes)
        self.foreign_keys = dict(self.keys)
        self.counts_elements = True  # whether reading a piece reads just as many elements
        self.finite = False
        self.ops = []

    def make(self):
        steps = [
            *(self.transpose, self.unflatten, self.flatten, self.strip, self.pad, self.cast),
            *(self.rotary, self.shard, self.stack, self.replicated, self.fused, self.fuse),
            *(self.tied, self.parts, self.partial, self.unstack, self.unique),
        ]
        for _ in range(int(self.rng.integers(0, 8))):
            steps[int(self.rng.integers(len(steps)))]()
        return self

    def pick(self, items):
        return items[int(self.rng.integers(len(items)))]

    def alike(self):
        return len(set(self.shapes)) == 1

    def set(self, op, shape):
        self.ops.append(op)
        self.shapes = [shape] * len(self.shapes)

    def transpose(self):
        if len({len(s) for s in self.shapes}) > 1:
            return
        order = [int(i) for i in self.rng.permutation(len(self.shapes[0]))]
        self.ops.append({"transpose": order})
        self.shapes = [tuple(s[i] for i in order) for s in self.shapes]

    def dim(self):
        """A dimension of all the arrays, written from the front or from the back."""
        rank = len(self.shapes[0])
        dim = int(self.rng.integers(rank))
        return dim, dim - rank if self.rng.random() < 0.5 else dim

    def unflatten(self):
        if not self.alike() or not self.shapes[0]:
            return
        shape = self.shapes[0]
        dim, written = self.dim()
        divisors = [d for d in range(1, shape[dim] + 1) if shape[dim] % d == 0]
        first = self.pick(divisors)
        sizes = [first, shape[dim] // first]
        op = {"unflatten": {"dim": written, "sizes": sizes}}
        self.set(op, (*shape[:dim], *sizes, *shape[dim + 1 :]))

    def flatten(self):
        if not self.alike() or len(self.shapes[0]) < 2:
            return
        shape = self.shapes[0]
        first = int(self.rng.integers(len(shape) - 1))
        last = int(self.rng.integers(first + 2, len(shape) + 1))
        written = first - len(shape) if self.rng.random() < 0.5 else first
        op = {"flatten": {"dim": written, "sizes": list(shape[first:last])}}
        merged = math.prod(shape[first:last])
        self.set(op, (*shape[:first], merged, *shape[last:]))

    def strip(self):
        if not self.alike() or not self.shapes[0]:
            return
        shape = self.shapes[0]
        dim, written = self.dim()
        size = int(self.rng.integers(1, shape[dim] + 1))
        self.counts_elements = False
        op = {"strip": {"dim": written, "size": size, "padded": shape[dim]}}
        self.set(op, (*shape[:dim], size, *shape[dim + 1 :]))

    def pad(self):
        if not self.alike() or not self.shapes[0]:
            return
        shape = self.shapes[0]
        dim, written = self.dim()
        # Padding of a tree that has random bits there would not come back.
        if any("strip" in op or "pad" in op for op in self.ops if isinstance(op, dict)):
            return
        padded = shape[dim] + int(self.rng.integers(0, 3))
        self.counts_elements = False
        op = {"pad": {"dim": written, "size": shape[dim], "padded": padded}}
        self.set(op, (*shape[:dim], padded, *shape[dim + 1 :]))

    def cast(self):
        if self.dtype not in WIDER:
            return
        wider = WIDER[self.dtype]
        self.ops.append({"cast": {"from": self.dtype, "to": wider}})
        self.dtype = wider
        self.finite = True  # a tree of float32 that came from bfloat16 holds no other bits

    def rotary(self):
        if not self.alike() or not self.shapes[0]:
            return
        dim, written = self.dim()
        if self.shapes[0][dim] % 2:
            return
        self.counts_elements = False
        to = self.pick(["halves", "interleaved"])
        self.set({"rotary": {"dim": written, "to": to}}, self.shapes[0])

    def take_key(self) -> tuple[Any, Any]:
        if not self.keys:
            return None, None
        key = self.pick(sorted(self.keys))
        return key, self.keys.pop(key)

    def shard(self):
        if len({len(s) for s in self.shapes}) > 1 or not self.shapes[0]:
            return
        key, count = self.take_key()
        if key is None or key not in self.axes:
            if key:
                self.keys[key] = count
            return
        dim, written = self.dim()
        self.ops.append({"shard": {"axis": key, "dim": written}})
        self.shapes = [(*s[:dim], s[dim] * count, *s[dim + 1 :]) for s in self.shapes]

    def stack(self):
        key, count = self.take_key()
        if key is None:
            return
        rank = min(len(s) for s in self.shapes)
        dim = int(self.rng.integers(rank + 1))
        self.ops.append({"stack": {"index": key, "dim": dim}})
        self.shapes = [(*s[:dim], count, *s[dim:]) for s in self.shapes]

    def unstack(self):
        if not self.alike() or not self.shapes[0] or "u" in self.keys or "u" in str(self.ops):
            return
        dim, written = self.dim()
        self.ops.append({"unstack": {"index": "u", "dim": written}})
        self.keys["u"] = self.shapes[0][dim]
        self.shapes = [(*s[:dim], *s[dim + 1 :]) for s in self.shapes]

    def replicated(self):
        key, _ = self.take_key()
        if key is None:
            return
        if key not in self.axes:
            self.keys[key] = _
            return
        self.counts_elements = False
        self.ops.append({"replicated": {"axis": key}})

    def unique(self):
        if "pp" in self.keys and self.foreign_keys.get("pp") == 1:
            self.keys.pop("pp")
            self.ops.append({"unique": {"axis": "pp"}})

    def partial(self):
        # Terms of a sum are -0.0 but for the first: no padding of zeros.
        if self.dtype in ("bool", "float8_e4m3fn") or "'pad'" in str(self.ops):
            return
        key, count = self.take_key()
        if key is None:
            return
        if key not in self.axes:
            self.keys[key] = count
            return
        self.finite, self.counts_elements = True, False
        word = "partial" if self.dtype.startswith("int") else self.pick(["partial", "average"])
        self.ops.append({word: {"axis": key}})

    def fused(self):
        if len(self.shapes) != 1 or not self.shapes[0]:
            return
        (shape,) = self.shapes
        dim, written = self.dim()
        if shape[dim] < 2:
            return
        cut = int(self.rng.integers(1, shape[dim]))
        widths = [cut, shape[dim] - cut]
        self.ops.append({"fused": {"dim": written, "widths": widths}})
        self.shapes = [(*shape[:dim], w, *shape[dim + 1 :]) for w in widths]

    def fuse(self):
        if len(self.shapes) < 2 or not self.alike() or not self.shapes[0]:
            return
        dim, written = self.dim()
        shape = self.shapes[0]
        self.ops.append({"fuse": {"dim": written, "widths": [shape[dim]] * len(self.shapes)}})
        self.shapes = [(*shape[:dim], shape[dim] * len(self.shapes), *shape[dim + 1 :])]

    def tied(self):
        if len(self.shapes) < 2 or not self.alike():
            return
        self.counts_elements = False
        self.ops.append({"tied": {"count": len(self.shapes)}})
        self.shapes = self.shapes[:1]

    def parts(self):
        chains = [
            [{"transpose": [int(i) for i in self.rng.permutation(len(s))]}] for s in self.shapes
        ]
        self.ops.append({"parts": chains})
        self.shapes = [
            tuple(s[i] for i in chain[0]["transpose"])
            for s, chain in zip(self.shapes, chains, strict=True)
        ]

    def yaml(self):
        def name(side, part, keys):
            holes = "".join(f".{k}{{{k}:d}}" for k in sorted(keys))
            return f"{side}{self.number}.{part}{holes}"

        return {
            "from": [name("f", i, self.foreign_keys) for i in range(len(self.foreign))],
            "to": [name("t", i, self.keys) for i in range(len(self.shapes))],
            "ops": self.ops,
        }

    def tree(self, bits):
        """Random leaves of the tree."""
        leaves = {}
        values = [range(n) for n in self.keys.values()]
        for at in np.ndindex(*(len(v) for v in values)):
            holes = "".join(f".{k}{at[list(self.keys).index(k)]}" for k in sorted(self.keys))
            for i, shape in enumerate(self.shapes):
                leaves[f"t{self.number}.{i}{holes}"] = self.array(bits, shape)
        return leaves

    def array(self, bits, shape):
        narrow = getattr(ml_dtypes, self.foreign_dtype, None) or self.foreign_dtype
        dtype = getattr(ml_dtypes, self.dtype, None) or self.dtype
        if self.finite or self.dtype == "bool":
            return (
                bits.integers(0, 2 if self.dtype == "bool" else 100, shape)
                .astype(narrow)
                .astype(dtype)
            )
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        return np.frombuffer(bits.bytes(nbytes), dtype).reshape(shape).copy()


def random_layout(seed):
    rng = np.random.default_rng(seed)
    axes = {"tp": int(rng.integers(1, 4)), "pp": int(rng.integers(1, 3))}
    rules = [RuleMaker(rng, i, axes).make() for i in range(int(rng.integers(1, 4)))]
    text = yaml.safe_dump(
        {"layout": f"random{seed}", "axes": axes, "rules": [rule.yaml() for rule in rules]}
    )
    tree = {name: leaf for rule in rules for name, leaf in rule.tree(rng).items()}
    return text, rules, tree, rng


@pytest.mark.parametrize("batch", range(LAYOUTS // BATCH))
def test_export_and_import_give_back_every_bit(batch, kit):
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        text, rules, tree, rng = random_layout(seed)
        try:
            check(text, rules, tree, rng, kit)
        except Exception as error:
            error.add_note(text)
            raise


def check(text, rules, tree, rng, kit):
    spec = parse(text)
    source = kit.MemorySource(tree)
    layout = spec.layout(Known(side="tree", infos=source.tensors()))
    if "pad:" in text:
        for leaf in tree.values():  # padding is checked to be zero
            leaf[...] = 0
    exported = apply(layout.inverse(), source)
    foreign = kit.contents(exported)

    foreign_source = kit.MemorySource(foreign)
    imported = apply(layout, foreign_source)
    kit.same_bits(kit.contents(imported), tree)
    kit.same_bits(kit.contents(apply(layout.inverse(), imported)), foreign)

    # A piece of a result is that piece of the whole, and no more than it is read where the op
    # only moves elements.
    exact = {rule.number for rule in rules if rule.counts_elements}
    for name, info in imported.tensors().items():
        if not info.size:
            continue
        low = [int(rng.integers(0, n)) for n in info.shape]
        index = tuple(
            slice(a, int(rng.integers(a + 1, n + 1))) for a, n in zip(low, info.shape, strict=True)
        )
        foreign_source.elements = 0
        piece = imported.read(name, index)
        kit.same_bits({name: piece}, {name: np.array(tree[name][index])})
        if int(name[1:].split(".")[0]) in exact:
            assert foreign_source.elements == piece.size, name


def test_every_op_takes_part():
    text = "".join(random_layout(seed)[0] for seed in range(0, LAYOUTS, 4))
    words = "transpose unflatten flatten strip pad cast rotary shard stack unstack replicated"
    for word in [*words.split(), "unique", "partial", "average", "fused", "fuse", "tied", "parts"]:
        assert text.count(f"- {word}:") >= 10, word
