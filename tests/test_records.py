"""Which test holds each field of what a step, a bound or an estimate reports: a field that nothing holds fails here."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import pyro_aevb.learners
from pyro_aevb.evidence.estimates import BoundEstimate, Estimate, Evidence, MeanEstimate
from pyro_aevb.evidence.evidence_gap import EvidenceGap
from pyro_aevb.evidence.importance_weights import LogMeanWeight
from pyro_aevb.model_guide.log_density import LogDensity
from pyro_aevb.objectives.objective import Terms
from pyro_aevb.posterior.anomaly import AnomalyScore
from pyro_aevb.posterior.denoise import Denoised
from pyro_aevb.posterior.impute import Imputed
from pyro_aevb.posterior.posterior import Posterior
from pyro_aevb.samplers.ais import Tuned
from pyro_aevb.samplers.hmc import HMCInfo, HMCState
from pyro_aevb.samplers.smc import Ladder

TESTS = Path(__file__).parent
INFOS, TERMS, HMC = "learners/test_step_infos.py", "objectives/test_terms.py", "samplers/test_sampler_records.py"
POSTERIOR = "posterior/test_posterior.py"
EVIDENCE, DENSITY = "evidence/test_evidence_records.py", "model_guide/test_log_density.py"

HELD = {
    "Imputed.angle": "posterior/test_angles.py::test_an_interval_of_a_missing_angle_is_around_its_mean",
    "AEVBInfo.loss": f"{INFOS}::test_aevb",
    "AEVBInfo.elbo": f"{INFOS}::test_aevb",
    "AEVBInfo.terms": f"{INFOS}::test_aevb",
    "WakeSleepInfo.loss": f"{INFOS}::test_wake_sleep",
    "WakeSleepInfo.sleep_loss": f"{INFOS}::test_wake_sleep",
    "WakeSleepInfo.elbo": f"{INFOS}::test_wake_sleep",
    "ReweightedWakeSleepInfo.loss": f"{INFOS}::test_reweighted_wake_sleep",
    "ReweightedWakeSleepInfo.guide_loss": f"{INFOS}::test_reweighted_wake_sleep",
    "ReweightedWakeSleepInfo.elbo": f"{INFOS}::test_reweighted_wake_sleep",
    "ReweightedWakeSleepInfo.iwae_bound": f"{INFOS}::test_reweighted_wake_sleep",
    "ReweightedWakeSleepInfo.effective_sample_size": f"{INFOS}::test_reweighted_wake_sleep",
    "MCEMInfo.loss": f"{INFOS}::test_the_loss_of_mcem",
    "MCEMInfo.acceptance": f"{INFOS}::test_the_acceptance_and_the_step_size_of_mcem",
    "MCEMInfo.step_size": f"{INFOS}::test_the_acceptance_and_the_step_size_of_mcem",
    "MCEMInfo.elbo": f"{INFOS}::test_the_bound_of_the_guide_beside_mcem",
    "MCEMInfo.guide_loss": f"{INFOS}::test_the_bound_of_the_guide_beside_mcem",
    "Terms.loss": f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass",
    "Terms.bound": f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass",
    "Terms.reconstruction": f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass",
    "Terms.kl": f"{TERMS}::test_with_a_kl_in_closed_form",
    "Terms.log_weight": f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass",
    "LogDensity.log_joint": f"{DENSITY}::test_log_joint_and_log_q_are_the_closed_form",
    "LogDensity.log_q": f"{DENSITY}::test_log_joint_and_log_q_are_the_closed_form",
    "LogDensity.log_share": "model_guide/test_guide_values.py::test_discrete_latents_alone_have_no_noise",
    "HMCState.position": f"{HMC}::test_a_state_is_a_place_its_density_and_its_gradient",
    "HMCState.log_prob": f"{HMC}::test_a_state_is_a_place_its_density_and_its_gradient",
    "HMCState.grad": f"{HMC}::test_a_state_is_a_place_its_density_and_its_gradient",
    "HMCInfo.acceptance": f"{HMC}::test_acceptance_on_a_gaussian_is_known",
    "HMCInfo.accepted": f"{HMC}::test_acceptance_on_a_gaussian_is_known",
    "Tuned.step_sizes": f"{HMC}::test_tuned_step_sizes_have_the_acceptance_asked_for",
    "Tuned.position": f"{HMC}::test_tuned_step_sizes_have_the_acceptance_asked_for",
    "Tuned.log_weight": f"{HMC}::test_tuned_log_weights_are_the_changes_of_the_density",
    "Tuned.spread": f"{HMC}::test_the_spread_of_a_step_is_that_of_its_log_weights",
    "Ladder.schedule": "samplers/test_smc.py::test_the_ladder_divides_the_spread_of_log_weights_evenly",
    "Ladder.step_sizes": "samplers/test_smc.py::test_the_ladder_divides_the_spread_of_log_weights_evenly",
    "Estimate.value": f"{EVIDENCE}::test_the_elbo_and_its_standard_error",
    "Estimate.standard_error": f"{EVIDENCE}::test_the_elbo_and_its_standard_error",
    **{
        f"BoundEstimate.{field}": "evidence/test_global_latents.py::test_a_bound_in_closed_form"
        for field in ("value", "standard_error", "global_kl", "total_error")
    },
    "LogDensity.global_log_weight": "evidence/test_global_latents.py::test_log_density_has_the_globals_apart",
    **dict.fromkeys(
        ("LogDensity.log_given", "BoundEstimate.log_given"),
        "evidence/test_global_latents.py::test_what_is_observed_outside_of_the_plate_counts_once",
    ),
    "Terms.global_kl": "objectives/test_global_latents.py::test_terms_hold_the_global_kl_apart_and_once",
    "MeanEstimate.value": f"{EVIDENCE}::test_a_mean_over_datapoints_has_the_error_of_a_mean",
    "MeanEstimate.standard_error": f"{EVIDENCE}::test_a_mean_over_datapoints_has_the_error_of_a_mean",
    "LogMeanWeight.value": f"{EVIDENCE}::test_a_log_mean_weight_by_hand",
    "LogMeanWeight.standard_error": f"{EVIDENCE}::test_a_log_mean_weight_by_hand",
    "LogMeanWeight.effective_sample_size": f"{EVIDENCE}::test_a_log_mean_weight_by_hand",
    "Evidence.value": f"{EVIDENCE}::test_weights_of_known_moments",
    "Evidence.standard_error": f"{EVIDENCE}::test_weights_of_known_moments",
    "Evidence.direction": f"{EVIDENCE}::test_weights_of_known_moments",
    "Evidence.effective_sample_size": f"{EVIDENCE}::test_weights_of_known_moments",
    "Evidence.pareto_k": f"{EVIDENCE}::test_pareto_k_of_weights_that_are_pareto",
    "Evidence.settled": f"{EVIDENCE}::test_values_that_do_not_settle_are_warned_about",
    "Evidence.upper": f"{EVIDENCE}::test_both_sides_of_bidirectional_monte_carlo",
    "Evidence.data": f"{EVIDENCE}::test_both_sides_of_bidirectional_monte_carlo",
    "Evidence.method": "evidence/test_auto.py::test_half_of_the_datapoints_are_annealed",
    "Posterior.draws": f"{POSTERIOR}::test_resampled_draws_are_exact_ones",
    "Posterior.angles": "posterior/test_angles.py::test_the_mean_and_the_deviation_of_an_angle_are_those_on_the_circle",
    **{
        f"Posterior.{field}": f"{POSTERIOR}::test_a_guide_that_is_wrong_for_some_is_caught_for_those_alone"
        for field in ("method", "trusted", "effective_sample_size", "pareto_k", "r_hat")
    },
    **{
        f"Imputed.{field}": "posterior/test_impute.py::test_missing_cells_have_the_exact_conditional"
        for field in ("mode", "posterior")
    },
    **{
        f"Imputed.{field}": "posterior/test_impute.py::test_the_mode_of_a_category_is_the_most_probable_one"
        for field in ("draws", "mean", "standard_error")
    },
    **{
        f"AnomalyScore.{field}": "posterior/test_anomaly.py::test_the_score_is_minus_log_p_of_x_within_its_error"
        for field in ("score", "standard_error", "evidence")
    },
    **{
        f"AnomalyScore.{field}": "posterior/test_anomaly.py::test_places_among_the_reference_are_counted"
        for field in ("tail", "typicality")
    },
    **{
        f"AnomalyScore.{field}": "posterior/test_verbs.py::test_the_regret_is_what_the_amortized_guide_loses"
        for field in ("regret", "regret_error")
    },
    **{
        f"Denoised.{field}": "posterior/test_denoise.py::test_the_mean_is_the_closed_form"
        for field in ("mean", "draws", "posterior")
    },
    "Denoised.standard_error": "posterior/test_denoise.py::test_what_model_and_guide_take_besides_may_be_named",
    "EvidenceGap.elbo": f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",
    "EvidenceGap.best_elbo": f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",
    "EvidenceGap.total": f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",
    "EvidenceGap.approximation": f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",
    "EvidenceGap.amortization": f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",
}


def infos():
    """Return the records of steps that the room of learners defines: the tuples whose names end in Info."""
    found = {}
    for module in pkgutil.iter_modules(pyro_aevb.learners.__path__, "pyro_aevb.learners."):
        for name, value in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if name.endswith("Info") and issubclass(value, tuple):
                found[name] = value
    return list(found.values())


def fields(record):
    return [f.name for f in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else list(record._fields)


def test_every_field_is_held_by_a_test():
    others = [
        Terms, LogDensity, HMCState, HMCInfo, Tuned, Ladder, BoundEstimate, Estimate, MeanEstimate, LogMeanWeight,
        Evidence, EvidenceGap, Posterior, Imputed, AnomalyScore, Denoised,
    ]  # fmt: skip
    names = {f"{record.__name__}.{field}" for record in [*infos(), *others] for field in fields(record)}
    missing, stale = sorted(names - set(HELD)), sorted(set(HELD) - names)
    assert not missing, f"hold {missing} to a closed form, and name the test in HELD"
    assert not stale, f"take {stale}, which no record has, out of HELD"
    assert len(infos()) >= 4


@pytest.mark.parametrize("field", HELD)
def test_the_test_that_holds_it_is_there_and_looks_at_it(field):
    path, name = HELD[field].split("::")
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    attributes = {node.attr for node in ast.walk(functions[name]) if isinstance(node, ast.Attribute)}
    assert field.split(".")[1] in attributes
