"""`jaxllm bench`: time and memory of training, generating and tokenizing, ours and another side's by turns.

Training (`jaxllm bench train`): `train` is the command, `train_recording` lets both sides take steps by turns,
`train_worker` is our side's process, `train_report` makes the figures and the table.
Whole runs to a loss (`jaxllm bench speedrun`): `speedrun` is the command, `speedrun_ours` and `speedrun_nanogpt` start
the two sides, `whole_run` times a process and follows its losses, `speedrun_report` and `speedrun_plot` show them.
Generating (`jaxllm bench generate`): `generate`, `generate_recording`, `generate_worker`, `generate_report` likewise.
Both use `workload` (the model that is timed, and what a peer requires of it), `alternate` (another program, and the
length of a turn), `commit` (another commit of ours), `sides` (starts both), `weights` (which both have), `process` (a
side's process), `statistics` (from seconds to figures) and `machine` (processor and versions). The processes of peers
are scripts in `peers/`.
`scaling` is `jaxllm bench attention`, `loss` and `sizes`; `tokenizer` is `jaxllm bench tokenizer`.
"""
