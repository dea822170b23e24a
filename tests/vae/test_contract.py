"""Each kind of VAE under every learner, objective and estimate, resumed, saved and captured: it works, or says why not.

``python tests/vae/test_contract.py`` prints the matrix.  ``-m slow`` runs each kind and all of them under everything,
and any two of them under a third of it, in turn; ``-m exhaustive`` runs them under the rest, and three of them.
"""

import functools
import itertools
import tempfile
import warnings

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyro_aevb import (
    AEVB,
    AIS,
    BDMC,
    IWAE,
    MCEM,
    SGVB,
    SMC,
    STL,
    VAE,
    VIMCO,
    DReG,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
    elbo,
    fit,
    load,
    log_marginal_likelihood,
    save,
)

N, M, C = 9, 3, 3
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
X = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.5).double()
LABEL = torch.tensor([-1, 0, 1, 2, -1, -1, 0, 1, -1])
PARTS = {
    "conditional": {"covariates": 2},
    "hierarchical": {"latent_dim": (1, 1)},
    "labelled": {"labels": C, "label_weight": 0.5},
    "shaped": {"x_dim": (1, 2, 3)},
}
KINDS = {"plain": ()} | {name: (name,) for name in PARTS} | {"all of them": tuple(PARTS)}
COMBINED = {" ".join(names): names for size in (2, 3) for names in itertools.combinations(PARTS, size)}


def make(names, **more):
    """Return a VAE of these kinds, and its data by name."""
    pyro.set_rng_seed(0)
    options = {"x_dim": 6, "latent_dim": 1, "hidden_dims": (4,), "dataset_size": N}
    for name in names:
        options |= PARTS[name]
    data = {"x": X.reshape(N, 1, 2, 3) if "shaped" in names else X}
    if "conditional" in names:
        data["covariates"] = torch.eye(2).double()[torch.arange(N) % 2]
    if "labelled" in names:
        data["label"] = LABEL
    return VAE(**(options | more)).double(), data


def dreamed(sites, *args, label=None, **more):
    """Return the arguments of a dream: x, and a label where one is known."""
    found = {"x": sites["x"]}
    return found if label is None else found | {"label": torch.where(label < 0, label, sites["y_observed"])}


def numbers(vae):
    return torch.cat([parameter.detach().flatten() for parameter in vae.parameters()])


def objective(make_one):
    return lambda vae, **options: AEVB(vae.model, vae.guide, ADAM, make_one(), **options)


