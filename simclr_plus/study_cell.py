"""studies/running/cell.py by the name that batch scripts of version 0.1.0 call: `python -m simclr_plus.study_cell`."""

from simclr_plus.studies.running.cell import main

if __name__ == "__main__":
    main()
