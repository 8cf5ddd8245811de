"""`python -m d2st` is the `d2st` command."""

from d2st.cli import main

if __name__ == "__main__":
    main()
