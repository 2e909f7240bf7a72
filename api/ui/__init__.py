"""The user interface: files that Vite built, and the policy that the browser holds them to."""
