"""`python -m lm`: the command line of lm.

The one arrow that points up (lm to cli): the door stands here, the rooms are in `cli`.
"""

if __name__ == "__main__":
    from cli.lm import main

    main()
