"""Training by several processes, which `torchrun` starts: see `saes.team` for what a team is asked.

`processes` what every team of several can do; `rows` and `latents` the two ways to divide the work; `harvest` how the
model's work is divided; `joining` how a process comes to its team.
"""
