"""How far it carries: assumptions and measured costs -> a simulated fleet, and the machines that a country needs.

    demand      what a country asks and changes: `demand.toml`
    costs       what a delta costs a replica, measured here
    engine      what a message costs the engine, measured here with real NATS servers
    fleet       the simulation: relay, engine, replicas. Pure arithmetic
    capacity    queries, memory and disk, from the results of `python -m bench`
    tables      what all that says, as Markdown; `chart` draws a part of it

`python -m bench.scale` measures, simulates and keeps; with `--table` it prints what is kept.
"""
