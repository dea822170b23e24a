"""The picture of a run."""

from pyro_aevb.training.history import History, Record


def test_a_band_is_two_standard_errors_wide_on_either_side():
    values = [(-3.0, 0.25), (-2.0, 0.5)]
    records = [
        Record(10 * i, 0.1, {"validation": v, "validation_standard_error": e}) for i, (v, e) in enumerate(values, 1)
    ]
    (axes,) = History(records).plot().axes
    (line,) = axes.lines
    assert line.get_ydata().tolist() == [-3.0, -2.0]
    (band,) = axes.collections
    vertices = {tuple(vertex) for vertex in band.get_paths()[0].vertices.tolist()}
    assert {(10.0, -3.5), (10.0, -2.5), (20.0, -3.0), (20.0, -1.0)} <= vertices
