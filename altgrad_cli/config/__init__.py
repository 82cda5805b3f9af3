"""What a run depends on: frozen fields that check themselves, YAML with line numbers, overrides.

coercion      Builds any tree of frozen dataclasses from plain values, strictly: the declared type decides
data          What a user may say about data; everything is checked when it is said
limits        Rules that many fields share: a range with its ends, a format's name
loading       From a name or a file and ``key=value`` overrides to a checked ``TrainConfig``
memory        Bits that a configuration keeps of each weight
model         The shape of the GPT
precision     What a user may say about precision: the roles, the regimes, and the settings that name them
run           Everything a run depends on, as one frozen tree
update_rules  The update rules by name, with their memory and rate
yaml_tree     Reads YAML files into one nested dictionary of texts
"""