LEARNERS = {
    "SGVB": objective(SGVB),
    "analytic": objective(lambda: SGVB(kl="analytic")),
    "STL": objective(STL),
    "ScoreFunction": objective(lambda: ScoreFunction(3, baseline="leave-one-out")),
    "IWAE": objective(lambda: IWAE(3)),
    "DReG": objective(lambda: DReG(3)),
    "Renyi": objective(lambda: Renyi(0.5, 3)),
    "VIMCO": objective(lambda: VIMCO(3)),
    "Trace_ELBO": objective(Trace_ELBO),
    "TraceMeanField_ELBO": objective(TraceMeanField_ELBO),
    "TraceEnum_ELBO": objective(lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "RenyiELBO": objective(lambda: RenyiELBO(0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=1)),
    "WakeSleep": lambda v, **o: WakeSleep(v.model, v.guide, ADAM, ADAM, dream_arguments=dreamed, **o),
    "ReweightedWakeSleep": lambda v, **o: ReweightedWakeSleep(v.model, v.guide, ADAM, ADAM, num_particles=3, **o),
    "MCEM": lambda v, **o: MCEM(v.model, ADAM, num_leapfrog=2, num_updates=2, **o),
}
ESTIMATES = {
    "importance": {"method": "importance", "num_particles": 2000},
    "AIS": {"method": AIS(10, num_leapfrog=2), "num_particles": 100},
    "SMC": {"method": SMC(8), "num_particles": 100},
    "BDMC": {"method": BDMC(AIS(10, num_leapfrog=2)), "num_particles": 20},
    "posterior-density": {"method": "posterior-density", "num_particles": 200},
}
WARNED = {"Trace_ELBO", "TraceMeanField_ELBO", "TraceEnum_ELBO", "RenyiELBO"}  # Pyro's, of sites to enumerate
# What is refused, by the part that it doesn't go with: the sentence.
REFUSED = {
    ("labelled", "DReG"): "expected an objective that sums over .*, got DReG; use SGVB",
    ("labelled", "VIMCO"): "expected an objective that sums over .*, got VIMCO; use SGVB",
    ("labelled", "TraceMeanField_ELBO"): "All distributions in the guide must be fully reparameterized",  # Pyro's own
}


def trained(names, feature, compile):
    vae, data = make(names)
    start = numbers(vae)
    fit(LEARNERS[feature](vae, compile=compile), data, epochs=2, batch_size=M, seed=0, progress=False)
    end = numbers(vae)
    assert end.isfinite().all()
    assert not torch.equal(start, end)
    return end


def learns(names, feature):
    """It trains, and the captured graph takes the eager steps."""
    torch.testing.assert_close(trained(names, feature, "graph"), trained(names, feature, False), rtol=1e-6, atol=1e-9)


def estimates(names, feature):
    """The estimate is that of quadrature, within its error."""
    vae, data = make(names)
    options = {"seed": 0, "progress": False, "compile": False}
    found = log_marginal_likelihood(vae.model, vae.guide, **data, **ESTIMATES[feature], **options)
    if found.data is not None:  # simulated in the shape of x, which the values are then of
        sites = {name: value.reshape(len(X), *value.shape[1:]) for name, value in found.data.items()}
        data |= dreamed(sites, label=data.get("label"))
    exact = log_marginal_likelihood(vae.model, vae.guide, **data, method="quadrature", **options)
    if found.upper is None:
        assert ((found.value - exact.value).abs() < 5 * found.standard_error + 0.3).all()
    else:
        assert (found.value < exact.value + 5 * found.standard_error + 0.05).all()
        assert (found.upper.value > exact.value - 5 * found.upper.standard_error - 0.05).all()
    bound = elbo(vae.model, vae.guide, **data, num_particles=100, seed=0)
    assert (bound.value < exact.value + 5 * bound.standard_error).all()


def resumes(names, feature):
    """Two epochs with validation, and one and its resumption, end the same bit for bit."""
    ends = []
    for epochs in ((2,), (1, 2)):
        with tempfile.TemporaryDirectory() as folder:
            for number in epochs:
                vae, data = make(names)
                history = fit(
                    AEVB(vae.model, vae.guide, ADAM, SGVB()), data, data, epochs=number, batch_size=M, seed=0,
                    progress=False, checkpoint_dir=folder, resume=number != epochs[0],
                )  # fmt: skip
        ends.append((history.records[-1].values["validation"], numbers(vae)))
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


def saves(names, feature):
    """What is loaded has the same bound bit for bit."""
    vae, data = make(names)
    with tempfile.TemporaryDirectory() as folder:
        save(vae, folder)
        same = load(folder)
    assert str(same) == str(vae)
    bounds = [elbo(each.model, each.guide, **data, num_particles=3, seed=0).value for each in (vae, same)]
    assert torch.equal(*bounds)


FEATURES = dict.fromkeys(LEARNERS, learns) | dict.fromkeys(ESTIMATES, estimates) | {"resume": resumes, "save": saves}


def refusal(names, feature):
    """Return the sentence that a feature is refused by, or ``None``."""
    return next((REFUSED[name, feature] for name in names if (name, feature) in REFUSED), None)


def outcome(names, feature):
    """Return "." for what works, "s" for what is refused as it should be; raise for anything else."""
    expected = refusal(names, feature)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*pareto_k")
        if feature in WARNED:
            warnings.simplefilter("ignore")
        if expected is None:
            FEATURES[feature](names, feature)
            return "."
        with pytest.raises((ValueError, NotImplementedError), match=expected):
            FEATURES[feature](names, feature)
        return "s"


def cells():
    """Return all pairs of a kind and a feature, of which some are run by default."""
    for i, (name, names) in enumerate((KINDS | COMBINED).items()):
        for j, feature in enumerate(FEATURES):
            chosen = name in KINDS and (i + j) % 4 == 0 and feature not in ("SMC", "posterior-density")  # the longest
            left = len(names) == 3 or (len(names) == 2 and (i + j) % 3)
            marks = [] if chosen else [pytest.mark.exhaustive if left else pytest.mark.slow]
            yield pytest.param(names, feature, id=f"{name}-{feature}", marks=marks)


@pytest.mark.parametrize(("names", "feature"), list(cells()))
def test_a_kind_works_or_says_why_not(names, feature):
    assert outcome(names, feature) in ".s"


def main():
    print(", ".join(FEATURES))
    for name, names in (KINDS | COMBINED).items():
        row, notes = "", []
        for feature in FEATURES:
            try:
                row += outcome(names, feature)
            except BaseException as error:  # whatever comes of it is to be seen
                row += "X"
                notes.append(f"   X {feature}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        print(row, name, *notes, sep="\n" if notes else "  ", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
