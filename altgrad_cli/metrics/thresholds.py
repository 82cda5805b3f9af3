"""Every threshold of a definition, once: what warns, what a collapse and a verdict are, what counts as dead.

Plain numbers that alerts, retries, verdicts, diagnoses and reports all read: no two of them can disagree.
"""

from __future__ import annotations

# Rates at which the study warns: of a layer, of a role, of the run. A retry looks for trouble from there on.
OVERFLOW_FROM = 0.01
UNDERFLOW_FROM = 0.01
STALL_FROM = 0.5
"""Also the bit-stall above which an armed emergency shift acts."""

UNREACHED_FROM = 0.1
"""Share of the multiply-adds outside the layers that can be rounded, from which a user's model is said to be
rounded only in part."""

# Stall collapse: both means over the window. Divergence: the smoothed loss against its best, as long.
COLLAPSE_WINDOW = 50
COLLAPSE_TRANSFER = 0.03
COLLAPSE_STALL = 0.98
DIVERGENCE_FACTOR = 1.5
RISING_STEPS = 10

# The verdict by rho, and the causes of anything below ``trained``.
TRAINED_FROM = 0.9
FAILED_BELOW = 0.5
SEED_SPREAD = 0.04
"""How far one seed moves rho: its standard deviation over three seeds of uniform E5M2, E3M4 and E7M0."""
EDGE_WIDTH = 0.05
"""Distance from an edge within which a verdict is borderline: what a seed moves rho by, and a little more."""
ENDS_APART_FROM = 0.1
"""Nats by which the fp32 run has to lie below the frozen one for rho to mean anything.

The distance has a standard deviation of 0.026 nats over three seeds: this is four times that.
"""
ENDS_APART_FROM_LABELS = 0.05
"""The same for the mean loss of labels, which is smaller: most labels of a document are easily ruled out.

The distance has a standard deviation of 0.012 nats over two seeds, pooled over six evaluations, on the
embedded text with its 29 labels: this is four times that.
"""
VERDICT_SEEDS = 3
VERDICT_TEXTS = 2
"""Seeds on each text, and texts, below which what a format came to is a measurement and no verdict."""
UNDERFLOWED_FROM = 0.5
"""Share of a role's values rounded to 0 from which it no longer carries its tensor."""
SATURATED_FROM = 0.1
STALLED_UP_TO = 0.3
"""tau at or below which an update is stalled, and no longer just slowed."""
SLOWED_UP_TO = 0.6
FAITHFUL_FROM = 0.7
"""tau from which a rescue has brought the update back."""
MISLED_BELOW = 0.5
"""Cosine with the float32 shadow below which a gradient points elsewhere."""

# What lasts.
DEAD_GRADIENT = 1e-8
"""A gradient smaller than this counts as absent."""
PERSISTENCE_STEPS = 100
REGION_STEPS = 50
REGION_FROM = 0.99
"""Share of the weights with a gradient that did not change over ``REGION_STEPS``: a zero-update region."""

# The rank of a layer's weights.
VARIANCE_SHARE = 0.99
"""Of |W|_F^2, that the singular values counted as the variance rank have to make up."""
RANK_WINDOW = 5
"""Measurements over which the fall of a rank is taken."""
RANK_FALL_FROM = 0.5
RANK_FALL_EXPOSED = 0.4
"""Share of its effective rank that a layer loses within the window, from which it warns; the second of layers
that no normalisation feeds.

Over 200 of 500 steps on real law, float32 at its best rate (1.8e-3) loses up to 0.12 in the one kind and 0.36
in the other (the head); at twice that rate, 0.25 and 0.41.
"""

END_WINDOW = 20
"""Values "at the end" of a run are means over this many last steps."""
