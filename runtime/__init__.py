"""The thin loop beside the PLC: camera, `watch`, alarm, PLC; and the embedded line to try it on."""
