"""The advice against runs of every method at every rate: tasks, their runs as data, and policies judged on them.

task_list    the tasks, and which half of them no constant may be fitted to
methods      the methods, where the search for a rate begins, the rate of what they leave alone
step_times   the time of a step beside AdamW's
runs         one line for each training run
lengths      what twice the steps are worth
policies     what to do without knowing the rows, and what it would have come to
"""
