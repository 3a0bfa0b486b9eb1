"""Which test keeps which fault from coming back: the tuner's (E) and those of curvature and batch size (F).

One row per kind of fault, as a user met it, and the tests named after the kind; here it is only made sure that they are
there.
"""

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FAULTS = {
    "E1 a run of more than some 1,200 steps ends in an exception of a look": {
        "tuner/test_long_runs.py": ["test_every_measurement_of_a_long_run_succeeds", "test_ten_thousand_steps",
                                    "test_any_exception_of_the_loss_is_a_warning_that_names_it"],
        "tuner/test_trouble.py": ["test_a_product_that_fails_leaves_the_lr"],
    },
    "E2 with a frozen parameter it never tunes": {
        "tuner/test_no_trace.py": ["test_frozen_parameters_stay_and_the_rest_is_tuned",
                                   "test_tied_parameters_are_tuned",
                                   "test_a_failed_start_is_repeated_at_distances_that_double"],
    },
    "E3 parameters without a gradient are moved by trials": {
        "tuner/test_no_trace.py": ["test_a_whole_start_counts_nothing_twice_and_leaves_what_has_no_gradient"],
    },
    "E4 state that an optimizer keeps in its groups is lost": {
        "tuner/test_bases.py": ["test_state_in_the_groups_is_restored_with_the_rest",
                                "test_what_a_scheduler_writes_between_is_not_undone",
                                "test_who_adapts_its_own_lr_is_refused_by_name"],
    },
    "E5 what a plain optimizer has trained in between is undone": {
        "tuner/test_checkpoint.py": ["test_what_a_plain_base_has_trained_since_is_not_undone",
                                     "test_numbers_without_tensors_go_on_where_nothing_was_trained_since",
                                     "test_a_checkpoint_goes_on_in_the_plain_base"],
    },
    "E6 checkpoints hold the user's batch": {
        "tuner/test_no_trace.py": ["test_resume_is_exact_with_every_kind_of_batch_and_no_checkpoint_holds_one"],
        "tuner/test_killed.py": ["test_it_goes_on_as_if_nothing_had_happened", "test_every_phase_is_killed_in"],
        "tuner/test_checkpoint.py": ["test_resume_is_exact", "test_an_older_checkpoint_loads_or_says_why_not"],
    },
    "E7 torch.distributed.checkpoint does not take the tuner": {
        "tuner/test_checkpoint.py": ["test_distributed_checkpoints_take_it"],
        "tuner/test_sharded.py": ["test_decisions_are_those_of_one_process_and_resume"],
    },
    "E8 NaN for ever after a bold lr, a new group or one bad gradient": {
        "tuner/test_no_trace.py": ["test_one_gradient_that_is_not_finite_is_undone",
                                   "test_what_the_user_does_too_boldly_is_undone"],
        "tuner/test_trouble.py": ["test_a_bad_batch_is_undone",
                                  "test_two_blow_ups_quarter_the_lr_and_cost_no_more_than_the_steps_between_looks"],
    },
    "E9 looks are counted by metrics, buffers, hooks and random generators": {
        "callbacks/test_tuner_callback.py": ["test_metrics_buffers_and_hooks_count_every_step_once"],
        "tuner/test_no_trace.py": ["test_a_run_that_is_looked_at_is_to_the_bit_the_one_that_is_not"],
        "test_side_effects.py": ["test_numpys_generator_is_put_back_however_few_looks_have_drawn",
                                 "test_what_a_forward_pass_changes_in_a_module_is_put_back"],
    },
    "E10 maximised losses, optimizers of two gradients, two tuners with one loss": {
        "tuner/test_no_trace.py": ["test_a_loss_that_is_maximised_gives_the_mirrored_run",
                                   "test_groups_that_maximise_and_minimise_are_refused"],
        "tuner/test_bases.py": ["test_who_needs_two_gradients_is_refused_with_a_reason"],
        "callbacks/test_tuner_callback.py": ["test_two_tuners_see_each_their_own_loss",
                                             "test_two_tuners_with_one_loss_are_refused"],
    },
    "E11 monitors read the nominal lr": {
        "tuner/test_bases.py": ["test_stability_reads_the_lr_in_force",
                                "test_what_is_shown_is_in_force_and_what_is_written_meanwhile_counts"],
        "callbacks/test_tuner_callback.py": ["test_monitors_log_the_lr_in_force"],
    },
    "E12 losses in dictionaries and outputs, or none": {
        "tuner/test_no_trace.py": ["test_a_loss_is_found_in_what_is_returned",
                                   "test_no_loss_is_a_warning_now_and_then"],
    },
    "E13 thousands of groups, and a step with nothing to do": {
        "tuner/test_bases.py": ["test_an_idle_step_costs_next_to_nothing",
                                "test_ten_thousand_groups_are_tuned_at_the_price_of_some_steps"],
    },
    "E14 other training loops": {
        "integrations/test_other_loops.py": ["test_a_plain_loop_over_a_data_loader", "test_lightnings_trainer",
                                             "test_hugging_faces_trainer", "test_accelerates_loop"],
        "tuner/test_pages.py": ["test_a_block_runs"],
    },
    "F1 second derivatives that are wrong, intervals of zero width": {
        "curvature/test_whose_hessian.py": ["test_second_derivatives_that_are_not_symmetric_are_not_used",
                                            "test_the_tuners_products_notice_it_too",
                                            "test_a_zero_operator_has_no_interval_of_zero_width"],
    },
    "F2 micro-batches that do not add up to the batch": {
        "curvature/test_whose_hessian.py": ["test_micro_batches_that_are_not_the_whole_are_refused",
                                            "test_batches_of_their_own_need_not_add_up"],
    },
    "F3 the set of parameters with gradients changes": {
        "callbacks/test_noise_scale_parameters.py": [
            "test_parameters_without_a_gradient_now_and_then_are_no_error"],
    },
    "F4 an lr is written that nobody has measured, or half of a change": {
        "batch_size/test_rescaling.py": ["test_all_or_nothing", "test_decoupled_decay_is_seen",
                                         "test_what_no_study_has_measured_is_not_valid_and_not_raised",
                                         "test_above_the_noise_scale_nothing_is_raised"],
    },
    "F5 data whose first size is not the number of samples": {
        "curvature/test_whose_hessian.py": ["test_what_is_not_split_may_have_any_first_size",
                                            "test_encodings_go_in_and_outputs_with_a_loss_come_out"],
    },
    "F6 Hessians over data loaders, eigenpairs, Hutch++, shards": {
        "spectra/test_eigenpairs.py": ["test_over_a_data_loader_it_is_the_operator_of_all_data",
                                       "test_eigenpairs_are_those_of_the_dense_matrix",
                                       "test_hutchpp_has_the_trace_within_its_error"],
        "curvature/test_sharded.py": ["test_sharded_operators_are_those_of_one_process"],
    },
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_tests(fault):
    for file, names in FAULTS[fault].items():
        tree = ast.parse((HERE / file).read_text())
        assert set(names) <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
