"""Which weights enter the next blocks.

- `scores`: importance scores and initial masks; `candidates`: weights of largest and smallest score, not used recently.
- `groups`: N:M patterns; `schedule`: layers of the next blocks, and the number of kept weights along a run.
- `plan`: all of these by the settings of a run.
"""
