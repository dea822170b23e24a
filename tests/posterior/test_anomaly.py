"""-log p(x) in closed form, and p-values against reference data that are uniform where nothing is wrong."""

import pytest
import torch
from exact_pairs import normal, posterior_pair
from linear_gaussian import LinearGaussian
from scipy import stats
from statistics_tools import SIGMAS

from pyro_aevb import anomaly_score

N = 60


def pair():
    lg = LinearGaussian(N, 2, 4)
    return lg, posterior_pair(lg, 1.1)


def score(pair, x, **options):
    return anomaly_score(pair.model, pair.guide, x, **{"seed": 0, "progress": False, "compile": False, **options})


def simulated(lg, num_data, seed):
    noise = lg.value("log_s").exp() * normal(num_data, 4, seed=seed + 100)
    return normal(num_data, 2, seed=seed) @ lg.value("W").T + lg.value("m") + noise


def test_the_score_is_minus_log_p_of_x_within_its_error():
    lg, both = pair()
    found = score(both, lg.x[:10])
    off = (found.score + lg.log_evidence(lg.x[:10])).abs()
    assert (off <= SIGMAS * found.standard_error).all()
    assert 0 < found.standard_error.max() < 0.05
    assert torch.equal(found.score, -found.evidence.value)
    assert found.evidence.method == ("quadrature",) * 10
    assert found.tail is None
    assert found.typicality is None


def test_p_values_are_uniform_for_usual_data_and_small_for_what_is_not():
    lg, both = pair()
    reference = simulated(lg, 199, seed=1)
    quick = {"method": "importance", "num_particles": 50}
    usual = score(both, simulated(lg, N, seed=3), reference=reference, **quick)
    for values in (usual.tail, usual.typicality):
        distance = stats.kstest(values.numpy(), "uniform").statistic  # of N draws against the reference's R
        assert stats.kstwobign.sf(distance * (N * 199 / (N + 199)) ** 0.5) > 0.01
    mode = lg.value("m").expand(1, 4)  # the most probable x, which is typical of nothing
    far = mode + 8.0
    known = score(both, reference, **quick)
    found = score(both, torch.cat([mode, far]), reference=known, **quick)
    assert found.tail[0] == 1.0
    assert found.tail[1] == found.typicality[1] == 1 / 200
    assert found.typicality[0] < usual.typicality.median()


def test_places_among_the_reference_are_counted():
    """Scores 1, 2, 3, 9: the median is 2; ties count against x."""
    lg, both = pair()
    known = score(both, lg.x[:4])
    known = type(known)(torch.tensor([1.0, 2.0, 3.0, 9.0]), known.standard_error, None, None, known.evidence)
    value = score(both, lg.x[:1]).score
    assert 3 < value.item() < 9
    found = score(both, lg.x[:1], reference=known)
    assert found.tail.tolist() == [2 / 5]
    assert found.typicality.tolist() == [2 / 5]


def test_bad_input_is_refused_as_by_log_marginal_likelihood():
    lg, both = pair()
    with pytest.raises(ValueError, match="expected a method out of"):
        score(both, lg.x, method="none")
    with pytest.raises(TypeError, match="expected a callable model"):
        anomaly_score(3, None, lg.x)
