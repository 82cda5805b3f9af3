"""What an optimizer proposes before anything is overwritten.

rule            What every update rule offers (propose, commit, state); weight by weight, and round another
registry        Update rules by the names of ``optimizer.rule``
adamw           AdamW that computes a candidate beside the state instead of overwriting it
sgd             SGD with momentum, as torch has it
lion            Lion: the sign of an interpolated momentum
compensated     What rounding took from a weight is kept beside it and given back
eco             What rounding took from a weight goes back into the momentum
stiff_gradient  The gradient times the gap of the grid, before the base rule
geometric       Steps in codes and in octaves
any_torch       Any optimizer of torch.optim, by snapshot and roll-back
schedule        The learning rate at a step
flat            All parameters in one buffer
"""
