"""The advice against runs of every method at every rate: tasks, their runs as data, and policies judged on them.

task_list, tasks/       the tasks, and which half of them no constant may be fitted to
methods, recipes        the methods, their search for a rate, and the recipe of a run
step_times, runs, rows  the time of a step beside AdamW's; training; one line for each run
lengths                 what twice the steps are worth
prior, as_written       what is known without a race, and what `subopt recommend` writes
outcomes, races         what the runs of a task came to; successive halving on their curves
designs, policies       what one could do without knowing how the runs end
score, prefixes         how far that stays behind, and what the first part of a run tells
"""
