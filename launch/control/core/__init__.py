"""What the ranks decide when one of them is lost, as pure functions: `step(state, event) -> (state, actions)`."""
