"""Which stage, which role and which layers do the damage: runs that switch one thing off.

layers       Which role of which layers does the damage, where a run may well not fail as a whole
restoration  The same run with one role of some layers left in float32
roles        The runs that round some of a format's roles
stages       Which stage of training a format breaks
troubles     Where in the network rounding does damage: the layers whose measures cross a limit
"""
