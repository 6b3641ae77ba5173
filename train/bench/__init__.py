"""`jaxllm bench`: training steps timed, ours and another program's by turns.

`command` leads, `subject` is what is timed, `processes` are those that take the steps (`worker` is ours, the others'
are in `train.bench.peers`), `measures` makes figures of seconds and `report` shows them.
"""
