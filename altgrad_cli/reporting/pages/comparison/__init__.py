"""The comparison of runs, section by section.

answer               How a comparison opens: its answer in a few sentences, one picture, one table
attribution_section  Which stage of training a format breaks
headline             What a comparison found, one sentence a run, before any table
layers_section       Sentences and tables that say which role of which layers does damage
plots                What a report draws: losses, rates by layer and step, use of codes, predictions, spread
rules_section        Which format gains from which update rule, at how many bits a weight
sections             The sections of a comparison of runs
seeds                Arms that were run with several seeds
tuning_section       Learning rates that were tried, and what every arm at its best one loses against float32
"""
