"""What the field has published and a laptop can test: each claim with its source, its bounds and its test.

bench              The small runs that claims share, and what is read of several together
block_scales       What the Hadamard transform does for gradients, and clamped gains
claim              A claim: sentence, source, conditions, how it is measured
every              All claims, by name
formats_compared   The pair of FP8, saturation, how bits are best divided
judgement          Conditions, what was measured of them, and the verdict
making             Makes these runs, several at a time
measured           Claims measured as their runs come in
rounded_gradients  Bias, powers of two, noise against signal
stored_weights     Which updates are lost, and what brings them back
"""
