"""`python -m bpetok`: the command line."""

from cli.bpetok import main

main()
