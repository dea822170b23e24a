"""Breakages that tests must notice (:mod:`mutations`): all made when slow tests run, else checked to be makeable."""

import mutations
import pytest

ROOMS = [path.name for path in sorted((mutations.ROOT / "pyro_aevb").iterdir()) if (path / "__init__.py").exists()]
NAMES = [mutation.name for mutation in mutations.MUTATIONS]


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=NAMES)
def test_it_can_be_made(mutation):
    """The snippet stands once in its file, what takes its place is Python, and the tests beside it are there."""
    compile(mutation.broken(), mutation.file, "exec")
    assert not mutation.missing_tests()
    assert mutation.tests


@pytest.mark.slow
@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=NAMES)
def test_it_is_noticed(mutation):
    mutation.noticed()


def test_every_room_has_some():
    assert len(NAMES) == len(set(NAMES)) >= 40
    missing = [room for room in ROOMS if not any(m.file.startswith(f"{room}/") for m in mutations.MUTATIONS)]
    assert not missing, f"write a breakage of {missing}"


def test_a_snippet_that_is_not_there_once_is_named():
    for old, count in (("no such text", 0), ("return", "\\d+")):
        mutation = mutations.Mutation("evidence/elbo.py", old, "", ())
        with pytest.raises(
            ValueError, match=rf"expected '{old}' once in pyro_aevb/evidence/elbo.py, got it {count} times"
        ):
            mutation.broken()
    absent = mutations.Mutation(
        "evidence/elbo.py", "", "", ("tests/none.py::test_a", "tests/test_records.py::test_none")
    )
    assert absent.missing_tests() == list(absent.tests)
