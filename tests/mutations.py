"""Breakages that tests must notice: what the code says, what it could wrongly say, and the tests that then fail.

    python tests/mutations.py            every one of them, a line each
    python tests/mutations.py evidence   those of one room, or whose file or replacement has the word in it

Each is made in a copy of the package and its tests, one at a time.  A breakage that no test notices is a test to write.
"""

from __future__ import annotations

import ast
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
# Processes that begin with what takes long to import; the package itself each imports from its copy.
PROCESSES = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
if os.name == "posix":
    PROCESSES.set_forkserver_preload(
        [
            "pytest",
            "torch._dynamo",  # which torch's optimizers import
            "torch._inductor.config",
            "torch.fx.experimental.proxy_tensor",
            "pyro.distributions",
            "pyro.infer",
            "matplotlib.figure",
            "scipy.stats",
        ]
    )
# Plugins of pytest's that take seconds: one imports Hypothesis, one collects garbage ten times.
NOT_NEEDED = ("cacheprovider", "hypothesispytest", "unraisableexception")
MEMORY = "/dev/shm"  # a file system that doesn't wait for a disk
NOT_COPIED = shutil.ignore_patterns(".pytest_cache")


class Mutation(NamedTuple):
    """``old``, which stands once in ``file``, becomes ``new``; then one of ``tests`` must fail."""

    file: str  # in pyro_aevb
    old: str
    new: str
    tests: tuple[str, ...]  # in tests, or in pyro_aevb for a docstring's example

    @property
    def name(self) -> str:
        """The room's file, the replacement and what it replaces, without what a test id can't have."""
        return f"{self.file.removesuffix('.py')}: {self.new or 'nothing'} for {self.old}".replace("\n", " ")[:140]

    def broken(self) -> str:
        """Return the file's text with the breakage in it; raise ``ValueError`` unless there is one place for it."""
        text = (ROOT / "pyro_aevb" / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"expected {self.old!r} once in pyro_aevb/{self.file}, got it {count} times; "
                "write the snippet in tests/mutations.py as the code has it now"
            )
        return text.replace(self.old, self.new)

    def missing_tests(self) -> list[str]:
        """Return those of ``tests`` that aren't there."""
        return [test for test in self.tests if not _exists(test)]

    def noticed(self) -> str:
        """Run the tests on a broken copy and return their last line.

        Raises ``AssertionError`` where none of them failed, and where pytest had nothing to run.
        """
        with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as name:
            folder = Path(name)
            for part in ("pyro_aevb", "tests"):
                shutil.copytree(ROOT / part, folder / part, ignore=NOT_COPIED)
            shutil.copy(ROOT / "pyproject.toml", folder)
            (folder / "pyro_aevb" / self.file).write_text(self.broken(), encoding="utf-8")
            process = PROCESSES.Process(target=_run_tests, args=(name, self.tests))
            process.start()
            process.join(timeout=600)
            process.kill()
            process.join()
            last = ((folder / "output").read_text(encoding="utf-8").strip().splitlines() or [""])[-1]
        if process.exitcode != 1:  # 0: all passed; 2 and more: a test that can't be collected, or isn't there
            raise AssertionError(
                f"expected {self.tests} to fail when pyro_aevb/{self.file} says {self.new!r} for {self.old!r}, "
                f"got exit code {process.exitcode}: {last}"
            )
        return last


