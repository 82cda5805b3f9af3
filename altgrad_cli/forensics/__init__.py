"""What a checkpoint alone can prove: what failed, where first, why, and what would have saved it.

opened           open a file and say how far it can be trusted
document         what a diagnosis says, part by part
scene            the state before the recorded step, rebuilt; and variations of it
attempt          that step once more, under a variation, and what came out
provenance       the first tensor that was not finite, who produced it and who passed it on
replay           the step in a new process, tensor by tensor against the recorded trace
mechanism        which stage is to blame, by bypassing one rounding at a time
counterfactuals  what would have saved the step
bisection        the smallest set of layers that must leave the 8-bit grid
failure          what failed and when
findings         the findings of a diagnosis, worst first
replay_process   the process in which a replay runs
lead_time        which monitored quantity left its band first
layer_table      every layer in numbers, worst first
batch_report     the batch as text, with a loss per sample
against          another run at the same step
foreign          a state dict that altgrad did not write
diagnosis        all of it, as one document
"""
