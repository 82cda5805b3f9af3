"""What is measured: pure functions over tensors and counts, each metric described once by a ``MetricSpec``.

Every-step measures come in two halves. ``measure_*`` turns tensors into a float64 tensor of raw counts and
sums, one row a layer, without a host synchronisation; the engine puts these rows into one buffer and reads
it once a step. ``evaluate(SPECS, row)`` turns a row that was read back into metrics, and ``pool`` adds rows,
so a layer's rate and the run's rate are the same formula. Undefined (0/0) is None, never 0.0; NaN stays NaN.

    catalogue    Every metric there is, by name
    gradient     The weight gradients by themselves, and the rounded ones against their float32 shadow
    layer_sums   All linear weights in one flat buffer, and how sums over it become sums over layers and rows
    noise        What of a difference between two arms is noise
    persistence  What lasts
    rounding     What rounding did: rates from its counters, and how much of the code space is used
    spec         One metric: name, unit, definition, pooling, the bad side, the level from which it warns
    stall        The stall to expect before an update is made: of Adam, predicted, and of SGD, by the detector
    thresholds   Every threshold of a definition, once
    unreached    How much of a model lies where no setting could round it
    update       What the optimizer's update did to the weights: stall, flips, zero updates, transfer
    verdict      What a whole run came to
    weights      A layer's weights by themselves: on their grid, and by their singular values
"""
