"""What is measured: pure functions over tensors and counts, each metric described once by a ``MetricSpec``.

Every-step measures come in two halves. ``measure_*`` turns tensors into a float64 tensor of raw counts and
sums, one row a layer, without a host synchronisation; the engine puts these rows into one buffer and reads
it once a step. ``evaluate(SPECS, row)`` turns a row that was read back into metrics, and ``pool`` adds rows,
so a layer's rate and the run's rate are the same formula. Undefined (0/0) is None, never 0.0; NaN stays NaN.
"""
