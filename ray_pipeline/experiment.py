"""What the parts of an experiment on subsets call things in the run directory."""

#: Folder of the records that the trainings leave.
CELLS = "experiment/cells"
#: The list of all cells, without curves; there when all of them are finished.
INDEX = "experiment/cells.json"
#: Ends the name of a subset's random control.
CONTROL = "-random"
