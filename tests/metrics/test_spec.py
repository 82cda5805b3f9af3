"""Ratios, pooling, and the catalogue's promise of one name, one unit, one definition."""

from __future__ import annotations

import math

from altgrad_cli.metrics import catalogue
from altgrad_cli.metrics.catalogue import METRICS, heading_of, spec_of
from altgrad_cli.metrics.spec import ratio


def test_ratio_of_nothing_is_undefined():
    assert ratio(0, 0) is None
    assert ratio(0, 4) == 0.0
    assert math.isnan(ratio(math.nan, 4))
    assert math.isnan(ratio(1, math.nan))


def test_every_metric_without_a_formula_says_how_its_layers_are_pooled():
    assert not [
        spec.name
        for spec in METRICS.values()
        if spec.scope != "run" and not spec.formula and spec.pooling == "counts"
    ]


def test_the_heading_of_a_column_names_the_role():
    assert heading_of("overflow_rate/gradients") == "overflow G"
    assert heading_of("update_transfer") == "tau"
    assert heading_of("gradient_norm") == "gradient norm"


def test_every_metric_is_named_once_and_fully_described():
    named = [spec.name for group in catalogue._GROUPS for spec in group]
    shared = {"zero_update_fraction", "update_norm"}  # the same spec, for stored weights and for masters
    assert sorted(named) == sorted([*METRICS, *shared])
    for name, spec in METRICS.items():
        assert spec.name == name
        assert "/" not in name
        assert spec.unit
        assert len(spec.definition) > 5


def test_the_spec_of_a_role_metric_is_found_by_its_key():
    assert spec_of("overflow_rate/gradients") is METRICS["overflow_rate"]
    assert spec_of("loss") is METRICS["loss"]
    assert spec_of("no_such_metric") is None


def test_the_measures_of_the_design_are_all_there():
    expected = {
        *("overflow_rate", "clipped_rate", "underflow_rate", "subnormal_fraction", "nonfinite_inputs"),
        *("mean_rounding_error", "bit_stall_rate", "apparent_stall_rate", "zero_update_fraction"),
        *("persistent_stall_rate", "flip_rate", "sign_flip_rate", "rescale_flip_rate", "ulp_mean"),
        *(
            "update_transfer",
            "predicted_stall_rate",
            "first_step_stall_rate",
            "stiffness_mean",
            "grid_error_mean",
        ),
        *("gradient_stiffness_correlation", "gradient_below_stiffness", "gradient_below_half_gap"),
        *("gradient_cosine", "gradient_sqnr", "gradient_norm_ratio", "gradient_sign_agreement"),
        *("gradient_norm", "gradient_linf", "gradient_sparsity", "dead_neurons", "nonfinite_gradients"),
        *("codes_used", "code_entropy", "top_binade_share", "zero_share", "nan_share"),
        *("loss", "validation_loss", "validation_loss_master", "perplexity", "learning_rate"),
        *("tokens_per_second", "recovered_fraction"),
    }
    assert expected <= set(METRICS)
