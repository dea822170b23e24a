"""Passes over a traced graph: large products by oneDNN, Bernoulli densities without log1p, the eager run's draws."""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# Operations of our own, under names that Inductor leaves alone.
_library = torch.library.Library("pyro_aevb", "FRAGMENT")

# -- oneDNN -----------------------------------------------------------------------------------------------------------

SMALL_PRODUCT = 1_000_000  # multiplications; with fewer, oneDNN takes longer to begin than it saves

# A name of our own around oneDNN's linear layer, since Inductor takes that one for a layer with constant weights.
_library.define("linear(Tensor x, Tensor weight, Tensor? bias, str activation) -> Tensor")
_library.impl(
    "linear",
    lambda x, weight, bias, activation: torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], ""),
    "CPU",
)
_library.impl("linear", lambda x, weight, bias, activation: x.new_empty(len(x), len(weight)), "Meta")


@functools.cache
def onednn_is_faster() -> bool:
    """Return whether oneDNN's float32 products are faster here: MKL as BLAS, another processor than Intel's, AVX-512.

    On these MKL runs its AVX2 kernels, at half of oneDNN's speed.
    """
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.mkl.is_available()
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _vendor() != "GenuineIntel"
    )


def _vendor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


def send_to_onednn(graph_module: GraphModule) -> None:
    """Replace large float32 products on the CPU by oneDNN's, with the tanh after them if there is one."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or not _replaceable(node):
            continue
        bias, a, b = node.args if node.target is aten.addmm.default else (None, *node.args)
        tanh = next(iter(node.users))
        fused = len(node.users) == 1 and tanh.target is aten.tanh.default
        last = tanh if fused else node
        with graph.inserting_before(node):
            if not a.meta["val"].is_contiguous():  # oneDNN would copy it, and Inductor does it on the way
                a = graph.call_function(aten.clone.default, (a,), {"memory_format": torch.contiguous_format})
            weight = graph.call_function(aten.t.default, (b,))
            product = graph.call_function(
                torch.ops.pyro_aevb.linear.default, (a, weight, bias, "tanh" if fused else "none")
            )
        product.meta["val"] = node.meta["val"]
        last.replace_all_uses_with(product)
        graph.erase_node(last)
        if fused:
            graph.erase_node(node)
    graph_module.recompile()


def _replaceable(node: Node) -> bool:
    if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
        return False
    values: list[Any] = [a.meta.get("val") for a in node.args if isinstance(a, Node)]
    if any(v is None or v.dtype != torch.float32 or v.device.type != "cpu" for v in values):
        return False
    *bias, a, b = values
    return a.numel() * b.shape[1] >= SMALL_PRODUCT and all(v.dim() == 1 for v in bias)


# -- Bernoulli ---------------------------------------------------------------------------------------------------------


def without_log1p(graph_module: GraphModule) -> None:
    """Write the float32 densities of a Bernoulli on the CPU with log(1 + y) in place of log1p(y).

    With l the logits, -log p(x) = max(l, 0) - l x + log(1 + exp(-|l|)): the sum inside the logarithm lies in (1, 2], so
    rounding it costs 6e-8 nats.  On some AVX-512 machines the vectorized log1p takes ten times as long as log.
    """
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.binary_cross_entropy_with_logits.default or len(node.args) != 5:
            continue
        logits, x, *weights, reduction = node.args
        value = logits.meta.get("val")
        if weights != [None, None] or reduction != 0 or value is None:
            continue
        if value.dtype != torch.float32 or value.device.type != "cpu":
            continue
        with graph.inserting_before(node):
            size = graph.call_function(aten.neg.default, (graph.call_function(aten.abs.default, (logits,)),))
            inside = graph.call_function(aten.add.Tensor, (graph.call_function(aten.exp.default, (size,)), 1.0))
            softplus = graph.call_function(
                aten.add.Tensor,
                (graph.call_function(aten.log.default, (inside,)), graph.call_function(aten.relu.default, (logits,))),
            )
            result = graph.call_function(aten.sub.Tensor, (softplus, graph.call_function(aten.mul.Tensor, (logits, x))))
        result.meta["val"] = node.meta.get("val")
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    graph_module.recompile()


# Inductor makes of torch.bernoulli a comparison with uniform numbers, and so draws others; this one it leaves alone.
_library.define("bernoulli(Tensor probs) -> Tensor", tags=[torch.Tag.nondeterministic_seeded])
_library.impl("bernoulli", torch.bernoulli, "CompositeExplicitAutograd")
_library.impl("bernoulli", torch.empty_like, "Meta")


def keep_eager_noise(graph_module: GraphModule) -> None:
    """Make a graph draw the random numbers of the eager run when Inductor compiles it."""
    for node in graph_module.graph.nodes:
        if node.target is aten.bernoulli.default and not node.kwargs:
            node.target = torch.ops.pyro_aevb.bernoulli.default
    graph_module.recompile()


# -- Constants ---------------------------------------------------------------------------------------------------------


def fill_by_mask(graph_module: GraphModule) -> None:
    """Write ``t[mask] = number`` with the number itself, which a trace keeps as a tensor in the processor's memory."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.index_put_.default or len(node.args) != 3:
            continue
        into, indices, lifted = node.args
        values: list[Any] = [i.meta.get("val") if isinstance(i, Node) else None for i in (into, *indices)]
        number = _constant(graph_module, lifted)
        if number is None or number.dim() > 0 or len(values) != 2:
            continue
        if any(value is None for value in values) or values[1].dtype != torch.bool:
            continue
        with graph.inserting_before(node):
            mask = indices[0]
            for _ in range(values[0].dim() - values[1].dim()):  # a mask is about the first dimensions
                mask = graph.call_function(aten.unsqueeze.default, (mask, -1))
            filled = graph.call_function(aten.masked_fill_.Scalar, (into, mask, number.item()))
        filled.meta = dict(node.meta)
        node.replace_all_uses_with(filled)
        graph.erase_node(node)
    graph_module.recompile()


def _constant(graph_module: GraphModule, node: Any) -> torch.Tensor | None:
    """Return the value of a trace's constant; ``None`` for anything else."""
    if not isinstance(node, Node) or "lift_fresh" not in str(node.target):
        return None
    source: Any = node.args[0]
    value = getattr(graph_module, source.target) if source.op == "get_attr" else None
    return value if isinstance(value, torch.Tensor) else None


def put_constants_on(module: GraphModule, device: torch.device) -> None:
    """Move the trace's constants to the device if that changes no result: numbers, and what is copied there anyway.

    A CUDA graph can't hold a copy from the processor's memory.
    """
    for node in module.graph.nodes:
        value: Any = getattr(module, str(node.target)) if node.op == "get_attr" else None
        if not isinstance(value, torch.Tensor) or any("lift_fresh" not in str(user.target) for user in node.users):
            continue
        copies = [copy for user in node.users for copy in user.users]
        copied = all(
            copy.target is aten._to_copy.default
            and torch.device(str(copy.kwargs.get("device") or "cpu")).type == device.type
            for copy in copies
        )
        if value.device.type == "cpu" and (value.dim() == 0 or (copies and copied)):
            setattr(module, str(node.target), value.to(device))
