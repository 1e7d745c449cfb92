"""The command lines `bpetok` and `lm`: parse, one library call, print.

Nobody imports this package. Heavy imports stand inside the commands, so that `--help` is quick.
"""
