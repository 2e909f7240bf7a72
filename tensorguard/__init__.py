"""TensorGuard: the library that agents, simulators and services share."""
