"""The recovery protocol of the ranks as pure functions: `step(state, event) -> (state, actions)`."""