def _run_tests(folder: str, tests: tuple[str, ...]) -> None:
    """End the process, which has imported nothing of the package yet, with pytest's exit code in ``folder``."""
    import pytest

    assert "pyro_aevb" not in sys.modules
    os.chdir(folder)
    with open("output", "w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for name in [name for name in os.environ if name.startswith("PYTEST")]:
        del os.environ[name]
    os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    options = ["-x", "-q", "-n", "0", "--tb=line", "--show-capture=no", "--durations=0"]
    code = int(pytest.main([*options, *(f"-pno:{plugin}" for plugin in NOT_NEEDED), *tests]))
    sys.stdout.flush()
    raise SystemExit(code)


def _exists(test: str) -> bool:
    path, _, name = test.partition("::")
    if not (ROOT / path).exists():
        return False
    functions = (n for n in ast.parse((ROOT / path).read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef))
    return not name or name.partition("[")[0] in {function.name for function in functions}


PASSES, INFOS = "tests/capture/test_graph_passes.py", "tests/learners/test_step_infos.py"
ARRAYS, SAVING = "tests/datasets/test_array_files.py", "tests/vae/test_saving.py"
FIRST = "tests/learners/test_first_updates.py"
USUAL, TRAINS = "tests/capture/test_usual_models.py", "test_it_is_captured_and_trains_as_it_does_eagerly"
SILENTLY = "tests/capture/test_stateful.py::test_no_step_differs_silently"
OBSTACLES = "tests/capture/test_obstacles.py::test_the_line_is_the_one_that_cannot_be_traced"
TERMS, HMC = "tests/objectives/test_terms.py", "tests/samplers/test_sampler_records.py"
BAYESIAN = "tests/model_guide/test_bayesian.py"
GAP = "tests/evidence/test_evidence_gap.py"
EVIDENCE, FAMILIES = "tests/evidence/test_evidence_records.py", "tests/distributions/test_families.py"
BLEND = "tests/objectives/test_blend.py"
CIRCLES = "tests/samplers/test_circles.py"
DEPENDENCE, LATENT_SPACE = "tests/model_guide/test_dependence.py", "tests/samplers/test_latent_space.py"
OBJECTIVE, DENSITY = "tests/objectives/test_objective.py", "tests/model_guide/test_log_density.py"
WEIGHTED, RANDOM = "tests/objectives/test_weighted_gradients.py", "tests/model_guide/test_random_models.py"
POSTERIOR = "tests/posterior/test_posterior.py"
VERBS = "tests/posterior/test_verbs.py"
FREE = "tests/learners/test_schedule_free.py"
IMAGES = "tests/datasets/test_image_datasets.py"
TABLES = "tests/cli/test_tables.py"
AUTO = "tests/evidence/test_auto_by_quadrature.py"
ANGLES = "tests/distributions/test_angles.py"
OBSERVED_ANGLES = "tests/posterior/test_observed_angles.py"
LIKELIHOODS, CLI = "tests/vae/test_likelihoods.py", "tests/cli/test_config_values.py"
CALIBRATION = "tests/diagnostics/test_calibration.py"
LOCAL_C2ST = "tests/diagnostics/test_local_c2st.py"

MUTATIONS = [
    Mutation(
        "model_guide/bayesian.py",
        "reversed(self._before)",
        "self._before",
        (f"{BAYESIAN}::test_a_parameter_with_two_names_is_one_latent",),
    ),
    Mutation(
        "model_guide/bayesian.py",
        "if self._site_of[name] == name}",
        "}",
        (f"{BAYESIAN}::test_a_parameter_with_two_names_is_one_latent",),
    ),
    Mutation(
        "model_guide/bayesian.py",
        "{name: value.to(parameter) for",
        "{name: value.to(parameter.device) for",
        (f"{BAYESIAN}::test_draws_from_the_prior_have_the_precision_of_the_parameters",),
    ),
    Mutation(
        "model_guide/plates.py",
        "if not isinstance(site.value, Tensor):",
        "if False:",
        ("tests/test_arguments.py::test_what_is_observed_is_a_tensor_and_the_remedy_works[list]",),
    ),
    # -- capture: the fast path is the same function ------------------------------------------------------------------
    Mutation("capture/capture.py", "a.stride(), ", "", (f"{PASSES}::test_other_strides_are_another_graph",)),
    Mutation(
        "capture/capture.py",
        "if not error <= tolerance:",
        "if not error <= 1e9:",
        ("tests/capture/test_capture.py::test_a_wrong_graph_is_refused",),
    ),
    Mutation(
        "capture/run_state.py",
        "tensor._version != version or _checksum(tensor) != checksum",
        "tensor._version != version",
        ("tests/capture/test_run_state.py::test_what_a_run_writes_is_written_once_a_call[through data-plain]",),
    ),
    Mutation(
        "capture/run_state.py",
        "tensor.shape != end.shape or torch.equal(tensor, start)",
        "tensor.shape != end.shape",
        ("tests/capture/test_run_state.py::test_a_write_that_the_graph_leaves_out_is_noticed",),
    ),
    Mutation(
        "capture/run_state.py",
        "if _place(tensor) != place]",
        "if not place]",
        ("tests/capture/test_run_state.py::test_a_tensor_that_moves_at_each_call_is_named_and_the_remedy_is_captured",),
    ),
    Mutation(
        "capture/run_state.py",
        "strides = [*map(Tensor.stride, tensors)]",
        "strides = [tensor.stride()[:0] for tensor in tensors]",
        ("tests/capture/test_run_state.py::test_the_strides_of_a_tensor_are_part_of_the_signature[a parameter-graph]",),
    ),
    Mutation(
        "capture/run_state.py",
        "*map(SHAPE, tensors), ",
        "",
        ("tests/capture/test_run_state.py::test_the_shape_of_an_own_tensor_is_part_of_the_signature[more rows]",),
    ),
    Mutation(
        "capture/run_state.py",
        ", *map(DTYPE, tensors)",
        "",
        ("tests/capture/test_run_state.py::test_the_shape_of_an_own_tensor_is_part_of_the_signature[another dtype]",),
    ),
    Mutation(
        "capture/reach.py",
        'self._visit_entry(Variable(value), None, f"{name}.get()")',
        "pass",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[context_variable]",),
    ),
    Mutation(
        "capture/reach.py",
        "            self._visit(owner_of(value), name)",
        "            pass",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[a_method_of_a_list]",),
    ),
    Mutation(
        "capture/reach.py",
        " or is_buffer(value):\n            self._visit_contents",
        ":\n            self._visit_contents",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[a_number_of_ctypes]",),
    ),
    Mutation(
        "capture/reach.py",
        "if not of_bytes or (is_array(value) and value.dtype.hasobject):",
        "if not of_bytes:",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[an_array_of_objects]",),
    ),
    Mutation(
        "capture/reach.py",
        "if is_opaque(value) or (foreign",
        "if (foreign",
        ("tests/capture/test_stateful.py::test_what_cannot_be_watched_is_named[an object of a class made from one]",),
    ),
    Mutation(
        "capture/reach.py",
        "(foreign and is_out_of_reach(value, self._within))",
        "False",
        ("tests/capture/test_stateful.py::test_what_cannot_be_watched_is_named[a large object of a package]",),
    ),
    Mutation(
        "capture/installed.py",
        "(not _is_plain(each) and is_opaque(each))",
        "False",
        ("tests/capture/test_stateful.py::test_what_cannot_be_watched_is_named[a package's object that holds one]",),
    ),
    Mutation(
        "capture/reach.py",
        'strings.add(str(fn.__globals__.get("__name__")))',
        "pass",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[ones_own_module_by_its_name]",),
    ),
    Mutation(
        "capture/reach.py",
        "if reads_modules_by_unknown_names(names, strings):",
        "if False:",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[a_module_by_a_computed_name]",),
    ),
    Mutation(
        "capture/reach.py",
        "(is_installed_file(file) and of not in self._own)",
        "False",
        ("tests/capture/test_stateful.py::test_the_code_of_installed_packages_is_not_walked",),
    ),
    Mutation(
        "capture/reach.py",
        "(is_installed_file(file) and of not in self._own)",
        "is_installed_file(file)",
        ("tests/capture/test_stateful.py::test_the_code_of_installed_packages_is_not_walked",),
    ),
    Mutation(
        "capture/reach.py",
        "                self._watch_settings(each)\n                continue",
        "                pass",
        ("tests/capture/test_stateful.py::test_the_code_of_installed_packages_is_not_walked",),
    ),
    Mutation(
        "capture/graph.py",
        ", Tensor.new)",
        ")",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[numbers_off_a_tensor]",),
    ),
    Mutation(
        "capture/capture.py",
        "*self._reads(), *hooks])",
        "*self._reads()])",
        ("tests/capture/test_stateful.py::test_the_closure_of_a_hook_of_every_module_is_watched",),
    ),
    Mutation(
        "capture/capture.py",
        '            torch.get_autocast_dtype("cpu"),\n',
        "",
        ("tests/capture/test_stateful.py::test_the_dtype_of_autocast_is_part_of_the_signature",),
    ),
    Mutation(
        "capture/graph.py",
        "    of_torch.addFilter(others)",
        "    of_torch.addFilter(lambda record: False)",
        ("tests/capture/test_capture.py::test_compiling_says_nothing_of_a_missing_gpu_and_hides_nothing_else",),
    ),
    Mutation(
        "capture/graph.py",
        "torch.autograd.set_multithreading_enabled(False), _one_fake_mode():",
        "torch.autograd.set_multithreading_enabled(False):",
        (f"{PASSES}::test_a_trace_describes_all_results_in_one_fake_mode",),
    ),
    Mutation(
        "capture/graph.py",
        "return torch.where(args[1], args[0], 0.0)",
        "return args[0]",
        (f"{USUAL}::{TRAINS}[Categorical, a class without probability-by_a_learner]",),
    ),
    Mutation(
        "capture/graph.py",
        ', "torch.distributions.distribution": True',
        "",
        (f"{USUAL}::{TRAINS}[AutoDiagonalNormal of a Bayesian network-by_a_learner]",),
    ),
    Mutation(
        "capture/python_state.py",
        "self.look()  # what is watched lies in the container that was there before",
        "pass",
        (f"{USUAL}::test_what_is_made_anew_is_the_same_and_is_watched_from_then_on[containers]",),
    ),
    Mutation(
        "capture/compared_values.py",
        "return type(value), value  # 1, 1.0 and True are equal",
        "return value",
        (f"{USUAL}::test_what_is_made_anew_with_something_else_in_it_counts[the type of a number]",),
    ),
    Mutation(
        "capture/reach.py",
        'if key != "_indices" or plate.subsample_size != plate.size:',
        'if key != "_indices":',
        (f"{USUAL}::test_what_is_made_anew_with_something_else_in_it_counts[a subsample]",),
    ),
    Mutation(
        "capture/reach.py",
        "if named or not self._sparing:",
        "if named or self._sparing:",
        ("tests/capture/test_clock.py::test_code_that_does_not_is_captured[a method that is not called]",),
    ),
    Mutation(
        "capture/reach.py",
        "self._sparing = self._sparing and not BY_NAME & self._named",
        "self._sparing = bool(self._sparing)",
        ("tests/capture/test_clock.py::test_code_that_reads_it_is_noticed[a method by its name]",),
    ),
    Mutation(
        "capture/reach.py",
        "self._visit_class(value, name)\n            self._release_constructors(value)",
        "self._visit_class(value, name)",
        ("tests/capture/test_clock.py::test_code_that_reads_it_is_noticed[a constructor of a class that is held]",),
    ),
    Mutation(
        "capture/clock.py",
        "call.argval == 0",
        "call.argval == 1",
        ("tests/capture/test_clock.py::test_code_that_reads_it_is_noticed[a new random state]",),
    ),
    Mutation(
        "capture/clock.py",
        "if always or",
        "if loaded or",
        ("tests/capture/test_clock.py::test_code_that_does_not_is_captured[a new generator with a seed]",),
    ),
    Mutation(
        "capture/clock.py",
        "if every.keys() & BY_STRINGS and (",
        "if False and (",
        ("tests/capture/test_clock.py::test_code_that_reads_it_is_noticed[an import by a string]",),
    ),
    Mutation(
        "capture/clock.py",
        "return bool(CLASSES & read)",
        "return False",
        ("tests/capture/test_clock.py::test_code_that_reads_it_is_noticed[a class kept in a variable]",),
    ),
    Mutation(
        "capture/graph.py",
        ", _FixedSizes():",
        ":",
        (f"{OBSTACLES}[nonzero]",),
    ),
    Mutation(
        "capture/graph.py",
        ", Tensor.__dlpack__)",
        ")",
        (f"{OBSTACLES}[an array that shares memory]",),
    ),
    Mutation(
        "capture/capture.py",
        "found = [(fn.__code__.co_filename, line) for fn in state.functions",
        'found = [("", line) for fn in state.functions',
        (f"{OBSTACLES}[pythons random]",),
    ),
    Mutation(
        "capture/reach.py",
        "if key in self._named:",
        "if not self._named:",
        (f"{USUAL}::test_an_automatic_guides_plates_count_where_the_users_code_names_them",),
    ),
    Mutation(
        "capture/graph_passes.py",
        "aten.relu.default",
        "aten.abs.default",
        (f"{PASSES}::test_bernoulli_densities_in_float32[plain]",),
    ),
    Mutation(
        "capture/graph_passes.py",
        '"tanh" if fused else "none"',
        '"none"',
        (f"{PASSES}::test_large_products_in_float32[plain]",),
    ),
    Mutation(
        "capture/graph_passes.py",
        "node.target is aten.bernoulli.default",
        "node.target is None",
        (f"{PASSES}::test_draws_in_float32_are_those_of_the_eager_run[inductor]",),
    ),
    Mutation(
        "capture/precision.py",
        "aten.convolution.default: (0, 1, 2),",
        "",
        (f"{PASSES}::test_convolutions_of_bfloat16_factors[False]",),
    ),
    Mutation(
        "capture/precision.py",
        "aten.mm.default: (0, 1),",
        "",
        ("tests/capture/test_capture.py::test_bfloat16_products[False]",),
    ),
    Mutation(
        "capture/graph.py",
        "TracingContext(FakeTensorMode(shape_env=ShapeEnv()))",
        "TracingContext(FakeTensorMode())",
        ("tests/capture/test_capture.py::test_what_was_compiled_once_is_found_again",),
    ),
    Mutation(
        "capture/reach.py",
        "self.watched.add_size(mapping, size)",
        "self.watched.add_size({}, size)",
        ("tests/capture/test_capture.py",),
    ),
    Mutation(
        "capture/watched_values.py",
        "values += map(REQUIRES_GRAD, self.tensors)",
        "values += [False for _ in self.tensors]",
        ("tests/capture/test_stateful.py::test_weights_that_thaw_are_trained_from_then_on[by pyro.module]",),
    ),
    Mutation(
        "capture/reach.py",
        "            self.watched.add_tensor(value, name)",
        "            _ = isinstance(value, nn.Parameter) or self.watched.add_tensor(value, name)",
        ("tests/capture/test_stateful.py::test_a_frozen_weight_that_a_run_writes_is_written_once_a_step",),
    ),
    Mutation(
        "capture/capture.py",
        "if is_sparse(gradient)]",
        "if gradient is None]",
        ("tests/capture/test_stateful.py::test_a_sparse_gradient_is_trained_on_eagerly",),
    ),
    Mutation(
        "capture/reach.py",
        "self._visit(value(), name)",
        "None",
        ("tests/capture/test_stateful.py::test_a_weak_reference_is_followed_and_one_that_cannot_be_is_named",),
    ),
    Mutation(
        "capture/graph.py",
        "torch.Tag.data_dependent_output in func.tags and",
        "torch.Tag.data_dependent_output not in func.tags and",
        (f"{OBSTACLES}[a slice]",),
    ),
    Mutation(
        "capture/graph.py",
        "elif func not in FROM_LISTS:",
        "elif func is not torch.as_tensor:",
        (f"{OBSTACLES}[a list of numbers]",),
    ),
    Mutation(
        "capture/graph.py",
        "*(Tensor.__repr__, ",
        "*(",
        (f"{OBSTACLES}[text]",),
    ),
    Mutation(
        "capture/reach.py",
        "found = self._named & vars(module).keys()",
        "found = set[str]()",
        (f"{SILENTLY}[module_in_a_closure]", f"{SILENTLY}[counter_in_a_module_of_a_package]"),
    ),
    Mutation(
        "capture/watched_values.py",
        "values += itertools.chain.from_iterable(self._classes)",
        "values += [None for each in self._classes for _ in each]",
        (f"{SILENTLY}[method_replaced_on_its_class]",),
    ),
    Mutation(
        "capture/watched_values.py",
        "values += map(type, self._objects)",
        "values += [None for _ in self._objects]",
        (f"{SILENTLY}[class_of_an_object]",),
    ),
    Mutation(
        "capture/reach.py",
        "for variable in undefined_globals(fn):",
        "for variable in ():",
        (f"{SILENTLY}[global_that_is_defined_later]",),
    ),
    Mutation(
        "capture/reach.py",
        "if key in MODULE_SLOTS or key in PYROS_SLOTS:",
        "if key in MODULE_SLOTS:",
        (f"{SILENTLY}[prior_of_a_weight]",),
    ),
    Mutation(
        "capture/state_numbers.py",
        "self._changes[name] > MOST_VALUES",
        "self._changes[name] > 1000 * MOST_VALUES",
        ("tests/learners/test_readings.py::test_values_that_go_on_changing_cost_no_readings",),
    ),
    Mutation(
        "capture/state_numbers.py",
        "if name in now and (dead or now[name] != value))",
        "if False)",
        (
            "tests/capture/test_state_numbers.py::"
            "test_a_value_that_goes_on_changing_no_longer_tells_states_apart_but_others_do",
        ),
    ),
    # -- datasets -----------------------------------------------------------------------------------------------------
    Mutation(
        "data_parts.py",
        "    if not array.dtype.isnative:\n",
        "    if False:\n",
        ("tests/test_data_source.py::test_bytes_in_the_other_order_are_the_same_numbers",),
    ),
    Mutation(
        "vae/checks.py",
        "if value.is_floating_point() else",
        "if True else",
        ("tests/test_data_source.py::test_data_of_another_dtype_are_refused_with_remedies_that_work[bool-1]",),
    ),
    Mutation(
        "data_source.py",
        "return not isinstance(sampler, SequentialSampler)",
        "return False",
        (
            "tests/model_guide/test_places.py::test_one_minibatch_of_a_shuffled_loader_is_refused_and_the_remedy_works",
            "tests/model_guide/test_places.py::test_an_evaluation_takes_all_of_the_data_at_once",
        ),
    ),
    Mutation(
        "data_source.py",
        "return number - (number % batches.batch_size if batches.drop_last else 0)",
        "return number",
        ("tests/training/test_validation.py::test_a_loader_tells_its_length",),
    ),
    Mutation(
        "data_source.py",
        "and loader.collate_fn is torchs_collate",
        "",
        ("tests/training/test_validation.py::test_a_loader_with_a_collate_function_of_ones_own_does_not",),
    ),
    Mutation(
        "evaluation_data.py",
        "    tell_of_order(source)\n    found = list(",
        "    found = list(",
        ("tests/evidence/test_kinds_of_data.py::test_a_loader_that_shuffles_is_told_of",),
    ),
    Mutation(
        "posterior/data.py",
        "    tell_of_order(source)\n",
        "",
        ("tests/evidence/test_kinds_of_data.py::test_a_loader_that_shuffles_is_told_of",),
    ),
    Mutation(
        "data_parts.py",
        "if isinstance(part, Placed):",
        "if isinstance(part, Tensor):",
        ("tests/test_data_source.py::test_drawn_pixels_lie_where_they_are_sent_and_so_do_their_indices",),
    ),
    Mutation(
        "datasets/pixels.py",
        "_uniform(rows) < rows",
        "torch.full_like(rows, 0.5) < rows",
        (f"{IMAGES}::test_pixels",),
    ),
    Mutation(
        "datasets/pixels.py",
        "& 0xFFFFFF) * 2.0**-24",
        "& 0xFF) * 2.0**-8",
        (f"{IMAGES}::test_pixels_are_drawn_with_the_probability_of_their_grey_level_apart_from_each_other",),
    ),
    Mutation(
        "datasets/pixels.py",
        "torch.empty((like.numel() + 1) // 2",
        "torch.empty(like.numel() // 2",
        (f"{IMAGES}::test_as_many_pixels_are_drawn_as_there_are",),
    ),
    Mutation("datasets/pixels.py", "images > 0.5", "images > 0.0", (f"{IMAGES}::test_pixels",)),
    Mutation(
        "datasets/image_datasets.py",
        "load_digits().data / 16.0",
        "load_digits().data / 15.0",
        ("tests/datasets/test_image_datasets.py::test_digits_come_with_scikit_learn",),
    ),
    Mutation(
        "datasets/columns.py",
        "if not (math.isfinite(loc) and SMALLEST < scale < math.inf):",
        "if not loc == loc:",
        ("tests/datasets/test_table.py::test_numbers_whose_squares_no_float_has_are_told_why_and_the_remedy_works",),
    ),
    Mutation(
        "datasets/columns.py",
        "(not 0 <= value <= MOST_COUNTED or",
        "(not 0 <= value or",
        ("tests/datasets/test_table.py::test_counts_that_float32_would_round_are_refused",),
    ),
    # -- distributions ------------------------------------------------------------------------------------------------
    Mutation(
        "distributions/inverse_cdf.py",
        "self.scale * (-2 * torch.log1p(-value)).sqrt()",
        "self.scale * (-torch.log1p(-value)).sqrt()",
        (f"{FAMILIES}::test_cdf_and_its_inverse_are_scipys",),
    ),
    Mutation(
        "distributions/inverse_cdf.py",
        "y.log() - self.scale.log() - 0.5 * y.square()",
        "y.log() - 0.5 * y.square()",
        (f"{FAMILIES}::test_density_integrates_to_one",),
    ),
    Mutation(
        "distributions/discretized_logistic.py",
        "torch.where(value <= 0, 0.0, F.logsigmoid(-lower))",
        "F.logsigmoid(-lower)",
        (f"{LIKELIHOODS}::test_discretized_logistic",),
    ),
    Mutation(
        "distributions/autoregressive_spline.py",
        "Distribution._validate_args, Distribution.arg_constraints = before",
        "pass",
        ("tests/distributions/test_autoregressive_spline.py::test_distributions_are_validated_as_before",),
    ),
    Mutation(
        "vae/labels.py",
        "with poutine.condition(data={Y: label}):",
        "with poutine.block(hide=[]):",
        ("tests/vae/test_labels.py::test_a_manifold_of_one_label",),
    ),
    Mutation(
        "vae/verbs.py",
        "found = torch.where(label < 0, found, label)",
        "found = label",
        ("tests/vae/test_labels.py::test_x_is_traversed_and_interpolated_with_its_label",),
    ),
    Mutation(
        "posterior/denoise.py",
        "reading = read(its_model, its_guide, first)",
        "reading = read(its_model, None, first)",
        ("tests/vae/test_labels.py::test_a_clean_x_is_that_of_all_labels_or_of_its_own",),
    ),
    Mutation(
        "cli/trained_run.py",
        "for site in self.vae.hierarchy.sites}",
        'for site in ["z"]}',
        ("tests/cli/test_tables.py::test_a_table_is_reconstructed_from_all_layers_of_latents",),
    ),
    Mutation(
        "cli/trained_run.py",
        "names = [of_class] if of_class is not None else self.classes",
        "names = self.classes",
        ("tests/cli/test_classes.py::test_draws_are_of_a_class_or_of_each_in_turn",),
    ),
    Mutation(
        "distributions/from_cdf.py",
        "(residual - residual.detach()) / density",
        "(residual - residual.detach()) * density",
        (f"{FAMILIES}::test_from_cdf_finds_every_scale_and_its_gradient",),
    ),
    Mutation(
        "distributions/table.py",
        "torch.where(self.observed, terms, 0.0)",
        "terms",
        ("tests/vae/test_columns.py::test_log_prob_is_the_sum_of_the_observed_columns",),
    ),
    Mutation(
        "distributions/kl.py",
        "isinstance(_inside(fn), kind) for fn",
        "isinstance(fn, kind) for fn",
        ("tests/distributions/test_kl.py::test_a_uniform_and_a_continuous_bernoulli_have_no_closed_form",),
    ),
    # -- evidence -----------------------------------------------------------------------------------------------------
    Mutation(
        "evidence/elbo.py",
        "draws.std(0) / len(draws) ** 0.5",
        "draws.std(0) / len(draws)",
        (f"{EVIDENCE}::test_the_elbo_and_its_standard_error",),
    ),
    Mutation(
        "evidence/estimates.py",
        "self.value.std().item() / n**0.5",
        "self.value.std().item()",
        (f"{EVIDENCE}::test_a_mean_over_datapoints_has_the_error_of_a_mean",),
    ),
    Mutation(
        "evidence/estimates.py",
        "pareto_k[~pareto_k.isnan()]",
        "pareto_k.nan_to_num(-torch.inf)",
        (f"{EVIDENCE}::test_a_line_says_how_heavy_the_tails_are",),
    ),
    Mutation(
        "evidence/cubature.py",
        "done(torch.where(going, falling, 1.0).mean().item())",
        "pass",
        ("tests/evidence/test_cubature.py::test_the_progress_of_an_integral_is_told_on_its_way",),
    ),
    Mutation(
        "evidence/quadrature.py",
        "self._share = max(self._share, share)",
        "self._share = share",
        ("tests/evidence/test_cubature.py::test_progress_that_falls_back_is_told_once",),
    ),
    Mutation(
        "evidence/estimates.py",
        "torch.hypot(self.standard_error, self.upper.standard_error)",
        "self.standard_error + self.upper.standard_error",
        (f"{EVIDENCE}::test_both_sides_of_bidirectional_monte_carlo",),
    ),
    Mutation(
        "evidence/annealing.py",
        'Evidence(value, widened(error, num_chains), "lower", ess)',
        'Evidence(value, widened(error, num_chains), "lower", 0 * ess)',
        (f"{EVIDENCE}::test_the_effective_sample_size_of_annealing_is_not_more_than_its_chains",),
    ),
    Mutation(
        "evidence/annealing.py",
        'exact, tuned, "upper", third',
        'exact, tuned, "lower", third',
        (f"{EVIDENCE}::test_both_sides_of_bidirectional_monte_carlo",),
    ),
    Mutation(
        "evidence/annealing.py",
        "schedule, sizes = self.annealing.betas().flip(0)",
        "schedule, sizes = self.annealing.betas()",
        (f"{EVIDENCE}::test_both_sides_of_bidirectional_monte_carlo",),
    ),
    Mutation(
        "evidence/annealing.py",
        "_drawn_by_weight(tuned.position, tuned.log_weight)",
        "tuned.position",
        ("tests/evidence/test_annealing.py::test_the_ends_of_annealed_chains_are_drawn_by_their_weights",),
    ),
    Mutation(
        "evidence/annealing.py",
        "for _ in range(length):",
        "for _ in range(1):",
        ("tests/evidence/test_annealing.py::test_reverse_chains_begin_at_the_posterior_however_bad_annealing_was",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "torch.hypot(a.standard_error",
        "3 * torch.hypot(a.standard_error",
        (f"{EVIDENCE}::test_every_error_of_the_gap_is_the_closed_form",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "batch[plate.dim] = plate.size",
        "batch[plate.dim] = 1",
        (f"{GAP}::test_offsets_are_a_datapoint_s_own_whichever_side_its_plate_is_on",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "torch.allclose(again.log_prob(z), fn.log_prob(z), rtol=1e-3, atol=1e-3)",
        "True",
        (f"{GAP}::test_a_distribution_that_its_parameters_do_not_make_again_is_refused",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "not site.fn.has_rsample or leaf.support",
        "leaf.support",
        (f"{GAP}::test_a_site_whose_parameters_cannot_be_set_free_is_refused",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "learning_rate: float = 0.05",
        "learning_rate: float = 0.01",
        (f"{GAP}::test_the_learning_rate_by_default_brings_home_a_guide_that_is_far_off",),
    ),
    Mutation(
        "evidence/evidence_gap.py",
        "num_steps=(num_steps, 500), ",
        "",
        ("tests/test_arguments.py::test_an_option_of_the_gap_that_could_be_an_argument_of_the_model_is_told",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "self._sum.log() - math.log(k)",
        "self._sum.log()",
        (f"{EVIDENCE}::test_a_log_mean_weight_by_hand",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "torch.where(outweighed, torch.inf, -torch.inf)",
        "torch.where(outweighed, -torch.inf, -torch.inf)",
        ("tests/evidence/test_marginal_likelihood.py::test_a_few_weights_that_outweigh_the_rest_are_a_heavy_tail",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "self._sum_of_squares * rescale**2",
        "self._sum_of_squares * rescale",
        ("tests/evidence/test_marginal_likelihood.py::test_sums_of_weights_arrive_in_any_pieces",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "excess = weight[:-1] - weight[-1]",
        "excess = weight[:-1]",
        (f"{EVIDENCE}::test_pareto_k_of_weights_that_are_pareto",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "torch.arange(0.5, above)",
        "torch.arange(1.0, above + 1)",
        ("tests/evidence/test_marginal_likelihood.py::test_smoothed_weights_are_those_of_psis[1.0]",),
    ),
    Mutation(
        "evidence/posterior_density.py",
        "log_mean(by_chain).result()",
        "log_mean(log_weight.flatten(0, 1)).result()",
        (f"{EVIDENCE}::test_the_error_of_the_posterior_density_is_that_over_chains",),
    ),
    Mutation(
        "evidence/cubature.py",
        "error=torch.maximum(cells.error, cells.value)",
        "error=cells.error",
        (f"{EVIDENCE}::test_the_error_of_quadrature_is_below_its_tolerance",),
    ),
    Mutation(
        "evidence/cubature.py",
        "blind = peak > top + BLIND",
        "blind = peak > peak + BLIND",
        ("tests/evidence/test_cubature.py::test_no_mode_is_lost_in_silence[narrowly squared]",),
    ),
    Mutation(
        "evidence/quadrature.py",
        "if not settled.all():",
        "if False:",
        (f"{EVIDENCE}::test_values_that_do_not_settle_are_warned_about",),
    ),
    Mutation(
        "evidence/posterior_density.py",
        "NARROWED**0.5 * _factor(samples)",
        "NARROWED * _factor(samples)",
        ("tests/evidence/test_posterior_density.py::test_the_fitted_gaussian_is_somewhat_narrower_than_the_samples",),
    ),
    Mutation(
        "samplers/smc.py",
        "torch.where(uneven, total - math.log(size), 0.0)",
        "torch.where(uneven, total, 0.0)",
        ("tests/evidence/test_smc.py::test_unbiased_where_the_temperatures_are_few",),
    ),
    Mutation(
        "samplers/smc.py",
        "state.log_prob.gather(0, index),",
        "state.log_prob,",
        ("tests/evidence/test_smc.py::test_unbiased_where_the_temperatures_are_few",),
    ),
    Mutation(
        "samplers/smc.py",
        "_interpolated(place, work, own)",
        "_interpolated(place, work.mean(1, keepdim=True).expand_as(work).contiguous(), own)",
        ("tests/samplers/test_smc.py::test_a_ladder_is_its_datapoint_s_alone",),
    ),
    Mutation(
        "evidence/smc.py",
        "widened(error, self.num_replicates)",
        "error",
        ("tests/evidence/test_smc.py::test_the_error_is_that_of_replicates",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "student_quantile(num_weights - 1) / NORMAL_QUANTILE",
        "student_quantile(num_weights) / NORMAL_QUANTILE",
        ("tests/evidence/test_coverage.py::test_intervals_from_few_weights_cover_the_mean",),
    ),
    Mutation(
        "evidence/auto.py",
        "relied_on(tail, sums.num_particles, self.largest_pareto_k) & value.isfinite()",
        "value.isfinite()",
        ("tests/evidence/test_auto.py::test_half_of_the_datapoints_are_annealed",),
    ),
    Mutation(
        "evidence/importance_weights.py",
        "shape + 2 * error <= bound",
        "shape <= bound",
        ("tests/evidence/test_auto.py::test_a_heavy_tail_passes_by_chance_as_rarely_as_two_errors_say",),
    ),
    Mutation(
        "evidence/auto.py",
        "sums.num_particles, self.largest_pareto_k)",
        "sums.num_particles)",
        ("tests/evidence/test_auto.py::test_the_shape_of_a_tail_is_two_errors_below_the_bound",),
    ),
    Mutation(
        "evidence/auto.py",
        "getattr(annealed, field)[places]",
        "getattr(annealed, field)[places.flip(0)]",
        ("tests/evidence/test_auto.py::test_half_of_the_datapoints_are_annealed",),
    ),
    Mutation(
        "evidence/auto.py",
        "found = narrower(reading, problem.model, problem.args)",
        "found = None",
        ("tests/model_guide/test_guide_supports.py::test_auto_leaves_such_a_guide_out",),
    ),
    Mutation(
        "evidence/marginal_likelihood.py",
        "if not reading.latents.keys() - set(names) and",
        "if not reading.latents and",
        ("tests/evidence/test_marginal_likelihood.py::test_where_all_latents_are_summed_out_log_p_is_exact",),
    ),
    Mutation(
        "evidence/cubature.py",
        "if (log_f == torch.inf).any():",
        "if False:",
        ("tests/evidence/test_cubature.py::test_a_density_that_overflows_is_refused_and_float64_works",),
    ),
    Mutation(
        "evidence/global_draws.py",
        "_heaviest([sums.pareto_k(), *(",
        "_heaviest([*(",
        (
            "tests/evidence/test_global_latents.py"
            "::test_weights_of_few_global_draws_are_warned_about_and_more_of_them_are_enough",
        ),
    ),
    Mutation(
        "evidence/marginal_likelihood.py",
        "few = (ess < SMALLEST_SIZE) &",
        "few = (ess < 1) &",
        (
            "tests/evidence/test_annealing.py"
            "::test_a_single_chain_that_is_most_of_an_estimate_is_warned_about_and_the_remedy_works[AIS]",
        ),
    ),
    Mutation(
        "evidence/quadrature.py",
        "except LatentsError:  # of some rows by themselves\n                found = by(self._by_particles)",
        "except LatentsError:\n                raise",
        (
            "tests/evidence/test_cubature.py"
            "::test_rows_that_have_fewer_latents_by_themselves_are_run_in_the_minibatch[longest first]",
        ),
    ),
    Mutation(
        "samplers/latent_space.py",
        "self._particles(u))\n        reading.require_latents(self._shapes)",
        "self._particles(u))",
        (
            "tests/evidence/test_cubature.py"
            "::test_rows_that_have_fewer_latents_by_themselves_are_run_in_the_minibatch[longest first]",
        ),
    ),
    # -- one thread ---------------------------------------------------------------------------------------------------
    Mutation(
        "objectives/objective.py",
        "@one_thread",
        "",
        ("tests/test_one_thread.py::test_every_door_tells_a_second_thread[terms]",),
    ),
    Mutation(
        "posterior/encode.py",
        "@one_thread\ndef encode(",
        "def encode(",
        ("tests/test_one_thread.py::test_a_second_thread_that_encodes_is_told",),
    ),
    Mutation(
        "one_thread.py",
        "if running != mine:",
        "if False:",
        ("tests/test_one_thread.py::test_every_door_tells_a_second_thread",),
    ),
    Mutation(
        "one_thread.py",
        "if _running.get(process) is mine:",
        "if running is None:",
        ("tests/test_one_thread.py::test_it_ends_with_an_error",),
    ),
    Mutation(
        "one_thread.py",
        "process, mine = os.getpid(),",
        "process, mine = 0,",
        ("tests/test_one_thread.py::test_a_forked_process_begins_with_nobody_in",),
    ),
    # -- warnings -----------------------------------------------------------------------------------------------------
    Mutation(
        "warning.py",
        "frame.f_back, level + 1",
        "frame.f_back, level",
        ("tests/test_warning.py::test_a_warning_names_the_callers_line",),
    ),
    # -- files --------------------------------------------------------------------------------------------------------
    Mutation(
        "files/atomic.py",
        "os.fsync(file.fileno())",
        "pass",
        ("tests/vae/test_saving.py::test_the_file_is_on_the_disk_before_it_has_its_name",),
    ),
    Mutation(
        "files/safetensors_state.py",
        "return tuple(_decode(v, tensors) for v in content)",
        "return [_decode(v, tensors) for v in content]",
        ("tests/files/test_safetensors_state.py::test_a_state_comes_back_with_its_types",),
    ),
    # -- learners -----------------------------------------------------------------------------------------------------
    Mutation(
        "learners/fused_adam.py",
        "if not same(_held(self._state), self._held):",
        "if False:",
        ("tests/learners/test_fused_adam.py::test_the_bits_are_those_of_torch",),
    ),
    Mutation(
        "learners/optimizer.py",
        "if not any(id(parameters[name].unconstrained) in held for name in names):",
        "if False:",
        (
            "tests/learners/test_optimizer.py::"
            "test_an_optimizer_that_would_train_nothing_is_refused_and_the_remedy_works[others']",
        ),
    ),
    Mutation(
        "learners/finite_parameters.py",
        "if self._updates > FIRST_UPDATES:",
        "if True:",
        (
            "tests/learners/test_finite_parameters.py::"
            "test_a_gradient_of_the_first_steps_is_refused_and_the_remedy_works[False]",
        ),
    ),
    Mutation(
        "learners/learner.py",
        "        self._losses.read()\n        self._finite.look()\n",
        "        self._losses.read()\n",
        ("tests/learners/test_finite_parameters.py::test_no_checkpoint_holds_parameters_that_are_not_finite",),
    ),
    Mutation(
        "learners/trained_pair.py",
        "arrangement = form, self._numbers.of(self._state)",
        "arrangement = form, 0",
        ("tests/learners/test_readings.py::test_dreams_are_of_what_the_model_observes_now[wake-sleep]",),
    ),
    Mutation(
        "learners/readings.py",
        "if plate is not self._plate:",
        "if True:",
        ("tests/learners/test_readings.py::test_n_is_what_the_plate_says_now[at every step-graph]",),
    ),
    Mutation(
        "learners/optimizer.py",
        "self._optimizer(distinct_leaves(parameters.values()))",
        "self._optimizer([p.unconstrained for p in parameters.values()])",
        ("tests/learners/test_optimizer.py::test_a_leaf_with_two_names_is_updated_once[optimizer1]",),
    ),
    Mutation(
        "learners/presets.py",
        "if guide and self.guide_learning_rate is not None",
        "if self.guide_learning_rate is not None",
        ("tests/learners/test_presets.py::test_a_learner_without_optimizers_has_those_of_its_preset[mcem]",),
    ),
    Mutation(
        "learners/presets.py",
        "    if chosen:\n",
        "    if False:\n",
        ("tests/learners/test_presets.py::test_one_tuned_optimizer_beside_ones_own_is_refused",),
    ),
    Mutation(
        "learners/schedules.py",
        "((1 - done) / (1 - self.warm_up))",
        "(1 - done)",
        ("tests/learners/test_presets.py::test_a_schedule_is_what_it_says",),
    ),
    Mutation(
        "training/fit.py",
        "learner.schedule if chosen is None else chosen",
        "chosen",
        ("tests/learners/test_presets.py::test_the_presets_schedule_is_fits_unless_told_otherwise[aevb]",),
    ),
    Mutation(
        "cli/build.py",
        "rate, guide_rate = config.learning_rate, None",
        "rate = config.learning_rate",
        ("tests/cli/test_build.py::test_a_fields_value_reaches_what_it_configures[learning_rate-0.25-mcem-train]",),
    ),
    Mutation(
        "learners/wake_sleep.py",
        "(log_joint - reading.total(",
        "(log_joint + reading.total(",
        (f"{INFOS}::test_wake_sleep",),
    ),
    Mutation(
        "learners/dreams.py",
        "poutine.replay(self._guide, trace=dream)",
        "self._guide",
        (f"{INFOS}::test_the_means_of_wake_sleep_are_the_closed_forms",),
    ),
    Mutation(
        "learners/reweighted_wake_sleep.py",
        "            bound.mean() + global_part,",
        "            log_weight.min(0).values.mean() + global_part,",
        (f"{INFOS}::test_reweighted_wake_sleep",),
    ),
    Mutation(
        "learners/reweighted_wake_sleep.py",
        "particles.expected(log_weight).detach().mean() + global_part",
        "particles.expected(log_weight).detach().sum() + global_part",
        (f"{INFOS}::test_reweighted_wake_sleep",),
    ),
    Mutation(
        "learners/reweighted_wake_sleep.py",
        "torch.softmax(each, 0)",
        "torch.softmax(each.flatten(), 0).view_as(each)",
        (f"{INFOS}::test_reweighted_wake_sleep",),
    ),
    Mutation(
        "learners/mcem.py",
        "torch.tensor(step_size)",
        "-torch.tensor(step_size)",
        (f"{INFOS}::test_the_acceptance_and_the_step_size_of_mcem",),
    ),
    Mutation(
        "learners/mcem.py",
        "return loss, -loss / self.dataset_size",
        "return loss, -loss",
        (f"{INFOS}::test_the_bound_of_the_guide_beside_mcem",),
    ),
    Mutation(
        "learners/mcem.py",
        "{n: p for n, p in self.phi.items() if n not in self.theta}",
        "self.theta | self.phi",
        ("tests/learners/test_mcem.py::test_phi_moves_and_theta_does_not_when_only_the_guide_is_trained",),
    ),
    Mutation(
        "learners/optimizer.py",
        '                group["lr"] = rate\n\n    def settings',
        "                pass\n\n    def settings",
        ("tests/training/test_fit.py::test_a_run_with_every_option_leaves_only_what_was_learned",),
    ),
    Mutation(
        "learners/learner.py",
        "self._computation.put(before)",
        "pass",
        ("tests/training/test_fit.py::test_what_a_run_set_ends_when_it_fails",),
    ),
    Mutation(
        "learners/aevb.py",
        "-negative_bound / self.dataset_size",
        "-loss / self.dataset_size",
        (f"{INFOS}::test_aevb",),
    ),
    Mutation(
        "learners/fused_adam.py",
        'beta2=options["betas"][1]',
        'beta2=options["betas"][0]',
        ("tests/learners/test_fused_adam.py::test_the_bits_are_those_of_torch",),
    ),
    Mutation(
        "learners/learner.py",
        "            optimizer.to_train()\n",
        "            pass\n",
        (f"{FREE}::test_steps_are_those_of_its_own_loop_and_leave_the_means_in_place",),
    ),
    Mutation(
        "learners/learner.py",
        "        finally:\n            self.to_use()\n",
        "        finally:\n            pass\n",
        (f"{FREE}::test_two_phases_have_each_their_means",),
    ),
    Mutation("learners/optimizer.py", ", *COUNTED}", "}", (f"{FREE}::test_how_far_it_is_is_no_setting",)),
    # -- model_guide --------------------------------------------------------------------------------------------------
    Mutation(
        "model_guide/modes.py",
        "                buffer.copy_(value)",
        "                pass",
        ("tests/model_guide/test_modes.py::test_what_a_forward_does_to_buffers_is_undone[through data-seen]",),
    ),
    Mutation(
        "model_guide/modes.py",
        "                buffer.data = memory",
        "                pass",
        ("tests/model_guide/test_modes.py::test_what_a_forward_does_to_buffers_is_undone[another storage-seen]",),
    ),
    Mutation(
        "model_guide/modes.py",
        "            self.module._buffers.update(self._buffers)",
        "            pass",
        ("tests/model_guide/test_modes.py::test_what_a_forward_does_to_buffers_is_undone[replaced-named]",),
    ),
    Mutation(
        "model_guide/modes.py",
        "            del self.module._buffers[name]",
        "            pass",
        ("tests/model_guide/test_modes.py::test_what_a_forward_does_to_buffers_is_undone[registered-seen]",),
    ),
    Mutation(
        "model_guide/modes.py",
        "if buffer._version != version if is_tracing() else not _is_equal(buffer, value):",
        "if True:",
        ("tests/model_guide/test_modes.py::test_what_an_evaluation_gives_can_be_differentiated_through_its_buffers",),
    ),
    Mutation(
        "model_guide/modes.py",
        "buffer._version != version if is_tracing() else not _is_equal(buffer, value)",
        "not _is_equal(buffer, value)",
        (
            "tests/model_guide/test_modes.py::test_a_density_of_modules_with_buffers_is_traced_and_leaves_what_they_count_as_it_was",
        ),
    ),
    Mutation(
        "model_guide/modes.py",
        "return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())",
        "return torch.equal(a, b)",
        ("tests/model_guide/test_modes.py::test_what_an_evaluation_gives_can_be_differentiated_through_its_buffers",),
    ),
    Mutation(
        "model_guide/marks.py",
        "if argument.alias_info is not None and argument.alias_info.is_write:",
        "if argument.alias_info is None and not names:",
        (f"{DEPENDENCE}::test_what_a_latent_is_computed_from_is_seen_however_it_is_written[a list in place]",),
    ),
    Mutation(
        "model_guide/marks.py",
        "if func in TO_PYTHON:",
        "if func is None:",
        (f"{DEPENDENCE}::test_what_a_latent_is_computed_from_is_seen_however_it_is_written[numpy]",),
    ),
    Mutation(
        "model_guide/marks.py",
        "elif leaf is not None:",
        "elif leaf == '':",
        (f"{DEPENDENCE}::test_what_a_latent_is_computed_from_is_seen_however_it_is_written[floats]",),
    ),
    Mutation(
        "model_guide/sites.py",
        'log_prob(value)), node["scale"], node["mask"])',
        'log_prob(value)), node["scale"])',
        (f"{DEPENDENCE}::test_the_bound_under_a_mask_that_is_computed_from_a_latent_is_the_one_by_hand",),
    ),
    Mutation(
        "model_guide/sites.py",
        'log_prob(value)), node["scale"], node["mask"])',
        'log_prob(value)), mask=node["mask"])',
        (f"{DEPENDENCE}::test_a_mask_and_a_scale_that_are_computed_from_a_latent_are_parts_of_what_depends_on_it",),
    ),
    Mutation(
        "model_guide/dependence.py",
        "            set_torch_state(noise)\n",
        "",
        (f"{DEPENDENCE}::test_a_number_that_is_only_looked_at_makes_no_child",),
    ),
    Mutation(
        "model_guide/dependence.py",
        "return value + 1 if stays else value",
        "return value",
        (f"{DEPENDENCE}::test_a_latent_whose_values_a_model_refuses_counts_as_one_of_which_the_rest_is_computed",),
    ),
    Mutation(
        "model_guide/structure.py",
        "mixed = mixed or (_mixed(model, guide, args, kwargs, reading.depth, outside, modules) if several else None)",
        "pass",
        (f"{DEPENDENCE}::test_a_gate_that_begins_at_nought_hides_no_mixing_of_particles_and_the_remedy_works",),
    ),
    Mutation(
        "model_guide/structure.py",
        "apart &= _apart(model, guide, args, kwargs, reading, modules, apart)",
        "pass",
        (f"{DEPENDENCE}::test_a_gate_that_begins_at_nought_hides_no_mixing_of_a_plates_entries",),
    ),
    Mutation(
        "model_guide/structure.py",
        "numbers = ~(term[0].isnan() | together[name][k].isnan())",
        "numbers = term[0] == term[0]",
        (f"{DEPENDENCE}::test_other_parameters_that_a_pair_does_not_take_are_no_witness[is_no_number]",),
    ),
    Mutation(
        "model_guide/moved_parameters.py",
        "        leaf.data = value\n",
        "        pass\n",
        (
            f"{DEPENDENCE}::test_parameters_are_put_back_where_the_look_is_broken_off",
            f"{DEPENDENCE}::test_a_pair_is_as_it_was_after_a_look_at_it_with_other_parameters",
        ),
    ),
    Mutation(
        "samplers/latent_space.py",
        "check_repeats(model, lambda: self.log_joint(u, *args))",
        "pass",
        (f"{LATENT_SPACE}::test_a_model_with_random_numbers_of_its_own_is_refused_where_its_log_joint_is_a_function",),
    ),
    Mutation(
        "samplers/latent_space.py",
        "    with evaluated(model, None):\n        first, again",
        "    if True:\n        first, again",
        (f"{LATENT_SPACE}::test_what_is_random_in_training_alone_is_left_alone",),
    ),
    Mutation(
        "samplers/latent_space.py",
        '            self._indices[msg["name"]] = msg["value"]',
        "            pass",
        ("tests/model_guide/test_places.py::test_indices_that_a_plate_draws_are_nobodys",),
    ),
    Mutation(
        "evidence/summed.py",
        "check_repeats(problem.model, lambda: log_density(problem.model, _nothing, *problem.args).log_joint)",
        "pass",
        (f"{LATENT_SPACE}::test_where_all_latents_are_summed_out_too",),
    ),
    Mutation(
        "model_guide/structure.py",
        "else known.states.of(PythonState([model, guide]))",
        "else 0",
        ("tests/objectives/test_objective.py::test_closed_forms_are_those_of_the_pair_as_it_is_now[Blend]",),
    ),
    Mutation(
        "model_guide/log_density.py",
        "return self.log_joint - self.log_q",
        "return self.log_joint + self.log_q",
        (f"{DENSITY}::test_log_joint_and_log_q_are_the_closed_form",),
    ),
    Mutation(
        "model_guide/dependence.py",
        "if places[name] > first]",
        "if places[name] > len(places)]",
        ("tests/model_guide/test_plates.py::test_what_depends_on_latents_in_the_plate_is_refused_outside_of_it",),
    ),
    Mutation(
        "model_guide/plate_sizes.py",
        "if follows and sizes.get(reading.plate.name) == size:",
        "if follows and not size:",
        (
            "tests/model_guide/test_plates.py::test_a_last_minibatch_of_as_many_rows_as_an_inner_plate_is_refused",
            "tests/model_guide/test_plates.py::test_it_is_refused_in_training_and_the_remedies_work",
        ),
    ),
    Mutation(
        "evidence/estimator.py",
        "if len(batch[0]) in sizes.values():",
        "if False:",
        ("tests/model_guide/test_plates.py::test_a_last_minibatch_of_as_many_rows_as_an_inner_plate_is_refused",),
    ),
    Mutation(
        "model_guide/reading.py",
        "if frame.full_size not in (None, frame.size) and",
        "if False and",
        ("tests/model_guide/test_plates.py::test_a_part_of_each_datapoint_is_refused_in_an_evaluation",),
    ),
    Mutation(
        "model_guide/reading.py",
        'counted = self.sites("model", "observation", "given", "local", "global", "enumerated")',
        "counted = self.observations | self.latents",
        ("tests/model_guide/test_plates.py::test_a_part_of_any_plate_is_refused_in_an_evaluation",),
    ),
    Mutation(
        "model_guide/reading.py",
        'for frame in (*site.frames, *site.infer.get("frames", ())):',
        "for frame in site.frames:",
        ("tests/model_guide/test_plates.py::test_a_part_of_any_plate_is_refused_in_an_evaluation",),
    ),
    Mutation(
        "model_guide/reading.py",
        "return term.movedim(self.particles[0], 0).flatten(1).sum(1)",
        "return term.sum().reshape(1)",
        (
            "tests/objectives/test_global_latents.py::test_with_the_posterior_as_guide_the_bound_is_log_p_of_the_data[linear_regression-L^A-True]",
        ),
    ),
    Mutation(
        "model_guide/plates.py",
        "if alike and (frame.name == plate.name or full_size_of(frame, plate.size) == plate.full_size):",
        "if alike:",
        ("tests/learners/test_global_latents.py::test_a_plate_of_m_entries_by_chance_is_not_the_data_plate",),
    ),
    Mutation(
        "model_guide/plates.py",
        "(dim != particles_dim or shape[dim] != num_particles)",
        "(particles_dim is None or dim > particles_dim)",
        (
            "tests/model_guide/test_plates.py::test_particles_whose_dimension_meets_itself_are_refused",
            "tests/model_guide/test_plates.py::test_a_sum_of_two_latents_with_other_shapes_is_told_by_its_shape",
        ),
    ),
    Mutation(
        "model_guide/enumeration.py",
        "rest[ordinal] = rest[ordinal] - log_prior if ordinal in rest else -log_prior",
        "rest[ordinal] = rest[ordinal]",
        ("tests/model_guide/test_enumeration.py::test_every_objective_sums_given_the_continuous_latents[L^A]",),
    ),
    Mutation(
        "model_guide/enumeration.py",
        "if name not in enumerated:  # p(y)",
        "if True:  # p(y)",
        ("tests/model_guide/test_enumeration.py::test_log_p_of_x_is_the_sum_over_all_values[padded_chain]",),
    ),
    Mutation(
        "model_guide/enumeration.py",
        'other = None if node["is_observed"] else guide.get(name)',
        "other = None",
        ("tests/model_guide/test_enumeration.py::test_a_mask_in_either_half_is_known_before_the_sum[guide]",),
    ),
    Mutation(
        "model_guide/enumeration.py",
        "log_prob = scale_and_mask(log_prob, mask=joint_mask(*masks))",
        "pass",
        ("tests/model_guide/test_enumeration.py::test_log_p_of_x_is_the_sum_over_all_values[words_of_a_topic]",),
    ),
    Mutation(
        "model_guide/guide_values.py",
        "value = value.narrow(dim + self._places[left], 0, 1)",
        "pass",
        ("tests/model_guide/test_guide_values.py::test_what_is_drawn_before_is_one_draw_for_all_values[SGVB-at once]",),
    ),
    Mutation(
        "model_guide/guide_values.py",
        "term = torch.where(mask, term, torch.full_like(term, -math.log(num_values)))",
        "term = term + 0.0",
        ("tests/model_guide/test_guide_values.py::test_a_label_that_is_there_says_nothing_to_q_of_y[at once]",),
    ),
    Mutation(
        "model_guide/guide_values.py",
        "if len(site.frames) > 1:",
        "if False:",
        ("tests/model_guide/test_guide_values.py::test_a_mark_that_can_t_be_followed_is_said",),
    ),
    Mutation(
        "model_guide/discrete_posterior.py",
        "    with seeded(seed):\n",
        "    if True:\n",
        ("tests/model_guide/test_discrete_posterior.py::test_all_values_have_the_same_draw_of_z",),
    ),
    Mutation(
        "model_guide/discrete_posterior.py",
        "if math.prod(shape) != num_data or num_data not in shape:",
        "if False:",
        ("tests/model_guide/test_discrete_posterior.py::test_what_has_no_posterior_here_is_said",),
    ),
    Mutation(
        "objectives/objective.py",
        "if not self.sums_values:",
        "if False:",
        ("tests/model_guide/test_guide_values.py::test_objectives_that_don_t_sum_say_so[Median]",),
    ),
    Mutation(
        "evidence/importance.py",
        ".summed_log_weight",
        ".log_weight",
        ("tests/model_guide/test_guide_values.py::test_discrete_latents_alone_have_no_noise[labels_alone-1-at once]",),
    ),
    Mutation(
        "model_guide/bayesian.py",
        "            _slots(module)[key] = own\n",
        "            pass\n",
        (
            "tests/model_guide/test_bayesian.py::test_the_graph_is_the_eager_run_and_leaves_modules_as_they_were[pyro.module-L^B]",
        ),
    ),
    Mutation(
        "model_guide/bayesian.py",
        "if id(p.unconstrained) not in shared",
        "if True",
        ("tests/model_guide/test_bayesian.py::test_what_the_guide_shares_stays_a_parameter",),
    ),
    Mutation(
        "objectives/objective.py",
        "of_globals = with_gradient(*particles.global_bound(value))",
        "of_globals = with_gradient(*particles.global_bound(value)) * particles.scale",
        ("tests/objectives/test_global_latents.py::test_terms_hold_the_global_kl_apart_and_once",),
    ),
    Mutation(
        "objectives/draws.py",
        "if frame_of(site.frames, reading.plate) is None:",
        "if False:",
        (
            "tests/model_guide/test_reading.py"
            "::test_a_note_weighs_by_its_scales_and_by_n_over_m_in_the_data_plate_alone[outside]",
        ),
    ),
    Mutation(
        "objectives/draws.py",
        "reading.plate.scale * times(site.weight, reading.log_prob(site))",
        "reading.plate.scale * reading.log_prob(site)",
        ("tests/model_guide/test_reading.py::test_a_scale_around_model_and_guide_weighs_a_note_once",),
    ),
    Mutation(
        "model_guide/reading.py",
        'in (self.proposals | self.sites("guide", "note")).items():',
        "in self.proposals.items():",
        ("tests/model_guide/test_reading.py::test_a_note_in_a_data_plate_of_another_n_is_refused",),
    ),
    Mutation(
        "objectives/particles.py",
        "signal = signal - (signal.sum(0) - signal) / others",
        "signal = signal - signal.mean(0)",
        ("tests/objectives/test_global_latents.py::test_a_baseline_leaves_the_mean_of_the_gradient",),
    ),
    Mutation(
        "evidence/global_draws.py",
        "            self._values[name].copy_(value)",
        "            pass",
        ("tests/evidence/test_global_latents.py::test_the_predictive_density_is_that_of_the_posterior[importance]",),
    ),
    Mutation(
        "evidence/elbo.py",
        "of_globals = [each.global_log_weight / len(densities) for each",
        "of_globals = [each.global_log_weight for each",
        ("tests/evidence/test_global_latents.py::test_minibatches_count_the_global_kl_once",),
    ),
    Mutation(
        "model_guide/reading.py",
        "self.per_datapoint(scale_and_mask(term, mask=site.mask))",
        "self.per_datapoint(term)",
        (f"{DENSITY}::test_masks_do",),
    ),
    Mutation(
        "model_guide/reading.py",
        "term = term.sum(summed, keepdim=True)",
        "term = term.mean(summed, keepdim=True)",
        (f"{DENSITY}::test_nested_plates_are_summed_within_their_datapoint",),
    ),
    Mutation(
        "model_guide/reading.py",
        "mask = joint_mask(site.mask, other.mask)",
        "mask = site.mask",
        (f"{RANDOM}::test_log_density_is_the_sum_of_the_densities",),
    ),
    Mutation(
        "model_guide/weights.py",
        "if weight.numel() == 1:",
        "if not local or weight.numel() == 1:",
        (
            "tests/model_guide/test_reading.py::test_outside_of_the_data_plate_a_scale_is_one_number_and_the_remedy_works",
        ),
    ),
    Mutation(
        "model_guide/weights.py",
        "weight.shape[max(weight.dim() - len(shape), 0) :] == shape and",
        "True and",
        ("tests/model_guide/test_reading.py::test_a_number_for_each_entry_is_refused",),
    ),
    Mutation(
        "model_guide/weights.py",
        "shape = (plate.size, *(1,) * (-plate.dim - 1))",
        "shape = (plate.size,)",
        ("tests/model_guide/test_reading.py::test_a_number_for_each_datapoint_stands_in_the_data_plates_dimension",),
    ),
    Mutation(
        "model_guide/reading.py",
        "weights.scale * weights.by_site[name] * self.log_prob(site)",
        "weights.scale * self.log_prob(site)",
        ("tests/model_guide/test_reading.py::test_a_reading_weighs_each_datapoint_s_entries_alike",),
    ),
    Mutation(
        "model_guide/reading.py",
        "if is_one(common) or not all(",
        "if True or not all(",
        (f"{RANDOM}::test_an_objectives_value_is_that_of_its_particles[IWAE]",),
    ),
    Mutation(
        "model_guide/plates.py",
        "around_data, count, subsampled, frame.dim",
        "around_data, count, frame.dim",
        (f"{RANDOM}::test_a_minibatch_as_small_as_the_plate_of_members",),
    ),
    Mutation(
        "model_guide/structure.py",
        "if name in entangled:",
        "if False:",
        ("tests/objectives/test_objective.py::test_a_kl_that_the_guides_order_makes_wrong_is_sampled_and_said",),
    ),
    Mutation(
        "model_guide/parameters.py",
        "value.numel() * (prior.scale.log()",
        "(prior.scale.log()",
        (f"{INFOS}::test_aevb",),
    ),
    Mutation(
        "model_guide/supports.py",
        "if wrong is None or not wrong.any():",
        "if wrong is None or not wrong.all():",
        ("tests/model_guide/test_contract.py::test_one_value_outside_the_support_is_enough",),
    ),
    Mutation(
        "model_guide/supports.py",
        'wrong = wrong & site["mask"]',
        'wrong = wrong & ~site["mask"]',
        ("tests/model_guide/test_contract.py::test_what_is_masked_may_be_anything",),
    ),
    Mutation(
        "model_guide/reading.py",
        "name not in sites or not is_discrete(sites[name]",
        "name not in sites or bool(sites[name]",
        (
            "tests/model_guide/test_local_densities.py::test_a_point_of_a_discrete_latent_makes_no_density_of_what_is_integrated_out",
        ),
    ),
    Mutation(
        "model_guide/dependence.py",
        "if others := sorted(auxiliary.keys() - sources):",
        "if others := sorted(auxiliary.keys() - auxiliary.keys()):",
        (
            "tests/model_guide/test_local_densities.py::test_auxiliary_sites_of_both_kinds_are_refused_and_the_remedy_works",
        ),
    ),
    Mutation(
        "model_guide/local_densities.py",
        "if shared := sorted(found & of_all.keys()):",
        "if shared := sorted(found & of_all.keys()) if points else []:",
        ("tests/model_guide/test_local_densities.py::test_one_density_of_all_datapoints_is_refused_everywhere",),
    ),
    Mutation(
        "model_guide/local_densities.py",
        "if point is not None and found & smooth:",
        'if point is not None and reading.sites("guide", "auxiliary"):',
        ("tests/model_guide/test_local_densities.py::test_every_guide_of_point_masses_is",),
    ),
    Mutation(
        "model_guide/local_densities.py",
        "not torch.as_tensor(point.log_density).any()",
        "True",
        ("tests/model_guide/test_local_densities.py::test_deltas_that_carry_a_density_are_taken",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "STRETCH = 3.0",
        "STRETCH = 0.0",
        ("tests/model_guide/test_guide_supports.py::test_a_part_of_the_priors_support_is_noticed",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "if type(fn) not in COMPOSED or base_support",
        "if True or base_support",
        ("tests/model_guide/test_guide_supports.py::test_a_part_of_the_priors_support_is_noticed",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "(log_joint.isfinite() & (",
        "(log_joint.isfinite() | (",
        ("tests/model_guide/test_guide_supports.py::test_a_part_that_data_leave_none_of_is_not_missed",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "left_out = left_out & torch",
        "left_out = left_out | ~torch",
        ("tests/model_guide/test_guide_supports.py::test_what_is_masked_does_not_count",),
    ),
    Mutation(
        "model_guide/sites.py",
        "outside_error(name, fn, value, drawn=drawn)",
        "outside_error(name, fn, value)",
        ("tests/model_guide/test_guide_supports.py::test_draws_outside_of_the_priors_support_are_told_as_such",),
    ),
    Mutation(
        "model_guide/traces.py",
        "isinstance(error, NotImplementedError | CaptureError)",
        "isinstance(error, NotImplementedError)",
        (
            "tests/evidence/test_annealing.py"
            "::test_what_can_t_be_a_graph_runs_eagerly_and_one_line_says_why[ais-masked_in_python]",
        ),
    ),
    # -- objectives ---------------------------------------------------------------------------------------------------
    Mutation(
        "objectives/objective.py",
        'warn_if_nan(loss, "loss")',
        "pass",
        (f"{TERMS}::test_a_loss_that_is_not_a_number_is_warned_about",),
    ),
    Mutation(
        "objectives/particles.py",
        "return self.scale * bound.sum(-1) if",
        "return self.scale * bound.mean(-1) if",
        (f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass[SGVB]",),
    ),
    Mutation(
        "objectives/particles.py",
        "log_weight.logsumexp(0) - math.log(len(log_weight))",
        "log_weight.logsumexp(0)",
        (f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass[IWAE]",),
    ),
    Mutation(
        "objectives/iwae.py",
        "(weight * normalized + (1 - weight)) * times",
        "times",
        (
            f"{OBJECTIVE}::test_no_gradient_at_the_posterior",
            f"{OBJECTIVE}::test_dreg_and_vimco_have_the_mean_of_iwaes_gradient_and_dreg_less_variance",
        ),
    ),
    Mutation(
        "objectives/iwae.py",
        " / (1 - self.alpha)\n",
        "\n",
        (f"{TERMS}::test_all_of_them_on_the_draws_of_the_pass[Renyi]",),
    ),
    Mutation(
        "objectives/iwae.py",
        "normalized * (weight * normalized + (1 - weight)) * times",
        "normalized * normalized * times",
        (f"{WEIGHTED}::test_the_expected_gradient_is_that_of_the_weighted_bound[DReG-both]",),
    ),
    Mutation(
        "objectives/gradient_scale.py",
        "weight = b * weight + (1 - b)",
        "pass",
        (f"{WEIGHTED}::test_the_expected_gradient_is_that_of_the_weighted_bound[DReG-both]",),
    ),
    Mutation(
        "objectives/particles.py",
        "0.0 if self.given is None else self.given.mean()",
        "0.0 if self.given is None else self.given.sum()",
        ("tests/objectives/test_global_latents.py::test_with_the_posterior_as_guide_the_bound_is_log_p_of_the_data",),
    ),
    Mutation(
        "objectives/particles.py",
        "times(self.global_weight, log_weight) + given",
        "times(self.global_weight, log_weight)",
        (
            "tests/objectives/test_global_latents.py::test_what_is_observed_outside_of_the_plate_is_part_of_the_signal",
            "tests/objectives/test_global_latents.py::test_a_baseline_leaves_the_mean_of_the_gradient",
        ),
    ),
    Mutation(
        "evidence/estimates.py",
        "- self.global_kl.item() + self.log_given.item()",
        "- self.global_kl.item()",
        ("tests/evidence/test_global_latents.py",),
    ),
    Mutation(
        "objectives/draws.py",
        "score=_unmasked(reading, log_q, how.enumerated) if",
        "score=log_q if",
        (
            f"{WEIGHTED}::test_the_expected_gradient_of_a_discrete_guide_is_the_enumerated_one[score function-guide]",
            f"{WEIGHTED}::test_the_expected_gradient_is_that_of_the_weighted_bound[VIMCO-model]",
        ),
    ),
    Mutation(
        "objectives/gradient_scale.py",
        "and other in self.drawn_from().get(name, ())",
        "and False",
        (f"{WEIGHTED}::test_dreg_refuses_a_chain_of_which_one_latent_is_masked_off_and_matters",),
    ),
    Mutation(
        "objectives/blend.py",
        " and not each.is_leaf",
        "",
        (f"{BLEND}::test_nothing_is_left_on_a_parameter",),
    ),
    Mutation(
        "objectives/blend.py",
        "(gradient * difference).sum()",
        "(difference * difference).sum()",
        (f"{BLEND}::test_the_share_becomes_that_of_least_variance[0.5-0.3-1.0]",),
    ),
    Mutation(
        "objectives/blend.py",
        ".sum() / self._factor",
        ".sum()",
        (f"{BLEND}::test_the_share_is_the_same_for_a_multiple_of_the_loss[0.01]",),
    ),
    Mutation(
        "objectives/blend.py",
        ".clamp(0, 1)",
        "",
        (f"{BLEND}::test_the_share_stays_from_0_to_1[1.5-0.999-0.0]",),
    ),
    Mutation(
        "objectives/draws.py",
        "if len(proposals) != 1:",
        "if not proposals:",
        (f"{BLEND}::test_a_guide_that_goes_on_to_another_latent",),
    ),
    Mutation(
        "objectives/blend.py",
        "posinf=0.0, ",
        "",
        (f"{BLEND}::test_after_a_gradient_without_end_it_is_the_closed_form[products0]",),
    ),
    Mutation(
        "learners/aevb.py",
        "self.objective.running.average(settings.share.mean)",
        "pass",
        ("tests/training/test_ranks.py::test_two_ranks_follow_the_gradients_of_one",),
    ),
    Mutation(
        "learners/aevb.py",
        "return Trace_ELBO() if not_reparameterized(reading, enumerated(reading, self.traced_guide)) else None",
        "return None",
        (f"{BLEND}::test_a_guide_that_cannot_be_reparameterised_gets_the_score_function",),
    ),
    Mutation(
        "objectives/sgvb.py",
        "kl.clamp(min=free_bits)",
        "kl.clamp(max=free_bits)",
        (f"{OBJECTIVE}::test_free_bits",),
    ),
    Mutation(
        "objectives/score_function.py",
        "(values.sum(0) - values) / (len(values) - 1)",
        "values.mean(0, keepdim=True).expand_as(values)",
        (f"{OBJECTIVE}::test_the_leave_one_out_gradient_is_a_sample_covariance",),
    ),
    Mutation(
        "objectives/score_function.py",
        "    by_entry = True",
        "    by_entry = False",
        ("tests/objectives/test_score_function.py::test_other_entries_of_a_plate_are_no_signal",),
    ),
    Mutation(
        "model_guide/structure.py",
        "if not torch.allclose(term[kept], before[key][kept], rtol=1e-5, atol=1e-5, equal_nan=True):",
        "if key == '':",
        ("tests/objectives/test_score_function.py::test_entries_that_a_model_mixes_have_the_whole_signal",),
    ),
    Mutation(
        "cli/parts.py",
        'np.sort(splits[part or "validation"])',
        'np.sort(splits["train"])',
        ("tests/cli/test_training_data.py::test_a_run_remembers_which_rows_it_held_out",),
    ),
    Mutation(
        "cli/data.py",
        "torch.from_numpy(values / np.float32(divisor) if divisor != 1 else values)",
        "torch.from_numpy(values)",
        ("tests/cli/test_training_data.py::test_pixels_of_eight_bits_are_between_zero_and_one",),
    ),
    Mutation(
        "datasets/array_files.py",
        "found.check_format(full_check=True)",
        "found.check_format(full_check=False)",
        ("tests/datasets/test_array_files.py::test_a_sparse_array_that_is_too_large_or_damaged",),
    ),
    Mutation(
        "capture/capture.py",
        'best = "graph" if self._without_inductor else "inductor"',
        'best = "inductor"',
        ("tests/capture/test_capture.py::test_a_graph_that_a_compiler_spoils_runs_without_it",),
    ),
    Mutation(
        "capture/graph_passes.py",
        "for _ in range(values[0].dim() - values[1].dim())",
        "for _ in range(0)",
        ("tests/capture/test_graph_passes.py::test_a_number_put_by_a_mask_is_no_tensor_of_the_processor",),
    ),
    Mutation(
        "objectives/score_function.py",
        "(finite.sum(0) - finite) / others",
        "finite.sum(0).expand_as(finite) / others",
        (f"{OBJECTIVE}::test_gradients_of_a_discrete_guide_are_those_of_the_enumerated_bound",),
    ),
    Mutation(
        "objectives/score_function.py",
        "zero = log_weight == -math.inf",
        "zero = torch.zeros_like(log_weight, dtype=torch.bool)",
        ("tests/objectives/test_score_function.py::test_a_particle_of_weight_zero_is_no_error",),
    ),
    # -- posterior ----------------------------------------------------------------------------------------------------
    Mutation(
        "posterior/likelihood.py",
        'or msg["name"] not in self._names',
        "or False",
        (f"{VERBS}::test_a_global_latent_that_was_given_keeps_its_value_and_is_no_observation[obs]",),
    ),
    Mutation(
        "evidence/annealing.py",
        "poutine.trace(Dreaming(names)(model))",
        "poutine.trace(poutine.uncondition(model))",
        (
            "tests/evidence/test_annealing.py"
            "::test_data_are_simulated_at_the_value_that_a_global_latent_was_given[given]",
        ),
    ),
    Mutation(
        "evidence/annealing.py",
        "poutine.condition(Dreaming(names)(model), data=data)",
        "poutine.condition(poutine.uncondition(model), data=data)",
        (
            "tests/evidence/test_annealing.py"
            "::test_data_are_simulated_at_the_value_that_a_global_latent_was_given[condition]",
        ),
    ),
    Mutation(
        "posterior/encode.py",
        "if _follow_draws(guide, first, layouts):",
        "if first is None:",
        (
            f"{VERBS}::test_a_mean_that_follows_another_draw_is_one_over_draws[latent]",
            f"{VERBS}::test_a_mean_that_follows_another_draw_is_one_over_draws[auxiliary]",
        ),
    ),
    Mutation(
        "posterior/cells.py",
        "kind = x.dtype if are_discrete(fn).all() else torch.promote_types(x.dtype, draws.dtype)",
        "kind = x.dtype",
        (
            "tests/posterior/test_impute.py"
            "::test_draws_of_a_continuous_cell_are_no_whole_numbers_whatever_x_is[importance-torch.int64]",
        ),
    ),
    Mutation(
        "posterior/gibbs.py",
        "filled_in(rows[1], rows[0], cells, fn)",
        "torch.where(rows[0], rows[1], cells.to(rows[1]))",
        (
            "tests/posterior/test_impute.py"
            "::test_draws_of_a_continuous_cell_are_no_whole_numbers_whatever_x_is[gibbs-torch.int64]",
        ),
    ),
    Mutation(
        "posterior/impute.py",
        "draws = unrolled(draws, torch.as_tensor(self.angle))",
        "draws = draws",
        ("tests/posterior/test_angles.py::test_an_interval_of_a_missing_angle_is_around_its_mean",),
    ),
    Mutation(
        "posterior/likelihood.py",
        "if missing := [name for name in self.latents if name not in values]:",
        "if missing := []:",
        (f"{VERBS}::test_a_latent_that_is_summed_out_has_no_place_on_a_path_and_is_given_one_in_decode",),
    ),
    Mutation(
        "posterior/angles.py",
        "keepdim=True) if is_directional(fn) else mean",
        "keepdim=True) if False else mean",
        (f"{VERBS}::test_directions_stay_of_length_one",),
    ),
    Mutation(
        "posterior/paths.py",
        "    if is_directional(prior):\n        raise",
        "    if False:\n        raise",
        (f"{VERBS}::test_directions_stay_of_length_one",),
    ),
    Mutation(
        "posterior/paths.py",
        "wrapped(start + t * wrapped(end - start))",
        "start + t * (end - start)",
        (
            "tests/posterior/test_angles.py::test_a_path_of_angles_goes_the_shorter_way_round_and_through_quantiles_about_their_mean",
        ),
    ),
    Mutation(
        "posterior/paths.py",
        "unrolled(draws, angle).sort(0)",
        "draws.sort(0)",
        (
            "tests/posterior/test_angles.py::test_a_path_of_angles_goes_the_shorter_way_round_and_through_quantiles_about_their_mean",
        ),
    ),
    Mutation(
        "posterior/paths.py",
        "[torch.where(angle.to(each.device), wrapped(each), each) for each in found]",
        "found",
        (
            "tests/posterior/test_angles.py::test_a_path_of_angles_goes_the_shorter_way_round_and_through_quantiles_about_their_mean",
        ),
    ),
    Mutation(
        "posterior/paths.py",
        "constraints.real and not angle.any():",
        "constraints.real:",
        (
            "tests/posterior/test_angles.py::test_a_path_of_angles_goes_the_shorter_way_round_and_through_quantiles_about_their_mean",
        ),
    ),
    Mutation(
        "diagnostics/latent_dimensions.py",
        "mean = unrolled(mean, angles[name]) if name in angles else mean",
        "",
        ("tests/posterior/test_angles.py::test_the_activity_of_an_angle_is_about_its_mean_on_the_circle",),
    ),
    Mutation(
        "diagnostics/latent_dimensions.py",
        "unrolled(each, angles[name]) if name in angles else each",
        "each",
        ("tests/posterior/test_angles.py::test_the_activity_of_an_angle_is_about_its_mean_on_the_circle",),
    ),
    Mutation(
        "datasets/filled_cells.py",
        "mean[:, d] = mode[:, d]",
        "pass",
        ("tests/datasets/test_table.py::test_imputed_cells_are_means_in_raw_units_and_most_frequent_levels",),
    ),
    Mutation(
        "datasets/columns.py",
        "if len(between) and len(self.levels) > 2:",
        "if False:",
        ("tests/datasets/test_table.py::test_imputed_cells_are_means_in_raw_units_and_most_frequent_levels",),
    ),
    Mutation(
        "model_guide/sites.py",
        "not value.is_floating_point() and _takes_floats(fn, value)",
        "False",
        (f"{VERBS}::test_data_of_a_dtype_without_a_density_are_said_and_floats_are_taken[torch.int64]",),
    ),
    Mutation(
        "posterior/reconstruct.py",
        "if any(0 in (*lead, size) for lead, size in leads):",
        "if False:",
        (f"{VERBS}::test_no_latents_at_all_are_said",),
    ),
    Mutation(
        "posterior/impute.py",
        "(each.detach() for each in in_memory(x, streams, finite=False))",
        "in_memory(x, streams, finite=False)",
        (f"{VERBS}::test_data_with_a_gradient_are_data[impute]",),
    ),
    Mutation(
        "posterior/encode.py",
        'if output == "mean" and isinstance(innermost(fn), torch.distributions.Categorical):',
        "if name is None:",
        (f"{VERBS}::test_latents_without_a_mean_are_refused_and_the_remedies_work",),
    ),
    Mutation(
        "diagnostics/local_c2st.py",
        "with unmoved():\n            from",
        "if True:\n            from",
        ("tests/test_imports.py::test_what_is_imported_late_moves_no_generator[perceptron]",),
    ),
    Mutation(
        "posterior/likelihood.py",
        "return tuple(_changed(arg, pairs) if arg.untyped_storage().data_ptr() == place else arg for arg in args)",
        "return args",
        (f"{VERBS}::test_a_model_that_reads_x_to_make_x_is_not_sampled",),
    ),
    Mutation(
        "posterior/likelihood.py",
        "new = new if missing is None else torch.where(missing, new, args[place])",
        "new = args[place]",
        (
            "tests/posterior/test_impute.py::test_a_total_of_x_is_refused_and_an_argument_of_its_own_is_not",
            "tests/posterior/test_denoise.py::test_a_model_that_reads_x_to_make_x_is_refused[True]",
        ),
    ),
    Mutation(
        "posterior/impute.py",
        "check_drawn_in(batches.arranged(of_x), batch, name, 1, ~batch[0])",
        "check_drawn_in(batches.arranged(of_x), first, name, 1, ~first[0])",
        (
            "tests/posterior/test_impute.py"
            "::test_a_missing_cell_that_the_model_reads_is_refused_wherever_it_stands[importance]",
        ),
    ),
    Mutation(
        "posterior/likelihood.py",
        "most = reading.plate.full_size if reading.plate.full_size > reading.plate.size else sys.maxsize",
        "most = sys.maxsize",
        (f"{VERBS}::test_more_draws_than_datapoints_are_made_in_minibatches",),
    ),
    Mutation(
        "posterior/encode.py",
        "if mean is None or other is None or not _same(mean, other):",
        "if False:",
        ("tests/posterior/test_angles.py::test_the_mean_of_a_skewed_guide_is_on_the_circle",),
    ),
    Mutation(
        "posterior/encode.py",
        'reseed(streams.seed(place, "proposals"))',
        "pass",
        (f"{VERBS}::test_a_seed_decides_and_nothing_else_is_touched[encode, draws]",),
    ),
    Mutation(
        "posterior/encode.py",
        "IndexError):  # each pair says in its own way that it wants others\n            return len(rows[0])",
        "IndexError):\n            return BLOCK",
        (f"{VERBS}::test_a_pair_that_wants_all_rows_at_once_gets_them",),
    ),
    Mutation(
        "posterior/data.py",
        "own, source = OwnRandomState(seed), iter(batches)",
        "own, source = OwnRandomState(int(torch.randint(9999, ()))), iter(batches)",
        (f"{VERBS}::test_pixels_that_are_drawn_at_each_visit_are_those_of_the_seed[encode]",),
    ),
    Mutation(
        "posterior/sample.py",
        "torch.arange(len(which)) - first",
        "torch.zeros_like(which)",
        (f"{VERBS}::test_draws_of_one_datapoint_are_as_many_different_ones",),
    ),
    Mutation(
        "posterior/paths.py",
        "u.flip(0), u, indexing",
        "u, u, indexing",
        (f"{VERBS}::test_traverses_and_manifolds_go_through_the_priors_quantiles",),
    ),
    Mutation(
        "vae/verbs.py",
        "return result.detach().cpu().numpy() if _is_array(x)",
        "return result.detach().cpu().numpy() if False",
        (f"{VERBS}::test_arrays_in_arrays_out[encode]",),
    ),
    Mutation(
        "cli/uses.py",
        "x = np.where(kept, values, _filled(found, fill).cpu().numpy().astype(np.float64))",
        "x = _filled(found, fill).cpu().numpy().astype(np.float64)",
        ("tests/cli/test_uses.py::test_a_table_with_empty_cells_is_filled_in",),
    ),
    Mutation(
        "datasets/number_tables.py",
        "or (holes and len(row) > 1)",
        "",
        ("tests/cli/test_uses.py::test_empty_cells_are_read_if_they_are_asked_for",),
    ),
    Mutation(
        "posterior/gate.py",
        "equal = relied & (k / ess - 1 <= 1 / num_draws)",
        "equal = relied",
        (f"{POSTERIOR}::test_a_guide_that_is_wrong_for_some_is_caught_for_those_alone",),
    ),
    Mutation(
        "posterior/gate.py",
        "trusted = torch.where(resample, relied & (ess >= num_draws), equal)",
        "trusted = torch.ones_like(equal)",
        (f"{POSTERIOR}::test_a_guide_that_is_wrong_for_some_is_caught_for_those_alone",),
    ),
    Mutation(
        "posterior/gate.py",
        'reseed(self._streams.seed(places[0], "proposals"))',
        "pass",
        (f"{POSTERIOR}::test_neighbours_and_chunks_change_nothing_but_rounding",),
    ),
    Mutation(
        "posterior/gate.py",
        "mixed = r_hat <= chains.largest_r_hat",
        "mixed = r_hat > 0",
        (f"{POSTERIOR}::test_draws_that_nothing_vouches_for_are_marked",),
    ),
    Mutation(
        "posterior/chains.py",
        "return position[(2 * number + 1) * length // (2 * of_chain), chain]",
        "return position.flatten(0, 1)[draw * length * num_chains // num_draws]",
        (f"{POSTERIOR}::test_draws_are_taken_from_all_chains_alike",),
    ),
    Mutation(
        "posterior/chains.py",
        "torch.where(counting, tuned.log_weight, 0.0)",
        "tuned.log_weight",
        (f"{POSTERIOR}::test_draws_that_nothing_vouches_for_are_marked",),
    ),
    Mutation(
        "posterior/chains.py",
        "torch.maximum(_r_hat(_rank_normalized(split)), _r_hat(_rank_normalized((split - median).abs())))",
        "_r_hat(_rank_normalized(split))",
        (f"{POSTERIOR}::test_r_hat_is_that_of_vehtari_and_others",),
    ),
    Mutation(
        "posterior/proposals.py",
        "return False\n        return True",
        "return True\n        return True",
        (f"{POSTERIOR}::test_a_pair_may_know_a_datapoint_by_its_place",),
    ),
    Mutation(
        "posterior/cells.py",
        "base.mask(observed).to_event(dims)",
        "base.to_event(dims)",
        ("tests/posterior/test_impute.py::test_missing_cells_have_the_exact_conditional",),
    ),
    Mutation(
        "posterior/cells.py",
        "return fn.where(observed)",
        "return fn",
        ("tests/posterior/test_impute.py::test_the_likelihood_of_what_is_observed_is_that_of_the_vae",),
    ),
    Mutation(
        "posterior/cells.py",
        "if reading.summed:",
        "if False:",
        (
            "tests/posterior/test_impute.py::"
            "test_latents_that_are_summed_out_are_refused_and_drawn_by_the_guide_if_they_are_there",
        ),
    ),
    Mutation(
        "posterior/posterior.py",
        "masked_fill(count <= 1, torch.nan)",
        "nan_to_num(0.0)",
        ("tests/posterior/test_impute.py::test_the_error_of_repeated_draws_counts_them_once_and_one_draw_has_none",),
    ),
    Mutation(
        "posterior/posterior.py",
        "(count - 1).clamp(min=0)",
        "count",
        ("tests/posterior/test_impute.py::test_the_error_of_repeated_draws_counts_them_once_and_one_draw_has_none",),
    ),
    Mutation(
        "posterior/impute.py",
        "torch.where(observed, x, torch.zeros((), dtype=x.dtype, device=x.device))",
        "x",
        ("tests/posterior/test_impute.py::test_what_stands_in_a_missing_cell_neighbours_and_chunks_change_nothing",),
    ),
    Mutation(
        "posterior/gibbs.py",
        "log_ratio = new.log_joint - old.log_joint + old.log_proposal - new.log_proposal",
        "log_ratio = new.log_joint - old.log_joint",
        ("tests/posterior/test_gibbs.py::test_missing_cells_have_the_exact_conditional",),
    ),
    Mutation(
        "posterior/gibbs.py",
        "values = self._transition(values, own, own)",
        "values = self._transition(values, rows, own)",
        ("tests/posterior/test_gibbs.py::test_discrete_latents",),
    ),
    Mutation(
        "posterior/gibbs.py",
        "if not same:",
        "if False:",
        ("tests/posterior/test_gibbs.py::test_a_vae_and_what_is_refused",),
    ),
    Mutation(
        "posterior/anomaly.py",
        "(others >= values[:, None])",
        "(others <= values[:, None])",
        ("tests/posterior/test_anomaly.py::test_p_values_are_uniform_for_usual_data_and_small_for_what_is_not",),
    ),
    Mutation(
        "posterior/anomaly.py",
        "typicality = _share((score - middle).abs(), (usual - middle).abs())",
        "typicality = _share(score, usual)",
        ("tests/posterior/test_anomaly.py::test_p_values_are_uniform_for_usual_data_and_small_for_what_is_not",),
    ),
    Mutation(
        "posterior/denoise.py",
        "obs=self._x)",
        "obs=msg['value'])",
        ("tests/posterior/test_denoise.py::test_what_model_and_guide_take_besides_may_be_named",),
    ),
    Mutation(
        "posterior/denoise.py",
        "poutine.replay(trace=drawn.trace), clean",
        "clean",
        ("tests/posterior/test_denoise.py::test_what_model_and_guide_take_besides_may_be_named",),
    ),
    Mutation(
        "posterior/noisy_cells.py",
        "(share.probs * values).sum(-1)",
        "values[share.sample()]",
        ("tests/posterior/test_denoise.py::test_the_mean_of_binary_cells_has_no_noise_given_z",),
    ),
    Mutation(
        "posterior/noisy_cells.py",
        "return log_p + noisy",
        "return log_p + 0 * noisy",
        ("tests/posterior/test_denoise.py::test_binary_cells_are_summed_over",),
    ),
    Mutation(
        "posterior/gate.py",
        "relied_on(tail, k) & some & self._weights_tell",
        "relied_on(tail, k) & some",
        ("tests/model_guide/test_guide_supports.py::test_draws_by_weights_are_not_trusted",),
    ),
    Mutation(
        "samplers/latent_space.py",
        ", with guide=None where draws are asked for",
        "",
        ("tests/posterior/test_posterior.py::test_what_is_said_of_a_discrete_latent_helps",),
    ),
    Mutation(
        "posterior/angles.py",
        "torch.where(angle.to(found.device), direction(found), found.real) if found.is_complex() else found",
        "found.real",
        ("tests/posterior/test_angles.py::test_a_mean_over_draws_of_the_guide_is_on_the_circle[with_auxiliary]",),
    ),
    Mutation(
        "distributions/angles.py",
        '"base_dist", "component_distribution", ',
        '"base_dist", ',
        (f"{ANGLES}::test_angles_are_told_through_whatever_is_around_them[mixture]",),
    ),
    Mutation(
        "posterior/posterior.py",
        "return unrolled(draws, self.angles[site])",
        "return draws",
        ("tests/posterior/test_angles.py::test_the_mean_and_the_deviation_of_an_angle_are_those_on_the_circle[guide]",),
    ),
    Mutation(
        "posterior/impute.py",
        "mean = average(found.mean, angle)",
        "mean = average(found.mean)",
        ("tests/posterior/test_angles.py::test_a_missing_angle_is_filled_in_on_the_circle",),
    ),
    Mutation(
        "posterior/proposals.py",
        "except (ValueError, NotImplementedError):  # log q is",
        "except IndexError:  # log q is",
        ("tests/vae/test_swaps.py::test_draws_from_the_posterior_need_no_inverse_of_the_guide",),
    ),
    Mutation(
        "vae/posteriors.py",
        "class NoInverseError(NotImplementedError, ValueError):",
        "class NoInverseError(NotImplementedError):",
        ("tests/cli/test_uses.py::test_a_flow_without_an_inverse_answers_or_says_what_does",),
    ),
    # -- samplers -----------------------------------------------------------------------------------------------------
    Mutation(
        "samplers/hmc.py",
        "torch.where(at_end == math.inf, 0.0, acceptance)",
        "torch.where(at_end == math.inf, 1.0, acceptance)",
        ("tests/samplers/test_hmc.py::test_where_the_target_overflows_no_trajectory_ends",),
    ),
    Mutation(
        "samplers/hmc.py",
        "noise.uniform(acceptance) < acceptance",
        "noise.uniform(acceptance) < 1",
        (f"{HMC}::test_acceptance_on_a_gaussian_is_known",),
    ),
    Mutation(
        "samplers/hmc.py",
        "0.2 + 0.8 * noise.uniform",
        "0.5 + 0.5 * noise.uniform",
        (f"{HMC}::test_tuned_step_sizes_have_the_acceptance_asked_for",),
    ),
    Mutation(
        "samplers/hmc.py",
        "momentum = momentum + 0.5 * step * state.grad",
        "momentum = momentum + step * state.grad",
        ("tests/samplers/test_hmc.py::test_leapfrog_is_reversible", f"{HMC}::test_acceptance_on_a_gaussian_is_known"),
    ),
    Mutation(
        "samplers/ais.py",
        "torch.where(state.log_prob == -torch.inf, -torch.inf, change)",
        "change.nan_to_num(0.0)",
        ("tests/samplers/test_ais.py::test_a_chain_that_met_zero_density_has_weight_zero",),
    ),
    Mutation(
        "samplers/latent_space.py",
        "density(name, site.fn, site.value) + at[name].log_det",
        "density(name, site.fn, site.value)",
        ("tests/samplers/test_hmc.py::test_unconstrained_coordinates_carry_the_jacobian",),
    ),
    Mutation(
        "samplers/annealed_path.py",
        "return torch.allclose(found, expected, rtol=1e-3, atol=1e-3, equal_nan=True)",
        "return True",
        ("tests/evidence/test_cubature.py::test_a_model_may_know_a_datapoint_by_its_place_in_the_minibatch",),
    ),
    Mutation(
        "samplers/annealed_path.py",
        "found = self.log_joint(u[:, index], *(arg[index] for arg in args))",
        "found = expected",
        ("tests/evidence/test_auto.py::test_a_model_may_know_a_datapoint_by_its_place_in_the_minibatch",),
    ),
    Mutation(
        "samplers/annealed_path.py",
        "change = joint - start",
        "change = joint",
        (f"{EVIDENCE}::test_the_effective_sample_size_of_annealing_is_not_more_than_its_chains",),
    ),
    Mutation(
        "samplers/annealed_path.py",
        'if start == "guide":\n            require',
        'if start != "guide":\n            require',
        ("tests/model_guide/test_edges.py::test_no_chain_starts_from_a_guide_messenger",),
    ),
    # -- files that are hostile ---------------------------------------------------------------------------------------
    Mutation(
        "datasets/array_files.py",
        "if size != needed or min(shape, default=0) < 0:",
        "if False:",
        (f"{ARRAYS}::test_a_file_that_says_what_it_is_not",),
    ),
    Mutation(
        "datasets/image_folders.py",
        "Image.open(path, formats=FORMATS)",
        "Image.open(path)",
        (f"{ARRAYS}::test_a_file_that_says_what_it_is_not",),
    ),
    Mutation(
        "datasets/array_files.py",
        "max(MOST_INFLATED, 100 * path.stat().st_size)",
        "100 * path.stat().st_size",
        (f"{ARRAYS}::test_a_compressed_array_that_is_large_or_repeats_itself_but_not_both",),
    ),
    Mutation(
        "files/regular.py",
        "if not stat.S_ISREG(mode):",
        "if stat.S_ISCHR(mode):",
        (f"{SAVING}::test_no_file_but_a_regular_one",),
    ),
    Mutation(
        "arguments.py",
        "if isinstance(made, Tensor) and (made.dim() == 0 or len(made) != size >= 0):",
        "if isinstance(made, Tensor) and made.dim() == 0:",
        ("tests/test_arguments.py::test_a_step_is_svis",),
    ),
    Mutation(
        "arguments.py",
        "in_order = was_sorted and bool((lengths[:-1] >= lengths[1:]).all())",
        "in_order = False",
        ("tests/test_arguments.py::test_a_packed_sequence_is_packed_again",),
    ),
    Mutation(
        "arguments.py",
        "return (type(value), value) if isinstance(value, CONSTANTS)",
        "return (type(value),) if isinstance(value, CONSTANTS)",
        ("tests/test_arguments.py::test_another_flag_is_another_function",),
    ),
    Mutation(
        "learners/trained_pair.py",
        "            self.form.numbers = form.numbers\n",
        "            pass\n",
        ("tests/test_arguments.py::test_a_number_of_each_step_counts_and_a_tensor_needs_no_new_graph",),
    ),
    Mutation(
        "learners/learner.py",
        "([] if form is None else [form, *form.numbers])",
        "[]",
        ("tests/test_arguments.py::test_a_number_of_each_step_counts_and_a_tensor_needs_no_new_graph",),
    ),
    Mutation(
        "learners/readings.py",
        "return self._pair.arrangement, *(",
        "return None, *(",
        ("tests/learners/test_readings.py::test_n_is_what_the_plate_says_now[there and back-graph]",),
    ),
    Mutation(
        "data_parts.py",
        "return rows.to(torch.get_default_dtype()) if rows.dtype in NARROW else rows",
        "return rows.float() if rows.dtype == torch.uint8 else rows",
        ("tests/test_data_source.py::test_numbers_of_8_and_16_bits_come_as_floats_and_labels_as_they_are",),
    ),
    Mutation(
        "data_source.py",
        "if self._checked_late and self._finite:",
        "if self.on_disk and self._finite:",
        ("tests/test_data_source.py::test_what_is_not_finite_in_a_sparse_matrix_is_named_by_its_row",),
    ),
    Mutation(
        "evaluation_data.py",
        "if rows.form != self.form or _brought(rows.form) != _brought(self.form):",
        "if rows.form != self.form:",
        ("tests/test_arguments.py::test_minibatches_of_an_estimate_have_one_form",),
    ),
    Mutation(
        "model_guide/contract.py",
        "if form is None or not form.guessed:",
        "if True:",
        ("tests/test_arguments.py::test_labels_of_another_length_are_told_and_the_remedy_works",),
    ),
    Mutation(
        "model_guide/contract.py",
        "both = [name for name in options if name in signature.parameters and name not in taken]",
        "both = []",
        ("tests/test_arguments.py::test_an_option_that_is_an_argument_of_the_models_too_is_told_and_the_remedy_works",),
    ),
    Mutation(
        "model_guide/structure.py",
        "*asked, signature_of(args, kwargs), number",
        "*asked, (), number",
        ("tests/test_arguments.py::test_the_structure_of_a_pair_is_each_flags_own",),
    ),
    Mutation(
        "learners/dreams.py",
        'observed |= site.infer.get("parts", {name: nodes[name]})',
        "observed |= {name: nodes[name]}",
        ("tests/learners/test_dreams.py::test_a_latent_that_is_summed_out_is_drawn_in_a_dream",),
    ),
    Mutation(
        "evidence/marginal_likelihood.py",
        '        return estimator.start == "prior"\n',
        "        return False\n",
        ("tests/evidence/test_marginal_likelihood.py::test_guides_that_lack_a_site_or_have_one_too_many",),
    ),
    Mutation(
        "model_guide/sites.py",
        '        equal = equal | ~mask.reshape(mask.shape + (1,) * len(site["fn"].event_shape))\n',
        "        pass\n",
        ("tests/learners/test_dreams.py::test_what_is_masked_off_needn_t_be_in_the_arguments_of_a_dream",),
    ),
    Mutation(
        "model_guide/sites.py",
        "    return mask is False or bool(equal.all())",
        "    return True",
        ("tests/learners/test_dreams.py::test_what_is_masked_off_needn_t_be_in_the_arguments_of_a_dream",),
    ),
    Mutation(
        "learners/dreams.py",
        "        for index, arg in enumerate(args[:number]):",
        "        for index, arg in enumerate(args):",
        ("tests/test_arguments.py::test_learners_take_the_steps_of_plain_tensors",),
    ),
    Mutation(
        "learners/mcem.py",
        "chains.positions.shape[-1] != space.dim:",
        "space.dim == 0:",
        ("tests/test_arguments.py::test_chains_of_other_latents_are_told_and_the_remedy_works",),
    ),
    Mutation(
        "training/minibatches.py",
        "{constants} {form.numbers} {checksum(form.wholes)}",
        "{form.numbers}",
        ("tests/test_arguments.py::test_a_run_with_another_flag_is_not_resumed",),
    ),
    Mutation(
        "data_parts.py",
        "if np.ma.is_masked(array):",
        "if False:",
        ("tests/test_data_source.py::test_masked_arrays_are_refused",),
    ),
    Mutation(
        "data_source.py",
        "int(index[place])",
        "place",
        ("tests/test_data_source.py::test_what_is_not_finite_is_named_by_its_row",),
    ),
    Mutation(
        "checks.py",
        'if number is not None and not hasattr(number, "__index__"):',
        "if number == name:",
        ("tests/training/test_messages.py::test_numbers_that_are_no_integers",),
    ),
    Mutation(
        "model_guide/contract.py",
        "if isinstance(value, np.ndarray | Frame) and not isinstance(value, Tensor):",
        "if value is None:",
        ("tests/training/test_messages.py::test_a_frame_where_a_tensor_is_expected",),
    ),
    Mutation(
        "datasets/image_folders.py",
        "if width * height > MOST_PIXELS:",
        "if width < 0:",
        (f"{ARRAYS}::test_a_file_that_says_what_it_is_not",),
    ),
    Mutation(
        "datasets/delimited.py",
        'newline=""), strict=True, delimiter',
        'newline=""), delimiter',
        ("tests/datasets/test_delimited.py::test_a_quote_that_is_not_closed_swallows_no_rows",),
    ),
    Mutation(
        "training/computed_permutation.py",
        "result[beyond] = self._network(result[beyond])",
        "result[beyond] %= self._size",
        ("tests/training/test_computed_permutation.py::test_it_is_a_permutation",),
    ),
    Mutation(
        "training/computed_permutation.py",
        "for key in self._keys:",
        "for key in self._keys[:2]:",
        ("tests/training/test_computed_permutation.py::test_places_and_what_is_there_are_independent",),
    ),
    Mutation(
        "training/step_plan.py",
        "if isinstance(source, Stream) and source.once and (epochs or 1) > 1:",
        "if False:",
        ("tests/training/test_messages.py::test_a_generator_has_one_pass",),
    ),
    Mutation(
        "training/checkpoint.py",
        'if content["format"] < FORMAT:',
        "if False:",
        ("tests/training/test_run.py::test_an_older_format_is_said",),
    ),
    Mutation(
        "vae/bounded.py",
        "if self._numbers > self._most_numbers:",
        "if False:",
        (f"{SAVING}::test_a_description_of_what_is_too_large_is_refused_before_it_is_built",),
    ),
    Mutation(
        "vae/saving.py",
        'if record["checksum"] != checksum(record):',
        "if False:",
        (f"{SAVING}::test_another_number_in_a_description_is_no_other_model",),
    ),
    Mutation(
        "datasets/image_folders.py",
        "seen = _on_white(image, path) if image.has_transparency_data else None",
        "seen = None",
        (f"{ARRAYS}::test_transparent_images_lie_on_white",),
    ),
    Mutation(
        "datasets/image_folders.py",
        "if least < most and seen",
        "if least > most and seen",
        (f"{ARRAYS}::test_a_white_shape_on_nothing_is_refused_and_the_remedy_works",),
    ),
    # -- learners: what trains nothing --------------------------------------------------------------------------------
    Mutation(
        "learners/checks.py",
        "if count == FIRST_UPDATES:",
        "if False:",
        (f"{FIRST}::test_parameters_without_a_gradient_are_named_once",),
    ),
    Mutation(
        "learners/checks.py",
        "if leaf.requires_grad and name not in self.had",
        "if name not in self.had",
        (f"{FIRST}::test_what_is_left_out_on_purpose_is_not_named",),
    ),
    Mutation(
        "learners/trained_pair.py",
        "for name, parameter in offered.items() if id(parameter) in own",
        "for name in offered",
        (f"{FIRST}::test_a_module_that_takes_over_what_the_store_has_is_not_refused",),
    ),
    Mutation(
        "learners/checks.py",
        "sorted(set(strangers) & set(trained))",
        "sorted(set(strangers) - set(strangers))",
        (f"{FIRST}::test_the_second_module_of_a_name_is_refused_and_a_new_name_is_not",),
    ),
    # -- training -----------------------------------------------------------------------------------------------------
    Mutation(
        "training/minibatches.py",
        "return None  # the pass isn't counted: a run that goes on may have more of them",
        "self._done += 1; return None",
        (
            "tests/training/test_run.py::"
            "test_a_stream_that_has_ended_goes_on_for_as_many_passes_as_there_are_now[1-3-any]",
        ),
    ),
    Mutation(
        "training/dry_run.py",
        "if size == len(batch.rows[0]):",
        "if False:",
        (
            "tests/training/test_dry_run.py::"
            "test_what_counts_once_takes_a_plate_that_knows_n_and_the_remedy_works[False-a prior on theta]",
        ),
    ),
    Mutation(
        "training/minibatches.py",
        "self._place += len(places)",
        "self._place += self.batch_size + 1",
        ("tests/training/test_fit.py::test_every_pass_is_a_permutation",),
    ),
    Mutation(
        "training/loop.py",
        "-info.loss / learner.dataset_size",
        "-info.loss",
        ("tests/learners/test_mcem.py::test_its_history_is_in_nats_per_datapoint",),
    ),
    Mutation(
        "training/run.py",
        'self._check_settings(state["settings"])',
        "pass",
        ("tests/training/test_run.py::test_a_checkpoint_of_another_run_is_refused",),
    ),
    Mutation(
        "training/run.py",
        """        self.learner.read_losses()
        self.history.seconds""",
        "        self.history.seconds",
        ("tests/training/test_run.py::test_a_loss_that_is_read_late_is_read_before_anything_is_kept",),
    ),
    Mutation(
        "data_parts.py",
        "    return torch.as_tensor(array, dtype=torch.get_default_dtype())",
        "    return torch.as_tensor(array[:-1], dtype=torch.get_default_dtype())",
        ("tests/evidence/test_kinds_of_data.py::test_every_kind_of_data_gives_log_p",),
    ),
    Mutation(
        "model_guide/sites.py",
        "fn, mask = fn.base_dist, joint_mask(mask, _as_written(fn._mask))",
        "break",
        ("tests/model_guide/test_distribution_masks.py::test_log_p_is_that_of_what_is_there[importance-model]",),
    ),
    Mutation(
        "model_guide/sites.py",
        "joint_mask(mask, _as_written(fn._mask))",
        "joint_mask(mask, fn._mask)",
        (
            "tests/model_guide/test_distribution_masks.py::"
            "test_a_value_that_is_summed_out_is_one_thing_where_it_is_masked_off[True]",
        ),
    ),
    Mutation(
        "model_guide/enumeration.py",
        'self._is_there or msg["name"] in self._param_dims',
        "self._is_there",
        ("tests/model_guide/test_enumeration.py::test_a_chain_that_the_guide_samples_is_the_one_without_markov",),
    ),
    Mutation(
        "training/dry_run.py",
        "with moved(parameter.unconstrained for parameter in (learner.theta | learner.phi).values()):",
        "with moved(()):",
        ("tests/model_guide/test_places.py::test_it_is_refused_in_minibatches_before_anything_is_trained",),
    ),
    Mutation(
        "training/minibatches.py",
        "if self.batch_size == size:",
        "if False:",
        ("tests/model_guide/test_places.py::test_an_entry_for_each_datapoint_is_trained_on_all_of_them_at_once",),
    ),
    Mutation(
        "evidence/estimator.py",
        "    if len(batches) > 1 or batches.shuffled:\n        with",
        "    if False:\n        with",
        ("tests/model_guide/test_places.py::test_an_evaluation_takes_all_of_the_data_at_once",),
    ),
    Mutation(
        "capture/capture.py",
        "if hooked := [name for name, parameter in parameters.items() if _has_hook(parameter)]:",
        "if hooked := list[str]():",
        ("tests/capture/test_stateful.py::test_hooks_of_gradients_and_modules_are_called",),
    ),
    Mutation(
        "capture/reach.py",
        '            self._hidden.append(("the place of the iterator", name))',
        "            pass",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[a_generator_function]",),
    ),
    Mutation(
        "learners/optimizer.py",
        "its[key] = value.clone().to(its[key].device)",
        "pass",
        ("tests/learners/test_optimizer.py::test_a_state_keeps_the_precision_of_its_numbers",),
    ),
    Mutation(
        "training/dry_run.py",
        "        _check_all(learner, feed, len(first.rows[0]))\n",
        "",
        ("tests/learners/test_learner.py::test_one_grey_image_in_ten_thousand_is_found_before_the_first_step",),
    ),
    Mutation(
        "data_source.py",
        "DrawParts | None = DrawParts(self._draws) if any(self._draws) else None",
        "DrawParts | None = (lambda *rows: DrawParts(self._draws)(*rows)) if any(self._draws) else None",
        ("tests/training/test_fit.py::test_several_runs_trace_a_step_once",),
    ),
    Mutation(
        "training/validation.py",
        "value > history.best.values[self.monitor]",
        "value < history.best.values[self.monitor]",
        ("tests/training/test_validation.py::test_it_stops_early_and_keeps_the_best",),
    ),
    Mutation(
        "training/validation.py",
        ">= self.patience",
        "> self.patience",
        ("tests/training/test_validation.py::test_it_stops_early_and_keeps_the_best",),
    ),
    Mutation(
        "training/validation.py",
        " and self.monitor in record.values",
        "",
        ("tests/training/test_run_settings.py::test_what_may_change_takes_effect[takes_patience]",),
    ),
    Mutation(
        "training/loop.py",
        "(total is None or history.samples < total) and self.run.has_ended()",
        "False",
        ("tests/training/test_run_settings.py::test_what_may_change_takes_effect[takes_callbacks]",),
    ),
    Mutation(
        "training/run.py",
        "self._before_asking = before if asked else None",
        "self._before_asking = None",
        ("tests/training/test_run_settings.py::test_what_may_change_takes_effect[takes_callbacks]",),
    ),
    Mutation(
        "training/run.py",
        "self.parts[name].load_state_dict(state)",
        "pass",
        ("tests/training/test_run.py::test_a_run_that_a_callback_ended_goes_on_to_where_those_of_now_end_it[tensor]",),
    ),
    Mutation(
        "training/history.py",
        "[2 * e for e in table[name + ERROR]]",
        "[e for e in table[name + ERROR]]",
        ("tests/training/test_history.py::test_a_band_is_two_standard_errors_wide_on_either_side",),
    ),
    Mutation(
        "training/run.py",
        "        self.learner.to_use()\n",
        "",
        (f"{FREE}::test_each_evaluation_is_of_the_means_and_so_is_what_is_left",),
    ),
    Mutation(
        "training/loop.py",
        "            self.run.learner.to_use()",
        "            pass",
        (f"{FREE}::test_a_run_that_is_cut_short_leaves_the_means[RuntimeError]",),
    ),
    # -- vae ----------------------------------------------------------------------------------------------------------
    Mutation(
        "vae/likelihoods.py",
        "dist.NegativeBinomial(log_count.exp(), logits=log_mean - log_count)",
        "dist.NegativeBinomial(log_count.exp(), logits=log_mean)",
        ("tests/vae/test_likelihood_parameters.py::test_parameters_mean_what_they_say",),
    ),
    Mutation(
        "vae/likelihoods.py",
        "dist.Normal(loc, (0.5 * log_variance).exp())",
        "dist.Normal(loc, log_variance.exp())",
        ("tests/vae/test_likelihood_parameters.py::test_parameters_mean_what_they_say",),
    ),
    Mutation(
        "vae/likelihoods.py",
        "half * (1 + centre), half * log_scale.exp()",
        "half * centre, half * log_scale.exp()",
        ("tests/vae/test_likelihood_parameters.py::test_levels_mean_what_they_say",),
    ),
    Mutation(
        "vae/posteriors.py",
        "loc, log_variance = outputs.chunk(2, -1)\n        return dist.Normal(loc, (0.5 * log_variance).exp())",
        "loc, log_variance = outputs.chunk(2, -1)\n        return dist.Normal(loc, log_variance.exp())",
        ("tests/vae/test_posterior_parameters.py::test_a_diagonal_gaussian_is_a_mean_and_the_logarithm_of_a_variance",),
    ),
    Mutation(
        "vae/networks.py",
        "module.in_features**-0.5",
        "module.out_features**-0.5",
        ("tests/vae/test_vae.py::test_initialisation",),
    ),
    Mutation(
        "training/saved_pair.py",
        'if metadata.get("sha256") != _checksum(record, tensors):',
        "if False:",
        ("tests/training/test_saved_pair.py::test_a_damaged_file_is_refused",),
    ),
    Mutation(
        "training/saved_pair.py",
        "*module.named_parameters(recurse=False)",
        "*()",
        ("tests/training/test_saved_pair.py::test_modules_come_back_with_buffers_and_what_is_not_trained",),
    ),
    Mutation(
        "training/signals.py",
        "if self._answer and not self.interrupted:",
        "if self._answer:",
        ("tests/training/test_signals.py::test_ctrl_c_is_answered_at_once_and_says_how_to_go_on",),
    ),
    Mutation(
        "progress_bar.py",
        "sys.stderr.isatty() or in_notebook()",
        "sys.stderr.isatty()",
        ("tests/test_progress_bar.py::test_a_bar_moves_in_terminals_and_notebooks",),
    ),
    Mutation(
        "short_repr.py",
        "len(text) <= MOST",
        "len(text) >= 0",
        ("tests/test_short_repr.py::test_a_value_in_a_few_words",),
    ),
    Mutation(
        "vae/vae.py",
        "self.prior.begin(self._seen)",
        "pass",
        ("tests/vae/test_vae.py::test_the_components_of_a_vamp_prior_are_the_codes_of_the_data_it_began_with",),
    ),
    Mutation(
        "vae/checks.py",
        "fits = value.expand(expected).shape == expected and (",
        "fits = value is not None or (",
        ("tests/vae/test_covariates.py::test_x_is_made_of_as_many_covariates_as_are_given_or_of_one_row",),
    ),
    Mutation(
        "vae/verbs.py",
        "return found if torch.equal(found.to(x.dtype), x) else x",
        "return found",
        ("tests/vae/test_checks.py::test_whole_numbers_are_taken_by_likelihoods_of_these",),
    ),
    Mutation(
        "vae/checks.py",
        'remedy = "pass x[None] for one datapoint"',
        'remedy = "flatten with x.flatten(1)"',
        ("tests/vae/test_checks.py::test_a_remedy_for_x_of_another_shape_works",),
    ),
    Mutation(
        "vae/checks.py",
        "if dataset_size not in (None, own):",
        "if dataset_size is own:",
        ("tests/vae/test_checks.py::test_what_a_posterior_without_an_encoder_can_not_have_is_refused",),
    ),
    # -- cli ----------------------------------------------------------------------------------------------------------
    Mutation(
        "cli/uses.py",
        """    law = run.noise(kind, size, x, **rows.known)
    if rows.observed is not None:""",
        """    law = None
    if rows.observed is not None:""",
        ("tests/cli/test_tables.py::test_what_a_table_can_not_be_used_for_is_one_sentence",),
    ),
    Mutation(
        "datasets/delimited.py",
        "text = _with_tabs(path, _decoded(path))",
        "text = _decoded(path)",
        ("tests/datasets/test_table.py::test_blanks_between_the_cells_of_a_txt",),
    ),
    Mutation(
        "datasets/scaled_rows.py",
        "(array.ndim > 2 or found.high > 127)",
        "array.ndim > 2",
        ("tests/cli/test_kinds_of_files.py::test_flat_arrays_of_8_bits_are_pixels_if_they_are_bright",),
    ),
    Mutation(
        "datasets/scaled_rows.py",
        "two = ends is not None and len(ends) <= 2",
        "two = True",
        ("tests/cli/test_kinds_of_files.py::test_black_and_white_images_are_binary",),
    ),
    Mutation(
        "cli/follow.py",
        "if found.missing or found.infinite:",
        "if found.infinite:",
        ("tests/cli/test_cli.py::test_what_can_not_be_trained_is_told_before",),
    ),
    Mutation(
        "cli/tables.py",
        "value=evidence.value + added, upper=upper",
        "value=evidence.value, upper=upper",
        (f"{TABLES}::test_another_unit_adds_its_logarithm",),
    ),
    Mutation(
        "cli/tables.py",
        "score=found.score - torch",
        "score=found.score + 0 * torch",
        (f"{TABLES}::test_scores_are_in_these_units_and_among_those_of_a_reference",),
    ),
    Mutation(
        "cli/table_numbers.py",
        "mean + above * cells.variance if above.any() else mean",
        "mean",
        (f"{TABLES}::test_central_numbers_are_means_in_the_units_of_the_cells_and_most_probable_levels",),
    ),
    Mutation(
        "datasets/filled_cells.py",
        "(np.log(column.raw(draws[..., d]).mean(0)) - column.loc) / column.scale",
        "draws[..., d].mean(0)",
        (f"{TABLES}::test_holes_are_filled_in_and_the_rest_stays",),
    ),
    Mutation(
        "cli/table_numbers.py",
        "size / column.scale for column in columns",
        "size for column in columns",
        (f"{TABLES}::test_a_table_is_freed_of_noise_in_the_units_of_its_cells",),
    ),
    Mutation(
        "datasets/delimited.py",
        "(other in decimal or ",
        "(",
        ("tests/datasets/test_delimited.py::test_a_mark_of_thousands_is_never_read_as_one_of_decimals",),
    ),
    Mutation(
        "datasets/delimited.py",
        """key=re.sub('"[^"]*"', "", first).count""",
        "key=first.count",
        ("tests/datasets/test_delimited.py::test_separators_inside_of_quotes_separate_nothing",),
    ),
    Mutation(
        "datasets/table.py",
        "if numbers and not is_header(first):",
        "if numbers and not first:",
        ("tests/datasets/test_table.py::test_files_that_are_no_tables_are_refused",),
    ),
    Mutation(
        "datasets/image_folders.py",
        'if getattr(image, "n_frames", 1) > 1:',
        "if image is None:",
        ("tests/datasets/test_array_files.py::test_a_tiff_of_several_pages_or_of_16_bits_is_refused",),
    ),
    Mutation(
        "cli/parts.py",
        '{"train": order[count:].numpy(), "validation"',
        '{"train": np.arange(count, size), "validation"',
        ("tests/cli/test_training_data.py::test_a_held_out_part_is_not_trained_on",),
    ),
    Mutation(
        "cli/config.py",
        "if self.full_vb and self.learner not in FULL_VB:",
        "if self.full_vb and not self.learner:",
        ("tests/cli/test_full_vb.py::test_learners_without_global_latents_are_refused",),
    ),
    Mutation(
        "cli/train.py",
        "full.put_middle()",
        "pass",
        ("tests/cli/test_full_vb.py::test_a_run_is_that_of_the_library",),
    ),
    Mutation(
        "cli/config.py",
        "if self.full_vb and self.theta_prior is not None:",
        "if self.full_vb and self.theta_prior is self:",
        ("tests/cli/test_full_vb.py::test_a_prior_on_a_point_beside_q_theta_is_refused",),
    ),
    Mutation(
        "cli/build.py",
        "make(particles, **options, vectorize=False)",
        "make(particles, **options)",
        ("tests/cli/test_full_vb.py::test_every_objective_trains_q_theta",),
    ),
    Mutation(
        "cli/trained_run.py",
        "if self.config.full_vb and not beside:",
        "if self.config.full_vb and beside is None:",
        ("tests/cli/test_full_vb.py::test_a_folder_whose_q_theta_is_gone_or_another_vaes",),
    ),
    Mutation(
        "cli/trained_run.py",
        "CHUNK if self.full is None else 1",
        "CHUNK",
        ("tests/cli/test_full_vb.py::test_each_sample_has_a_theta_of_its_own",),
    ),
    Mutation(
        "cli/evaluate.py",
        "        num_global_draws=draws,\n",
        "",
        ("tests/cli/test_full_vb.py::test_evaluate_is_the_posterior_predictive",),
    ),
    Mutation(
        "vae/saving.py",
        "tensors.pop(name) for name",
        "tensors[name] for name",
        ("tests/vae/test_saving.py::test_tensors_beside_a_vae_are_those_that_were_saved_with_it",),
    ),
    Mutation(
        "vae/labels.py",
        "        unknown: Any = label < 0\n",
        "        unknown: Any = label >= 0\n",
        ("tests/vae/test_labels.py::test_one_minibatch_has_the_bounds_of_both_halves",),
    ),
    Mutation(
        "vae/labels.py",
        "torch.where(known, observed, drawn)",
        "drawn",
        ("tests/vae/test_labels.py::test_the_bound_is_the_papers",),
    ),
    Mutation(
        "vae/hierarchy.py",
        "heights[layer] + apply_network(",
        "apply_network(",
        ("tests/vae/test_hierarchy.py::test_it_is_the_model_written_by_hand",),
    ),
    Mutation(
        "vae/shapes.py",
        "movedim(-1 - len(x_shape), -2)",
        "movedim(-1 - len(x_shape), -1)",
        ("tests/vae/test_shapes.py::test_densities_are_those_of_the_flat_x",),
    ),
    Mutation(
        "vae/checks.py",
        "label.is_floating_point() or label.min() < 0 or",
        "label.is_floating_point() or",
        ("tests/vae/test_labels.py::test_what_is_drawn_or_decoded_of_a_label_needs_a_label_that_there_is",),
    ),
    Mutation(
        "vae/checks.py",
        "given not in (True, x_shape)",
        "given is None",
        ("tests/vae/test_shapes.py::test_what_is_refused",),
    ),
    Mutation(
        "posterior/sample.py",
        "anew = (likelihood.site,) if values else likelihood.observed",
        "anew = likelihood.observed",
        ("tests/vae/test_labels.py::test_x_is_drawn_of_the_label_that_is_asked_for",),
    ),
    Mutation(
        "posterior/gate.py",
        "if self._path is not None and (summed :=",
        "if False and (summed :=",
        ("tests/vae/test_labels.py::test_uses_that_need_one_continuous_latent_say_so",),
    ),
    Mutation(
        "vae/missingness.py",
        "torch.where(observed, pyro.sample(X, of_observed, obs=x), drawn)",
        "torch.where(observed, drawn, pyro.sample(X, of_observed, obs=x))",
        ("tests/vae/test_missingness.py::test_the_bound_is_that_of_the_paper",),
    ),
    Mutation(
        "vae/missingness.py",
        'slope if self.missing == "below" else -slope',
        "-slope",
        ("tests/vae/test_missingness.py::test_small_values_may_be_what_is_missing",),
    ),
    Mutation(
        "learners/reweighted_wake_sleep.py",
        "if n not in of_model",
        "if n != of_model",
        ("tests/vae/test_missingness.py::test_reweighted_wake_sleep_follows_it_too",),
    ),
    Mutation(
        "posterior/impute.py",
        '{"observed": observed} if masked["model"] else {}',
        "{}",
        ("tests/vae/test_missingness.py::test_missing_cells_given_the_mask",),
    ),
    Mutation(
        "posterior/impute.py",
        "((size + 1) * (1 + side * coverage) / 2 - 1)",
        "(size - 1) * ((1 + side * coverage) / 2)",
        ("tests/posterior/test_impute.py::test_an_interval_of_few_draws_has_its_probability",),
    ),
    Mutation(
        "posterior/impute.py",
        "latent not in reading.latents",
        "latent in reading.latents",
        ("tests/vae/test_missingness.py::test_missing_cells_given_the_mask",),
    ),
    Mutation(
        "posterior/impute.py",
        "shapes[0] != shapes[1]",
        "len(shapes) != 2",
        ("tests/vae/test_missingness.py::test_missing_cells_of_another_shape_are_refused",),
    ),
    Mutation(
        "datasets/workbook.py",
        "(code if code < 1 << 31 else code - (1 << 32)) >> 2",
        "code >> 2",
        ("tests/datasets/test_uci_tables.py::test_a_workbook_of_every_kind_of_number",),
    ),
    Mutation(
        "cli/options.py",
        'if settings.model is not None and "model" not in used:',
        "if False:",
        ("tests/cli/test_own_pair.py::test_code_runs_only_where_it_is_named",),
    ),
    Mutation(
        "cli/options.py",
        "        _check_same(base, settings, earlier)",
        "        pass",
        ("tests/cli/test_cli.py::test_another_model_can_not_resume",),
    ),
    Mutation(
        "cli/own_run.py",
        "load_pair(*self._pair, self.folder, whole if len(whole) else self._drawn())",
        "pass",
        ("tests/cli/test_own_pair.py::test_log_p_of_a_trained_pair_is_that_of_the_closed_form",),
    ),
    Mutation(
        "cli/config.py",
        "self._with_paths(lambda name: os.path.relpath(name, folder))",
        "self",
        ("tests/cli/test_cli.py::test_a_relative_path_is_found_again_from_another_folder",),
    ),
    Mutation(
        "cli/evaluate.py",
        "BDMC(annealing, chain=chain)",
        "BDMC(annealing)",
        ("tests/cli/test_cli.py::test_evaluate_asks_for_the_method_with_its_options",),
    ),
    Mutation(
        "cli/config.py",
        "if value != int(value):",
        "if False:",
        (f"{CLI}::test_a_value_of_another_type_is_refused",),
    ),
    Mutation(
        "diagnostics/uniform_ranks.py",
        "self.below + (share * (self.equal + 1)).long().clamp(max=self.equal)",
        "self.below",
        ("tests/diagnostics/test_uniform_ranks.py::test_ties_are_broken_evenly",),
    ),
    Mutation(
        "diagnostics/uniform_ranks.py",
        "(gamma / 2, 1 - gamma / 2)",
        "((1 - coverage) / 2, (1 + coverage) / 2)",
        ("tests/diagnostics/test_uniform_ranks.py::test_uniform_ranks_stay_in_the_band_as_often_as_it_says",),
    ),
    Mutation(
        "diagnostics/simulations.py",
        "_check_masks(self._reading(args), read(model, guide, made))",
        "pass",
        (f"{CALIBRATION}::test_a_mask_that_is_made_from_x_is_refused_and_one_that_is_passed_passes",),
    ),
    Mutation(
        "diagnostics/simulations.py",
        "minibatches(args, self._at_once), 0",
        "minibatches(args, options.batch_size), 0",
        (f"{CALIBRATION}::test_batches_change_nothing_and_a_seed_decides",),
    ),
    Mutation(
        "diagnostics/simulations.py",
        "        if not some.all():\n",
        "        if False:\n",
        (f"{CALIBRATION}::test_draws_that_are_not_to_be_trusted_are_counted",),
    ),
    Mutation(
        "diagnostics/sbc.py",
        "    every = both | {LOG_JOINT: joint}",
        "    every = both | {LOG_JOINT: joint * 0}",
        (f"{CALIBRATION}::test_what_each_dimension_by_itself_hides_is_seen_in_the_density",),
    ),
    Mutation(
        "diagnostics/tarp.py",
        "slice(1 - half, None, 2)",
        "slice(half, None, 2)",
        (f"{CALIBRATION}::test_a_reference_point_is_no_function_of_its_own_z",),
    ),
    Mutation(
        "diagnostics/local_c2st.py",
        "(0.5 if number else 0.0)",
        "0.0",
        (f"{LOCAL_C2ST}::test_an_exact_guide_has_no_wrong_datapoints_and_uniform_p_values",),
    ),
    Mutation(
        "diagnostics/local_c2st.py",
        "x.repeat(num_draws, 1)",
        "x.repeat_interleave(num_draws, 0)",
        (f"{LOCAL_C2ST}::test_a_guide_that_is_wrong_for_a_tenth_is_caught_for_those_and_only_those",),
    ),
    Mutation(
        "diagnostics/latent_dimensions.py",
        "between - noise.mean(0) / num_particles",
        "between",
        ("tests/diagnostics/test_report.py::test_the_noise_of_few_draws_makes_no_dimension_active",),
    ),
    Mutation(
        "diagnostics/latent_dimensions.py",
        "name in closed_form",
        "True",
        ("tests/diagnostics/test_report.py::test_a_kl_that_has_no_closed_form_is_sampled",),
    ),
    Mutation(
        "diagnostics/report.py",
        "*(-each for each in kl.values())",
        "*kl.values()",
        ("tests/diagnostics/test_report.py::test_the_parts_of_the_bound_are_those_in_closed_form",),
    ),
    Mutation(
        "plots.py",
        "padding=gap, pad_value=1.0",
        "padding=gap",
        ("tests/test_plots.py::test_a_gap_is_white_and_between_images_alone",),
    ),
    Mutation(
        "cli/report.py",
        "num_gap=gap",
        "num_gap=0",
        ("tests/cli/test_report.py::test_a_report_in_words_and_a_page",),
    ),
    Mutation(
        "cli/config.py", "dropped | changed", "changed", (f"{CLI}::test_samples_and_epochs_take_each_others_place",)
    ),
    Mutation(
        "cli/tables.py",
        "if taken := sorted(set(found) & set(there)):",
        "if taken := sorted(set(found) & {None}):",
        (f"{TABLES}::test_ends_of_intervals_take_no_columns_place",),
    ),
    Mutation(
        "cli/tables.py",
        "while name in columns or name in found:",
        "if name in columns:",
        (f"{TABLES}::test_names_of_rows_take_no_columns_place",),
    ),
    Mutation(
        "datasets/columns.py",
        "if not NUMBER.fullmatch(plain):",
        "if plain:",
        ("tests/datasets/test_table.py::test_a_number_is_one_level_however_it_is_written",),
    ),
    Mutation(
        "datasets/columns.py",
        "if isinstance(cell, bool | np.bool_):",
        "if isinstance(cell, bool):",
        ("tests/datasets/test_table.py::test_booleans_are_one_pair_of_levels",),
    ),
    Mutation(
        "datasets/columns.py",
        'if kind == "ordered" and None in map(as_number, levels):',
        'if kind == "ordered" and not levels:',
        ("tests/datasets/test_table.py::test_ordered_text_needs_an_order_and_the_remedy_works",),
    ),
    Mutation(
        "datasets/columns.py",
        'return Column(name, "ordered", levels=levels)',
        'return Column(name, "ordered", levels=tuple(sorted(levels)))',
        ("tests/datasets/test_table.py::test_levels_of_text_have_the_order_that_is_said",),
    ),
    Mutation(
        "cli/config.py",
        'before, ordered, levels = line.partition("=ordered:")',
        'before, ordered, levels = line, "", ""',
        ("tests/cli/test_config_values.py::test_a_value_has_its_fields_type",),
    ),
    Mutation(
        "cli/parts.py",
        "if _is_changed(known, arrays):",
        "if not known:",
        ("tests/cli/test_training_data.py::test_rows_that_moved_or_changed_are_not_those_that_were_held_out",),
    ),
    Mutation(
        "cli/data.py",
        "splits[DIGEST] = digest_of(found.table.numbers)",
        "splits = dict(splits)",
        (f"{TABLES}::test_a_run_on_a_table_holds_rows_out_and_goes_on",),
    ),
    Mutation(
        "cli/train.py",
        "if not _alike(there.get(name), now.get(name))",
        "if name not in now",
        (f"{TABLES}::test_a_run_goes_on_with_the_units_and_the_levels_that_it_began_with",),
    ),
    Mutation(
        "cli/train.py",
        "elif data.classes != (classes := read_classes(folder)):",
        "elif data.classes and len(data.classes) != len(classes := read_classes(folder)):",
        ("tests/cli/test_classes.py::test_a_run_goes_on_with_the_classes_that_it_began_with",),
    ),
    Mutation(
        "cli/data.py",
        "(known == WHITE or array.max() > 1)",
        "array.max() > 1",
        ("tests/cli/test_training_data.py::test_a_later_file_of_bytes_has_the_units_of_the_run",),
    ),
    Mutation(
        "cli/data.py",
        "if colours and contents.images and array.ndim == 3:",
        "if colours and array.ndim == 2:",
        ("tests/cli/test_training_data.py::test_a_model_of_colours_takes_grey_images",),
    ),
    Mutation(
        "cli/uses.py",
        "name: [cell if keep else None for cell",
        "name: [cell for cell",
        (f"{TABLES}::test_an_array_of_real_numbers_is_a_table_without_names",),
    ),
    Mutation(
        "cli/uses.py",
        'if part in ("train", "validation") and (table',
        "if part is rows and (table",
        (f"{TABLES}::test_an_array_of_real_numbers_is_a_table_without_names",),
    ),
    Mutation(
        "vae/saving.py",
        "    kept_densities.check(vae, kept)\n",
        "",
        (
            "tests/vae/test_kept_densities.py::"
            "test_a_part_that_computes_something_else_is_refused_and_the_same_one_is_taken[the encoder's activation]",
        ),
    ),
    Mutation(
        "vae/kept_densities.py",
        "if half in PARTS and not",
        'if half == "guide" and not',
        (
            "tests/vae/test_kept_densities.py::"
            "test_a_part_that_computes_something_else_is_refused_and_the_same_one_is_taken[the prior's scale]",
        ),
    ),
    Mutation(
        "vae/kept_densities.py",
        "if any(not _is_close(found[name], again[name], 0.0) for name in found):",
        "if False:",
        ("tests/vae/test_kept_densities.py::test_a_network_with_random_numbers_of_its_own_is_not_compared",),
    ),
    Mutation(
        "learners/wake_sleep.py",
        'elbo = (log_joint - reading.total("guide", "local", "auxiliary")) / self.dataset_size',
        "log_p = reading.sum_log_prob((reading.latents | reading.observations).values())\n"
        "            elbo = (log_p - reading.sum_log_prob(reading.proposals.values())).mean()",
        ("tests/learners/test_step_infos.py::test_the_elbo_counts_what_the_loss_counts",),
    ),
    Mutation(
        "model_guide/structure.py",
        "return found | {name: reading.log_prob(site) for name, site in sites.items()}",
        "return {name: reading.log_prob(site) for name, site in sites.items()}",
        ("tests/model_guide/test_edges.py::test_a_global_latent_that_takes_all_particles_at_once_is_noticed",),
    ),
    Mutation(
        "evidence/auto.py",
        "if self.quadrature is not None and takes(space)",
        "if takes(space)",
        (f"{AUTO}::test_without_quadrature_every_value_is_a_lower_bound",),
    ),
    Mutation(
        "evidence/auto.py",
        "if self.quadrature is not None and takes(space)",
        "if False",
        (f"{AUTO}::test_a_mode_that_the_guide_misses_is_found",),
    ),
    Mutation(
        "evidence/auto.py",
        "settled=settled, method=method), settled",
        "settled=settled, method=method), torch.ones_like(settled)",
        (f"{AUTO}::test_what_did_not_settle_is_annealed_and_the_record_says_so",),
    ),
    Mutation(
        "evidence/auto.py",
        "together([annealed.direction, *others])",
        "first.direction",
        (f"{AUTO}::test_what_takes_more_points_than_there_are_is_annealed",),
    ),
    Mutation(
        "evidence/auto.py",
        "[first.direction] if len(rows) < len(method) else []",
        "[]",
        (f"{AUTO}::test_the_direction_of_a_minibatch_is_that_of_all_its_methods",),
    ),
    Mutation(
        "evidence/cubature.py",
        "raise InfiniteDensityError(",
        "raise ValueError(",
        (f"{AUTO}::test_a_density_that_overflows_is_annealed",),
    ),
    Mutation(
        "evidence/quadrature.py",
        "space.dim <= MOST_DIMENSIONS and space.has_mass()",
        "space.has_mass()",
        (f"{AUTO}::test_four_latents_are_weighed_or_annealed",),
    ),
    Mutation(
        "evidence/quadrature.py",
        "space.dim <= MOST_DIMENSIONS and space.has_mass()",
        "space.dim <= MOST_DIMENSIONS",
        (f"{AUTO}::test_latents_whose_cells_are_masked_are_not_integrated_over",),
    ),
    Mutation(
        "evidence/estimates.py",
        "together(part.direction for part in parts)",
        "parts[0].direction",
        (f"{AUTO}::test_what_did_not_settle_is_annealed_and_the_record_says_so",),
    ),
    Mutation(
        "evidence/estimates.py",
        'if found <= {"lower", "lower (approximate)", "numerical"}:',
        "if found:",
        (f"{AUTO}::test_minibatches_on_different_sides_are_refused",),
    ),
    Mutation(
        "cli/tables.py",
        "np.array(evidence.directions())",
        "np.array([evidence.direction] * size)",
        ("tests/cli/test_uses.py::test_each_row_has_the_direction_of_its_own_method",),
    ),
    Mutation(
        "distributions/angles.py",
        ', "component0", "component1")',
        ")",
        (f"{ANGLES}::test_angles_are_told_through_whatever_is_around_them[masked mixture]",),
    ),
    Mutation(
        "distributions/angles.py",
        "and not all(map(_turns, each.transforms)):",
        "and False:",
        (f"{ANGLES}::test_angles_in_other_units_are_refused[degrees]",),
    ),
    Mutation(
        "distributions/angles.py",
        "    if is_angle(fn):\n        return mean_angle(fn)",
        "    if is_angle(fn):\n        return fn.mean",
        (f"{OBSERVED_ANGLES}::test_the_mean_of_a_mixture_is_on_the_circle",),
    ),
    Mutation(
        "distributions/angles.py",
        "MixtureSameFamily) and is_directional(fn):",
        "MixtureSameFamily) and False:",
        (f"{ANGLES}::test_a_mixture_of_directions_has_no_mean_of_length_one_to_tell",),
    ),
    Mutation(
        "distributions/angles.py",
        "torch.where(moment.abs() > 10 * torch.finfo(moment.dtype).eps, moment.angle(), torch.nan)",
        "moment.angle()",
        (
            f"{ANGLES}::test_directions_that_cancel_have_no_mean",
            "tests/posterior/test_angles.py::test_an_angle_of_opposite_peaks_has_no_mean",
        ),
    ),
    Mutation(
        "distributions/angles.py",
        "length = torch.special.i1e(fn.concentration) / torch.special.i0e(fn.concentration)",
        "length = torch.ones_like(fn.concentration)",
        (f"{ANGLES}::test_means_of_mixtures_are_on_the_circle_in_every_entry",),
    ),
    Mutation(
        "distributions/table.py",
        "[angles.mean(column) for column in self.columns]",
        "[column.mean for column in self.columns]",
        (f"{ANGLES}::test_a_table_has_the_mean_of_each_column",),
    ),
    Mutation(
        "posterior/angles.py",
        "return torch.tensor([is_angle(column) for column in fn.columns])",
        "return torch.tensor(False)",
        (f"{OBSERVED_ANGLES}::test_directions_of_a_table_are_filled_in_on_the_circle_and_numbers_on_the_line",),
    ),
    Mutation(
        "posterior/angles.py",
        "(values * back).imag / centre.abs()",
        "(values * back).imag",
        (f"{OBSERVED_ANGLES}::test_a_clean_angle_and_its_error_are_those_of_its_direction",),
    ),
    Mutation(
        "posterior/angles.py",
        "            return moment(fn)\n",
        "            return torch.exp(1j * fn.mean)\n",
        (f"{OBSERVED_ANGLES}::test_the_mean_of_a_new_angle_counts_sure_ones_more",),
    ),
    Mutation(
        "posterior/angles.py",
        "return fn.sample() if is_directional(fn) else mean(fn)",
        "return mean(fn)",
        (f"{OBSERVED_ANGLES}::test_the_mean_direction_counts_sure_ones_more",),
    ),
    Mutation(
        "posterior/reconstruct.py",
        "if are_angles(fn).any() or is_directional(fn):",
        "if False:",
        (
            f"{OBSERVED_ANGLES}::test_the_mean_of_a_new_angle_counts_sure_ones_more",
            f"{OBSERVED_ANGLES}::test_the_mean_direction_counts_sure_ones_more",
        ),
    ),
    Mutation(
        "posterior/impute.py",
        "posterior.standard_error(deviations(found.mean, angle))",
        "posterior.standard_error(found.draws)",
        (f"{OBSERVED_ANGLES}::test_the_mean_and_the_error_of_a_missing_angle_are_those_of_its_direction[None]",),
    ),
    Mutation(
        "posterior/denoise.py",
        "place_of(average(means, angles.get(name, NOT_ONE)), site.fn)",
        "average(means, angles.get(name, NOT_ONE))",
        (f"{OBSERVED_ANGLES}::test_a_clean_direction_is_of_length_one",),
    ),
    Mutation(
        "posterior/angles.py",
        "    if not is_directional(fn):\n        return deviations",
        "    if True:\n        return deviations",
        (f"{OBSERVED_ANGLES}::test_a_clean_direction_is_of_length_one",),
    ),
    Mutation(
        "posterior/paths.py",
        "opened.prior(name, None), opened.angles.get(name, NOT_ONE))",
        "opened.prior(name, None), NOT_ONE)",
        (f"{OBSERVED_ANGLES}::test_a_path_of_angles_that_the_guide_tells_goes_the_shorter_way_round",),
    ),
    Mutation(
        "posterior/encode.py",
        "angles.mean_angle(fn) if angle else angles.mean(fn)",
        "angles.mean(fn)",
        ("tests/posterior/test_angles.py::test_the_mean_of_a_mixture_in_the_guide_is_on_the_circle_in_closed_form",),
    ),
    Mutation(
        "samplers/latent_space.py",
        "if is_angle(fn):",
        "if False:",
        ("tests/model_guide/test_turns.py::test_weights_take_less_than_the_bound_and_other_methods_are_the_remedy",),
    ),
    Mutation(
        "posterior/denoise.py",
        "if (are_angles(fn) & ~are_angles(noisy)).any():",
        "if False:",
        (f"{OBSERVED_ANGLES}::test_noise_of_numbers_is_refused_for_angles",),
    ),
    Mutation(
        "posterior/angles.py",
        "-direction(centre))",
        "-centre.angle())",
        (f"{OBSERVED_ANGLES}::test_a_missing_angle_of_opposite_peaks_has_no_mean",),
    ),
    Mutation(
        "diagnostics/simulations.py",
        "return {**values, **turned}",
        "return {**values}",
        ("tests/diagnostics/test_calibration.py::test_angles_are_compared_as_such",),
    ),
    Mutation(
        "diagnostics/simulations.py",
        "[torch.where(angle, each.cos(), each), torch.where(angle, each.sin(), 0)]",
        "[each]",
        ("tests/diagnostics/test_calibration.py::test_angles_on_either_side_of_pi_are_near",),
    ),
    Mutation(
        "datasets/filled_cells.py",
        'if angle and (column.kind != "real" or column.scale != 1):',
        "if False:",
        (f"{OBSERVED_ANGLES}::test_a_vae_fills_in_a_tables_directions",),
    ),
    Mutation(
        "model_guide/contract.py",
        "                raise ValueError(message)\n",
        "                pass\n",
        ("tests/model_guide/test_turns.py::test_several_turns_are_refused_by_every_entry_point[Normal]",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "(draws.amax(0) - draws.amin(0))",
        "draws.abs().amax(0)",
        ("tests/model_guide/test_turns.py::test_within_one_turn_log_p_is_the_integral[a turn away]",),
    ),
    Mutation(
        "evidence/marginal_likelihood.py",
        "wider(reading, guide, batch, most=TURNS_OF_WEIGHTS)",
        "wider(reading, guide, batch, most=1.0)",
        ("tests/model_guide/test_turns.py::test_weights_take_less_than_the_bound_and_other_methods_are_the_remedy",),
    ),
    Mutation(
        "evidence/auto.py",
        "if found or wider(reading, problem.guide, problem.args, most=TURNS_OF_WEIGHTS):",
        "if found:",
        ("tests/model_guide/test_turns.py::test_auto_anneals_where_weights_would_find_other_turns[1.0]",),
    ),
    Mutation(
        "model_guide/log_density.py",
        "                check_noise(model, guide, args, reading, modules)\n",
        "",
        ("tests/model_guide/test_shared_noise.py::test_what_particles_share_is_refused[one-guide]",),
    ),
    Mutation(
        "model_guide/shared_noise.py",
        "return next((name for name in differ if _is_close(one[name][0], one[name][1])), None)",
        "return next(iter(differ), None)",
        ("tests/model_guide/test_shared_noise.py::test_what_each_particle_has_of_its_own_is_taken",),
    ),
    Mutation(
        "model_guide/sites.py",
        "if isinstance(fn, dist.MaskedDistribution) and fn._mask is False:",
        "if False:",
        ("tests/model_guide/test_reparam.py::test_its_site_is_no_observation",),
    ),
    Mutation(
        "random_state.py",
        "        torch.set_rng_state(state)\n",
        "        pass\n",
        ("pyro_aevb/random_state.py",),
    ),
    Mutation(
        "random_state.py",
        "torch.default_generator.manual_seed(seed)",
        "pass",
        ("tests/posterior/test_verbs.py::test_a_seed_decides_and_nothing_else_is_touched[denoise]",),
    ),
    Mutation(
        "capture/clock.py",
        "return tuple(name for each in _code_in(code) for name in each.co_names)",
        "return code.co_names",
        ("tests/capture/test_stateful.py::test_no_step_differs_silently[global_of_a_function_inside]",),
    ),
    Mutation(
        "model_guide/log_density.py",
        "            modules = PythonState([model, guide]).modules  # those too that the first call made\n",
        "",
        ("tests/model_guide/test_modes.py::test_a_module_that_the_first_call_makes_is_evaluated[elbo]",),
    ),
    Mutation(
        "posterior/reconstruct.py",
        "if (event := tuple(value.shape[value.dim() - layout.event :])) != layout.event_shape:",
        "if len(event := tuple(value.shape[value.dim() - layout.event :])) != layout.event:",
        (
            "tests/posterior/test_verbs.py::test_a_latent_that_would_be_stretched_to_the_models_is_refused_and_the_remedy_works",
        ),
    ),
    Mutation(
        "vae/verbs.py",
        '        check_dtype("z", rows, row["x"].dtype)\n',
        "",
        ("tests/vae/test_checks.py::test_codes_of_another_shape_or_dtype_are_refused_and_the_remedies_work",),
    ),
    Mutation(
        "random_state.py",
        'if not hasattr(seed, "__index__"):',
        "if False:",
        ("tests/evidence/test_marginal_likelihood.py::test_bad_options_and_sizes",),
    ),
    Mutation(
        "posterior/noise.py",
        "        check_integers(seed=seed)\n",
        "",
        ("tests/posterior/test_verbs.py::test_a_seed_that_is_no_integer_is_refused[encode]",),
    ),
    Mutation(
        "training/computed_permutation.py",
        "if not kept[0] <= begin <= end <= kept[1]:",
        "if kept[1] >= 0:",
        ("tests/training/test_computed_permutation.py::test_a_hundred_million_rows_take_no_memory_for_their_order",),
    ),
    Mutation(
        "vae/bounded.py",
        "if self._operations > self._most_operations:",
        "if self._operations > 20 * self._most_operations:",
        (f"{SAVING}::test_a_description_of_what_is_too_large_is_refused_before_it_is_built[many flows]",),
    ),
    Mutation(
        "samplers/latent_space.py",
        "return ROUND if not self._cut and is_angle(fn) else bijection(name, fn)",
        "return bijection(name, fn)",
        (
            f"{CIRCLES}::test_mcem_takes_each_side_of_pi_as_often_as_the_posterior_has_it",
            f"{CIRCLES}::test_chains_near_pi_mix_and_are_trusted",
        ),
    ),
    Mutation(
        "samplers/latent_space.py",
        "return wrapped(u)",
        "return u",
        (f"{CIRCLES}::test_a_likelihood_that_tells_turns_apart_has_the_one_from_minus_pi_to_pi",),
    ),
    Mutation(
        "samplers/annealed_path.py",
        "if is_angle(reading.model[name].fn) and not is_angle(site.fn):",
        "if False:",
        (f"{CIRCLES}::test_numbers_are_no_start_for_angles",),
    ),
    Mutation(
        "posterior/chains.py",
        "found = unrolled(torch.stack(kept).flatten(0, 1), angles).reshape(num_samples, *start.shape)",
        "found = torch.stack(kept)",
        (f"{CIRCLES}::test_chains_near_pi_mix_and_are_trusted",),
    ),
    Mutation(
        "evidence/posterior_density.py",
        "rest = near(centre, rest, path.space.angles)",
        "rest = near(0 * centre, rest, path.space.angles)",
        (f"{CIRCLES}::test_log_p_near_pi",),
    ),
    Mutation(
        "evidence/posterior_density.py",
        "log_q = fitted.log_prob(rest) - _log_within_a_turn(fitted, centre, path.space.angles)",
        "log_q = fitted.log_prob(rest)",
        (f"{CIRCLES}::test_a_posterior_as_wide_as_the_circle_has_a_density_within_a_turn",),
    ),
    Mutation(
        "evidence/quadrature.py",
        "cut=True,",
        "cut=False,",
        ("tests/model_guide/test_turns.py::test_weights_take_less_than_the_bound_and_other_methods_are_the_remedy",),
    ),
    Mutation(
        "model_guide/guide_supports.py",
        "turns = TURNS if is_periodic(prior) else (0.0,)",
        "turns = (0.0,)",
        ("tests/model_guide/test_turns.py::test_within_one_turn_log_p_is_the_integral[Uniform of a turn from 0]",),
    ),
    Mutation(
        "learners/mcem.py",
        "if loss.requires_grad:",
        "if True:",
        (
            "tests/learners/test_first_updates.py::test_a_pair_of_which_nothing_gets_a_gradient_is_refused_at_once[MCEM]",
        ),
    ),
    Mutation(
        "model_guide/contract.py",
        "with left_as_they_are(args, kwargs):",
        "if True:",
        ("tests/model_guide/test_changed_arguments.py::test_every_entry_point_refuses_it[read]",),
    ),
    Mutation(
        "capture/capture.py",
        "with in_precision(self.precision), left_as_they_are(args):",
        "with in_precision(self.precision):",
        (
            "tests/model_guide/test_changed_arguments.py"
            "::test_what_is_written_in_training_alone_is_refused_before_a_step_is_made[AEVB-False]",
        ),
    ),
    Mutation(
        "model_guide/unwritten.py",
        "if exc_type is None and value._version != version:",
        "if False:",
        ("tests/model_guide/test_changed_arguments.py::test_a_latent_stays_what_was_drawn[elbo-mul_]",),
    ),
    Mutation(
        "model_guide/traces.py",
        "with _shapes_in_words(), Unwritten():\n        guide_trace",
        "with _shapes_in_words():\n        guide_trace",
        (
            "tests/model_guide/test_changed_arguments.py"
            "::test_a_latent_of_the_guide_and_data_that_are_computed_stay_too",
        ),
    ),
    Mutation(
        "random_state.py",
        "torch.initial_seed() == int(MARK)",
        "True",
        ("tests/model_guide/test_seeds.py::test_every_entry_point_refuses_it",),
    ),
    Mutation(
        "learners/optimizer.py",
        "self._exchange(parameters)",
        "pass",
        ("tests/learners/test_replaced_parameters.py::test_they_are_trained[AEVB-put-False]",),
    ),
    Mutation(
        "learners/optimizer.py",
        "self._optimizer.state.pop(self._leaves[name], None)",
        "pass",
        ("tests/learners/test_replaced_parameters.py::test_an_optimizer_of_the_users_own_takes_them_too",),
    ),
    Mutation(
        "training/dry_run.py",
        "if num_data is None:\n        return\n    reading",
        "if num_data is None or num_data <= len(batch.rows[0]):\n        return\n    reading",
        ("tests/training/test_dry_run.py::test_an_n_that_is_not_that_of_the_data_is_told[False-200]",),
    ),
]


def main(words: list[str]) -> int:
    """Make the breakages that have one of ``words`` in their names; return how many went unnoticed."""
    unnoticed = 0
    for mutation in MUTATIONS:
        if words and not any(word in mutation.name for word in words):
            continue
        start = time.perf_counter()
        try:
            result = mutation.noticed()
        except (AssertionError, ValueError) as error:
            unnoticed += 1
            result = f"NOT NOTICED: {error}"
        print(f"{time.perf_counter() - start:5.1f} s  {mutation.name:<100}  {result}", flush=True)
    print(f"{unnoticed} unnoticed")
    return unnoticed


if __name__ == "__main__":
    raise SystemExit(min(main(sys.argv[1:]), 1))
