"""What is done about trouble: interventions, stop rules and alerts, fed by the engine with plain numbers.

Each class decides and remembers; none touches the training loop. Their ``state_dict`` holds plain values,
so that patience survives a resume.
"""
