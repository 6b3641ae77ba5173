"""Mutations of `jaxllm plan`."""

from slips.mutation import Mutation

PLAN = "commands/test_plan.py"

MUTATIONS = [
    Mutation("a loop without stated trips counted once", "train/plan/hlo.py", "return int(limits[0]) if len(limits) == 1 and limits[0].isdigit() else 1", "return 1", f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("padding of a TPU's product multiplied", "train/plan/costs.py", "sum(0 <= place <= (length - 1) * dilated and place % dilated == 0 for place in places)", "sum(0 <= place for place in places)", f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("the core's memory counted as the device's", "train/plan/hlo.py", '"S(1)" in (layout or "")', "False", f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("an all-reduce as long as half of it", "train/plan/costs.py", '"all-reduce": 2 * (n - 1) / n', '"all-reduce": (n - 1) / n', f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("what a fusion sends left out", "train/plan/costs.py", 'yield from collectives(program, body, inside, name.startswith("all-reduce-scatter"))', "pass", f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("a reduce-scatter of a TPU counted as its all-reduce", "train/plan/costs.py", 'yield "reduce-scatter" if scattered else opcode, computation, one', "yield opcode, computation, one", f"{PLAN}::test_a_program_of_a_tpu"),
    Mutation("whole arrays read where slices are", "train/plan/costs.py", 'if user.opcode in ("dynamic-slice", "slice", "gather") and', 'if user.opcode == "gather" and', f"{PLAN}::test_products_and_traffic_of_a_loop"),
    Mutation("groups of the other axis", "train/plan/rings.py", "if name in chosen:", "if name not in chosen:", f"{PLAN}::test_the_first_ring_of_a_collective[replica_groups=mesh['data'=2,'fsdp'=4] {{'data'}}-ids3]"),
    Mutation("products and traffic at the same time", "train/plan/roofline.py", "one.times * max(products_s, one.memory / chip.memory_per_s)", "one.times * products_s", f"{PLAN}::test_time_by_the_model"),
    Mutation("small products at the peak", "train/plan/chips.py", "* self.reached.at(flops / elements))", ")", f"{PLAN}::test_time_by_the_model"),
    Mutation("products without elements", "train/plan/costs.py", "elements=sum(elements for _, elements in found)", "elements=1", f"{PLAN}::test_products_and_traffic_of_a_loop"),
    Mutation("the plan's error over the plan", "train/bench/plan.py", '"error": said / whole - 1', '"error": 1 - whole / said', "bench/test_bench_plan.py::test_the_table"),
    Mutation("a whole step of few blocks", "train/bench/plan_worker.py", "subject.lower(subject.model.n_layers)", "subject.lower(3)", "bench/test_bench_plan.py::test_the_whole_step_has_all_blocks"),
    Mutation("one adapter for a node", "train/plan/chips.py", "across = moved * (1 - 1 / nodes) / (1 - 1 / n) / together", "across = moved * (1 - 1 / nodes) / (1 - 1 / n)", f"{PLAN}::test_time_by_the_model"),
    Mutation("a line through the wrong depth", "train/plan/roofline.py", "(n - blocks[0]) / (blocks[1] - blocks[0])", "(n - blocks[1]) / (blocks[1] - blocks[0])", f"{PLAN}::test_two_depths_give_the_whole_step"),
    Mutation("a parameter held whole", "train/plan/compiled.py", "leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)", "leaf.shape", f"{PLAN}::test_the_command"),
    Mutation("as many devices as the machine has", "train/plan/process.py", '"JAX_NUM_CPU_DEVICES": str(job["n_devices"])', '"JAX_NUM_CPU_DEVICES": "1"', f"{PLAN}::test_the_command"),
    Mutation("all devices in a message", "train/plan/process.py", 'return last if len(last) <= MOST_CHARACTERS else printable(last.partition(":")[0])', "return last", f"{PLAN}::test_a_process_that_died_is_quoted_without_its_devices"),
    Mutation("one plan for TPUs at a time", "train/plan/process.py", '"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", ', "", f"{PLAN}::test_libtpu_compiles_for_several_plans_at_once", "KeyError"),
    Mutation("a slice of any shape", "train/commands/plan.py", "return kind, topology_of(CHIPS[kind], shape, n_devices)", "return kind, shape", f"{PLAN}::test_wrong_input_is_one_sentence[--kind v5e --devices 60-the nearest are 32 and 64]"),
    Mutation("idle devices left out of a plan", "train/commands/plan.py", '"idle": describe_idle(chosen, n_devices, config.train)', '"idle": []', f"{PLAN}::test_idle_devices_are_named_where_one_is_used"),
    Mutation("one device where [parallel] has more", "train/commands/plan.py", "a.devices if a.devices is not None else laid_out_for(config.parallel)", "a.devices or 1", f"{PLAN}::test_the_command"),
    Mutation("transfers that take no time", "train/commands/plan.py", 'step_s = content["local_s"] + content["links_s"]', 'step_s = content["local_s"]', f"{PLAN}::test_the_command"),
    Mutation("no word on what the time leaves out", "train/commands/plan_report.py", '        f"left out: {below}other arithmetic, latencies, congestion, data, evaluation, checkpoints",\n', "", f"{PLAN}::test_the_command"),
]  # fmt: skip
