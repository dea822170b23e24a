"""What a run does to tensors besides its result: written once a call, and read as they are laid out now."""

import pytest
import torch

from pyro_aevb.capture import Capture

CALLS = 40


def calls(fn, before=lambda i, x: None, compile="graph", parameters=dict):
    """Return the results of ``CALLS`` calls of the fast path, and its obstacle."""
    fast, x = Capture(fn, parameters, [fn], compile=compile), torch.arange(1.0, 4.0)
    results = []
    for i in range(CALLS):
        before(i, x)
        results.append(fast(x)[0].clone())
    return torch.stack(results), fast.obstacle


WRITES = {
    "in place": lambda t: t.add_(1.0),
    "in place, of equal elements": lambda t: t.mul_(0.5).add_(1.0),
    "through data": lambda t: t.data.add_(1.0),
    "through an index of data": lambda t: t.data[0].add_(1.0),
    "through detach": lambda t: t.detach().add_(1.0),
    "through a view": lambda t: t.data.view(-1)[1:].add_(1.0),
    "by little": lambda t: t.data.mul_(1 - 1e-6).add_(1e-6),
}


@pytest.mark.parametrize("kind", ["plain", "frozen", "stored"])
@pytest.mark.parametrize("how", WRITES)
def test_what_a_run_writes_is_written_once_a_call(how, kind):
    new = torch.zeros(3)
    own = torch.nn.Parameter(new.clone(), requires_grad=kind == "stored") if kind != "plain" else new.clone()

    def fn(x):
        with torch.no_grad():
            WRITES[how](own)
        return (own.detach() * x,)

    found, obstacle = calls(fn, parameters=lambda: {"own": own} if kind == "stored" else {})
    expected = []
    for _ in range(CALLS):
        WRITES[how](new)
        expected.append(new * torch.arange(1.0, 4.0))
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(own.detach(), new)
    assert obstacle is None


def test_a_tensor_that_moves_at_each_call_is_named_and_the_remedy_is_captured():
    mean, kept = torch.zeros(3), torch.zeros(3)

    def moving(x):
        mean.data = 0.5 * mean + x
        return (mean * 1.0,)

    def copied(x):
        kept.copy_(0.5 * kept + x)
        return (kept * 1.0,)

    found, obstacle = calls(moving)
    remedied, none = calls(copied)
    expected = torch.arange(1.0, 4.0) * (2 - 2 * 0.5 ** torch.arange(1.0, CALLS + 1)[:, None])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(remedied, expected)
    assert obstacle == "each call changes where mean lies; write into it, with mean.copy_(...)"
    assert none is None


def test_a_write_that_the_graph_leaves_out_is_noticed(monkeypatch):
    """As it would be by an operation that is traced without its write."""
    from pyro_aevb.capture import capture

    count, original = torch.ones(3), capture.trace

    def trace(fn, parameters, args, own):
        graph = original(fn, parameters, args, own)
        for node in [n for n in graph.module.graph.nodes if "add_" in str(n.target)]:
            node.replace_all_uses_with(node.args[0])
            graph.module.graph.erase_node(node)
        graph.module.recompile()
        return graph

    monkeypatch.setattr(capture, "trace", trace)

    def fn(x):
        count.add_(5e-7)  # less than what the comparison of values takes for rounding
        return (1.0 * x,)

    _, obstacle = calls(fn)
    assert obstacle == "its graph differs from the eager run: count is left with other values"
    torch.testing.assert_close(count, torch.full((3,), 1 + CALLS * 4 * 2.0**-23), rtol=0, atol=0)


REPLACED = {
    "more rows": lambda t, n: setattr(t, "data", torch.ones(n, 2)),
    "more rows in place": lambda t, n: t.resize_(n, 2).fill_(1.0),
    "more rows of another storage": lambda t, n: t.set_(torch.ones(n, 2)),
    "another dtype": lambda t, n: setattr(t, "data", torch.ones(1, 2, dtype=torch.float64)),
}


@pytest.mark.parametrize("how", REPLACED)
def test_the_shape_of_an_own_tensor_is_part_of_the_signature(how):
    bank = torch.empty(1, 2).fill_(1.0)

    def fn(x):
        return (x * len(bank) * bank.element_size() + bank.sum(),)

    def before(i, x):
        if i in (11, 23):  # neither of these calls is compared
            REPLACED[how](bank, 1 + i)

    found, obstacle = calls(fn, before)
    other = how == "another dtype"
    for i, rows in ((10, 1), (11, 12), (22, 12), (23, 24), (39, 24)):
        size, rows = (8 if other and i > 10 else 4), (1 if other else rows)
        assert torch.equal(found[i].double(), torch.arange(1.0, 4.0).double() * rows * size + 2 * rows)
    assert obstacle is None


@pytest.mark.parametrize("compile", ["graph", pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("given", [True, False], ids=["a parameter", "an own tensor"])
def test_the_strides_of_a_tensor_are_part_of_the_signature(given, compile):
    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3), requires_grad=given)

    def fn(x):
        return ((weight * x).sum(1).detach(), (weight * x).reshape(-1).detach())

    def before(i, x):
        if i == 11:
            weight.data = weight.detach().T.contiguous().T

    found, obstacle = calls(fn, before, compile, (lambda: {"weight": weight}) if given else dict)
    torch.testing.assert_close(found, torch.tensor([8.0, 26.0]).expand(CALLS, 2))
    assert obstacle is None
