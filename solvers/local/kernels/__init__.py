"""Compiled kernels. Importing one of these modules imports numba; solvers do so when they first work.

Every kernel keeps all it needs to go on in arrays that it is given, its random stream too, so it may stop after any
number of steps and go on later as if it had not: how often a solver looks at the clock never changes an answer.
"""
