"""The comparison of runs, section by section.

attribution_section  Which stage of training a format breaks
headline             What a comparison found, one sentence a run, before any table
loss_plots           Pictures of how well runs do: loss over steps, and recovered fraction with its spread
places_section       Sentences and tables that say which role of which layers does damage
plots                The pictures of a report, from its evidence: what is drawn, not how
sections             The sections of a comparison of runs
seeds                Arms that were run with several seeds
sweet_spot           Which format serves which kind of layer best, as far as the runs measured it
"""
