"""What a checkpoint alone can prove: what failed, where first, why, and what would have saved it.

opened        open a file and say how far it can be trusted
document      what a diagnosis says, part by part
step_again    the recorded step once more, as it was and under variations
provenance    the first tensor that was not finite, who produced it and who passed it on
mechanism     which stage is to blame, by bypassing one rounding at a time
failure       what failed and when
findings      the findings of a diagnosis, worst first
lead_time     which monitored quantity left its band first
layer_table   every layer in numbers, worst first
batch_report  the batch as text, with a loss per sample
against       another run at the same step
foreign       a state dict that altgrad did not write
diagnosis     all of it, as one document
"""
