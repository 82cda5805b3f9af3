"""What is done about trouble: interventions, stop rules and alerts, fed by the engine with plain numbers.

Each class decides and remembers; none touches the training loop. Their ``state_dict`` holds plain values,
so that patience survives a resume.

    alerts     Warnings on threshold crossings: raised once, cleared once, and never a reason to stop
    clipping   Gradient clipping relative to a format's range, applied only while the range overflows
    collapse   Collapse without a NaN: a frozen model, a diverging loss, a loss that only rises
    fallback   The emergency shift: which format follows which, and when
    monitors   All of them for one run, saved with its checkpoints
    nonfinite  When non-finite steps end a run
    validation  Whether the validation loss still improves
"""
