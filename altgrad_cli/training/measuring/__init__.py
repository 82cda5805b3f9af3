"""From raw counts on the device to named metrics on the host.

codes    Which codes operands and stored weights use: whole histograms, on diagnostic steps only
passes   From raw counts on the device to named metrics on the host, with one read per phase of the step
reduce   Where counts of workers, layers and roles become one
updates  What an update does to the weights, measured before it is committed
"""
