"""The embedded default plant: a simulated cartoning line with its camera and its PLC."""
