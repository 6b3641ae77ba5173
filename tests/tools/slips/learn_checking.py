"""Mutations of what `jaxllm learn start` and `jaxllm learn check` do."""

from slips.mutation import Mutation

CHECK, DIAGNOSE, BAD, START = (f"learn/test_{name}.py" for name in ("check", "diagnose", "bad_input", "start"))
PARTS = "learn/test_parts_of_a_check.py"
SENTENCE = f"{BAD}::test_one_sentence_with_the_name_of_the_piece"
CHANGED = f"{DIAGNOSE}::test_the_result_is_changed"
ROOM = "train/learn/checking"

MUTATIONS = [
    Mutation("a piece checked without those that it imports", "train/commands/learn.py", "names = [*folder.needed(chosen), chosen]", "names = [chosen]", f"{CHECK}::test_an_earlier_wrong_piece_comes_first"),
    Mutation("no exit code for a wrong piece", "train/commands/learn.py", "return int(any(one.is_faulty for one in checked))", "return 0", f"{SENTENCE}[returns None]"),
    Mutation("pieces counted from 0", "train/learn/course.py", "ORDER.index(name) + 1:02", "ORDER.index(name):02", f"{START}::test_nothing_is_overwritten"),
    Mutation("only direct imports needed", "train/learn/folder.py", "left += self.imported(one)", "pass", f"{PARTS}::test_a_piece_needs_what_its_imports_import"),
    Mutation("a number of a piece counted from 0", "train/learn/folder.py", "ORDER[int(given) - 1]", "ORDER[int(given)]", f"{BAD}::test_missing_files_and_folders"),
    Mutation("a course of a later version taken", "train/learn/folder.py", "if version > VERSION:", "if version < VERSION:", f"{BAD}::test_folders_that_are_none"),
    Mutation("a learner's file overwritten", "train/learn/start.py", 'path.open("x"', 'path.open("w"', f"{START}::test_files_of_a_folder_that_is_no_course_are_kept"),
    Mutation("missing files in another language than the folder's", "train/learn/start.py", "lesson(name, folder.language)", 'lesson(name, language or "numpy")', f"{START}::test_nothing_is_overwritten"),
    Mutation("arguments in another order than the signature's", "train/learn/piece.py", "tuple(next(self.cases(np.random.default_rng(0))))", "tuple(sorted(next(self.cases(np.random.default_rng(0)))))", f"{START}::test_a_lesson_has_the_functions_of_the_piece_with_empty_bodies[layer_norm]"),
    Mutation("late taken for early", f"{ROOM}/axes.py", '"late": (slice(1, None), slice(None, -1))', '"late": (slice(None, -1), slice(1, None))', CHANGED),
    Mutation("a reshape looked for without a transpose", f"{ROOM}/axes.py", "pair.equal(moved.reshape(pair.mine.shape))", "pair.equal(pair.right.reshape(pair.mine.shape))", CHANGED),
    Mutation("cases in the order in which they are made", f"{ROOM}/calls.py", "    cases.sort(key=lambda case: case.size)\n", "", f"{PARTS}::test_the_smallest_case_comes_first"),
    Mutation("a call that may change the arguments of a case", f"{ROOM}/calls.py", "list(deepcopy(arguments).values())", "list(arguments.values())", f"{PARTS}::test_a_call_leaves_the_arguments_as_they_were"),
    Mutation("inputs that no seed makes again", f"{ROOM}/check.py", "np.random.default_rng([seed, ORDER.index(name), number])", "np.random.default_rng()", f"{PARTS}::test_a_seed_makes_the_inputs_of_a_piece_whichever_others_are_checked"),
    Mutation("a piece in part not written taken as faultless", f"{ROOM}/check.py", '("broken", "wrong", "not written") if state in', '("not written", "broken", "wrong") if state in', f"{PARTS}::test_the_worst_function_is_the_state_of_a_piece"),
    Mutation("a learner's file in the place of a module of Python's", f"{ROOM}/child.py", '[sys.executable, "-P", "-m"', '[sys.executable, "-m"', f"{CHECK}::test_the_folder_is_by_default_the_working_one"),
    Mutation("a signal taken for an exit code", f"{ROOM}/child.py", 'by signal {-code}" if code < 0 else', 'by signal {-code}" if code > 128 else', f"{SENTENCE}[a crash]"),
    Mutation("rounding at the size of each number", f"{ROOM}/compare.py", '* largest + LEAST', '* np.abs(right) + LEAST', f"{DIAGNOSE}::test_equal_results"),
    Mutation("NaN right everywhere", f"{ROOM}/compare.py", "| (np.isnan(right) & np.isnan(mine))", "| np.isnan(mine)", f"{DIAGNOSE}::test_different_results"),
    Mutation("a slip that explains one case of many", f"{ROOM}/diagnose.py", "return all(_same(attempted(wrong, case), attempt)", "return any(_same(attempted(wrong, case), attempt)", f"{DIAGNOSE}::test_a_changed_case_alone_is_no_pattern"),
    Mutation("two slips in the order of their composition", f"{ROOM}/diagnose.py", "one, other = sorted((one, other), key=function.slips.index)", "pass", f"{DIAGNOSE}::test_slips_and_two_of_them"),
    Mutation("a list of integers taken for numbers alone", f"{ROOM}/diagnosis.py", "list | tuple) and not (tree and all(type(item) is int for item in tree)):", "list | tuple):", f"{DIAGNOSE}::test_integers"),
    Mutation("too large taken for too small", f"{ROOM}/fits.py", "'large' if offset > 0", "'large' if offset < 0", CHANGED),
    Mutation("no factor that is a root", f"{ROOM}/fits.py", "Fraction(-1, 2), Fraction(1, 2), Fraction(1),", "Fraction(-1, 2), Fraction(1),", CHANGED),
    Mutation("one gradient taken for all", f"{ROOM}/gradients.py", "if len(found) == count and count > 1 else", "if count > 1 else", f"{DIAGNOSE}::test_gradients"),
    Mutation("a factor of a gradient upside down", f"{ROOM}/gradients.py", "/ np.vdot(right, right)", "/ np.vdot(mine, mine)", f"{DIAGNOSE}::test_gradients"),
    Mutation("a table that begins at the first difference", f"{ROOM}/grids.py", "min(index - MOST // 2, length - MOST)", "min(index, length - MOST)", f"{PARTS}::test_the_first_difference_is_in_the_table"),
    Mutation("too few digits to see the difference", f"{ROOM}/grids.py", "if _number(mine[centre], n) != _number(right[centre], n)), DIGITS[-1])", "if n), DIGITS[-1])", f"{PARTS}::test_the_first_difference_is_in_the_table"),
    Mutation("arrays counted where numbers are many", f"{ROOM}/grids.py", "sum(np.size(leaf) for leaf in leaves_of(value))", "len(leaves_of(value))", f"{PARTS}::test_of_many_parameters_the_shapes_are_shown"),
    Mutation("a refused event forgotten where the exception is caught", f"{ROOM}/guards.py", "self.touched = self.touched or does", "pass", f"{SENTENCE}[hides that it writes]"),
    Mutation("every file of the folder read", f"{ROOM}/guards.py", 'allowed = real.endswith((".py", ".pyc"))', "allowed = True", f"{SENTENCE}[reads beside itself]"),
    Mutation("a learner's function given the only copy", f"{ROOM}/languages.py", "return x.copy()", "return x", f"{BAD}::test_a_change_in_place_is_a_note"),
    Mutation("an argument in the place of a gradient that there is not", f"{ROOM}/languages.py", "with_floats(arguments, found, lambda leaf: None)", "with_floats(arguments, found)", f"{PARTS}::test_gradients_of_what_has_them"),
    Mutation("a row that allows little taken for an empty one", f"{ROOM}/nonfinite.py", "~mask.any(axis=-1)", "~mask.all(axis=-1)", f"{DIAGNOSE}::test_numbers_that_are_not_finite"),
    Mutation("no number large", f"{ROOM}/nonfinite.py", "np.abs(x).max() > LARGE", "x.min() < -LARGE", f"{DIAGNOSE}::test_numbers_that_are_not_finite"),
    Mutation("one of two slips alone", f"{ROOM}/pairs.py", "partial(first.func, **first.keywords, **second.keywords)", "partial(first.func, **first.keywords)", f"{DIAGNOSE}::test_slips_and_two_of_them"),
    Mutation("a slip after the result left out of two", f"{ROOM}/pairs.py", "return outer.after(result, arguments) if outer.after else result", "return result", f"{DIAGNOSE}::test_slips_and_two_of_them"),
    Mutation("a right piece named as the next", f"{ROOM}/report.py", 'if one.state != "right"), None)', "), None)", f"{PARTS}::test_the_map_and_what_is_said_of_each_piece"),
    Mutation("the consequences of an earlier fault told unasked", f"{ROOM}/report.py", "        if not asked:\n            return\n", "", f"{PARTS}::test_the_map_and_what_is_said_of_each_piece"),
    Mutation("all lines of a recursion", f"{ROOM}/runner.py", "lines = [*lines[: DEEPEST // 2], *lines[-DEEPEST // 2 :]]", "pass", f"{BAD}::test_a_recursion_is_cut"),
    Mutation("sys.exit taken for any exception", f"{ROOM}/runner.py", '"exit" if isinstance(error, SystemExit) else "raised"', '"raised"', f"{SENTENCE}[sys.exit]"),
    Mutation("a tuple made a list", f"{ROOM}/trees.py", "return tuple(items) if isinstance(tree, tuple) else items", "return items", f"{SENTENCE}[a tuple]"),
    Mutation("a place from its end", f"{ROOM}/trees.py", "places(item, (*place, name))", "places(item, (name, *place))", f"{PARTS}::test_the_places_of_a_tree_begin_at_the_top"),
    Mutation("bytes of an array in the machine's order", f"{ROOM}/wire.py", 'value.astype(value.dtype.newbyteorder("<")).tobytes()', "value.tobytes()", f"{PARTS}::test_an_array_of_the_other_order_of_bytes"),
    Mutation("a tuple sent as a list", f"{ROOM}/wire.py", '"tuple" if isinstance(value, tuple) else "list"', '"list"', f"{PARTS}::test_a_value_comes_back_as_it_was"),
    Mutation("an array of any size sent", f"{ROOM}/wire.py", "if value.size > MOST_NUMBERS:", "if value.ndim > MOST_NUMBERS:", f"{PARTS}::test_what_is_too_large_is_not_sent"),
    Mutation("a list of any length sent", f"{ROOM}/wire.py", "if len(value) >= MOST_NUMBERS:", "if False:", f"{PARTS}::test_what_is_too_large_is_not_sent"),
]  # fmt: skip
