//! Replication tasks from one end to the other, as a user runs them.
//!
//! What may go wrong between two databases, by the numbers of the list that the engine was designed
//! with, and which test meets it. Of MySQL, MariaDB and object stores nothing is followed here, so
//! that their numbers are missing: 4, 21, 22, 40 to 43, 48, 53, 62, 63, 78 to 83, 87, 100 to 106.
//!
//! Tests without a folder are in this one; `load` are those beside it; `postgres` and `it` are
//! folders of `dms-connectors/tests`; `cdc` is `dms-cdc`.
//!
//! | No. | What | Test |
//! |---|---|---|
//! | 1, 2 | writes while the load begins and goes on | `postgres/changes/meet`: `snapshots_and_feed_meet_under_writers` |
//! | 3 | commits that wait for a standby | none: the snapshot is that of a slot, which waits for them |
//! | 5 | an open transaction at the start | `points`: `a_run_that_waits_for_the_source_can_be_stopped`; `postgres/changes/meet` |
//! | 6 | a prepared transaction at the start | none |
//! | 7, 8 | TRUNCATE, rewrites and ALTER during the load | `postgres/altered`; `ddl`: `changes_of_columns_during_the_load_are_followed` |
//! | 9, 10 | a death in the load and between rows and record | `load`: `crash`, `kill`; `ddl`, with changes meanwhile, at one point |
//! | 11 | a hand-over without changes | `tables`, `points`: each first run that catches up |
//! | 12 | one table's failure and the others | `ddl`: `a_table_is_suspended_if_the_policy_says_so` |
//! | 13 to 17 | loads in chunks of their own positions | none: all rows are of one snapshot |
//! | 18 | partitioned tables | `postgres/changes/operations`: `partitioned_tables_are_one_table` |
//! | 19 | ranges of pages of empty and growing tables | `postgres/types`, `postgres/snapshot`: loads alone |
//! | 20 | filters and columns alike in load and changes | `mapping` |
//! | 23 | REPLACE in SQLite | `it/workload` |
//! | 24 | a connection of the snapshot that dies | `postgres/bad_input`: `a_cut_connection_is_an_error_and_no_loss` |
//! | 25 | stops before and after cached changes | `points`: `a_run_ends_after_the_load_and_goes_on_from_there` |
//! | 26 | empty tables; ten thousand tables | none with changes |
//! | 27 | tables added, removed, added again, loaded again | `tables` |
//! | 28 | a death at every step | `bank`; of targets: `it/apply`, `postgres/apply_failures` |
//! | 29 | deaths at random with sums that have to hold | `bank` |
//! | 30 | a cut at the COMMIT | `postgres/apply_failures`: `a_cut_at_the_commit_is_told_by_the_position` |
//! | 31, 32 | a target that does not answer, and a stop meanwhile | `points`: `a_run_can_be_stopped_while_the_target_waits` |
//! | 33 | two runs of a task | `failures`: `of_two_runs_of_a_task_one_ends` |
//! | 34, 49 | a feed cut in a transaction | `postgres/changes/resume`: `a_feed_that_is_cut_goes_on_without_loss_or_doubling` |
//! | 35 | messages in the log | `postgres/changes/operations`: `odd_names_and_foreign_messages` |
//! | 36, 38 | a slot dropped, or made again under its name | `failures`: `a_slot_that_was_dropped_is_told` |
//! | 37 | a position that the slot has passed | `points`: `changes_alone_begin_at_a_position` |
//! | 39 | a slot that lost its log | `failures`: `a_log_that_was_cut_off_is_told` |
//! | 44 | a source older than the target | `failures`: `a_source_that_was_replaced_by_another_is_told`, of SQLite |
//! | 45, 46 | timelines, standbys | `postgres/changes/failover` |
//! | 47 | a server that shuts down while it is followed | `points`: `a_run_can_be_stopped_while_the_source_is_away` |
//! | 50 | a target set back to an older copy | none |
//! | 51 | slow and half-open networks | none |
//! | 52 | nothing taken for longer than the server waits | `postgres/changes/resume`: `a_consumer_that_waits_is_waited_for` |
//! | 54 | a target away for long | `failures`: `changes_that_wait_on_disk_survive_a_kill`, for seconds |
//! | 55, 56 | a full disk, a failed sync | `cdc/buffer`: `faults`; `failures`: `a_full_spill_folder_is_treated_as_the_policy_says` |
//! | 57 | damaged and missing files of waiting changes | `failures`: `changes_on_disk_that_are_damaged_or_gone_are_told`; `cdc/buffer`: `crash` |
//! | 58 | transactions larger than the memory | `postgres/changes/resume`: `a_large_transaction_comes_in_parts`; `failures`, 12 MB with 1 MB |
//! | 59 | savepoints and rollbacks | `postgres/changes/operations`: `truncates_savepoints_and_rollbacks` |
//! | 60 | rows of many megabytes | `postgres/apply_values`: `many_and_large_rows_come_in_parts` |
//! | 61 | rows too large for the target | none |
//! | 64 | clocks that jump | none: no clock orders anything |
//! | 65 | memory | `cdc/buffer`: `ten_million_changes_stay_within_the_memory` |
//! | 66 | ten thousand idle tables | none |
//! | 67 | traffic of other databases | `postgres/changes/resume`: `an_idle_database_does_not_hold_back_the_log` |
//! | 68, 69 | every replica identity, rows that are alike | `postgres/changes/operations`; `mapping`: table `whole` |
//! | 70 | rows that nothing identifies | `failures`: `a_table_whose_rows_nothing_identifies_is_refused`; `tables`, while a task runs |
//! | 71 | large values that did not change | `postgres/changes/operations`; `mapping` |
//! | 72 | several changes of a row in a batch | `cdc/net`: `net_changes_equal_replay` |
//! | 73, 74 | unique values and keys that swap | `postgres/apply`, `it/apply`; `mapping` |
//! | 75 | foreign keys and triggers of the target | `postgres/apply_failures`: `triggers_and_foreign_keys_of_the_target_do_not_act` |
//! | 76 | TRUNCATE | `ddl`: `a_table_that_is_emptied_is_treated_as_the_policy_says` |
//! | 77 | loops between two tasks | none |
//! | 84 | rows of an old shape behind a new one | `postgres/changes/shapes`: `a_feed_that_is_behind_reads_rows_as_they_were`; `ddl` |
//! | 85 | ALTER and rows in one transaction, and a death | none |
//! | 86 | columns added, dropped, renamed, of another type, of the same name again | `ddl`; `postgres/changes/ddl`: at their place in the log |
//! | 88 | partitions attached and detached | of loads: `postgres/altered`; of changes: none |
//! | 89 | labels of enums that come | none |
//! | 90 | odd names | `postgres/changes/operations`: `odd_names_and_foreign_messages` |
//! | 91, 93 | every type, the ends of their ranges | `postgres/changes/values`, `postgres/apply_values` |
//! | 92 | texts in no encoding | `postgres/encoding`: loads alone |
//! | 94, 95 | values that the target does not hold | `postgres/whole_rows`: loads alone |
//! | 96, 98 | changes that the target refuses, rows that others wrote or removed | `failures`: `a_target_that_was_written_by_others_is_treated_as_the_policies_say` |
//! | 97 | constraints that the source does not have | none |
//! | 99 | a key's column left out | `it/changes`: `tables_that_cannot_be_followed_are_refused_by_name` |

mod ddl;
mod failures;
mod mapping;
mod points;
mod tables;
mod task;
mod transactions;
