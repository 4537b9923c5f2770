"""The world model: pure functions over (params, state, input, key). No camera, no PLC, no clock, no global state."""
